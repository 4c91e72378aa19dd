//! Responses that say nothing about a key, in place of those of a service.

use std::sync::{Mutex, MutexGuard, PoisonError};

use kms_conformance::{Interference, Misled};

use super::{Request, Response};

/// Replaces responses of a service while a test says so.
///
/// It knows the habits of proxies, gateways and captive portals, and of servers that hold a response back. A test adds
/// those of its own service: every response that is not that service's explicit not-found.
#[derive(Debug)]
pub struct Interferer(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    habits: Vec<(&'static str, Response)>,
    spared: Vec<&'static str>,
    current: Option<(usize, Misled)>,
}

impl Interferer {
    /// An interferer that replaces nothing yet.
    pub fn new() -> Self {
        Self(Mutex::new(Inner { habits: common_habits(), spared: Vec::new(), current: None }))
    }

    /// Adds a response of which the service is capable.
    pub fn add(&self, habit: &'static str, response: Response) {
        self.lock().habits.push((habit, response));
    }

    /// Removes a response that is the service's own for some requests.
    pub fn remove(&self, habit: &str) {
        self.lock().habits.retain(|(known, _)| *known != habit);
    }

    /// Passes reads on if their path contains this.
    pub fn spare(&self, path: &'static str) {
        self.lock().spared.push(path);
    }

    /// The response to send in place of the service. `None` if the request is for the service.
    pub(in crate::fake) fn response(&self, request: &Request) -> Option<Response> {
        let inner = self.lock();
        let (habit, misled) = inner.current?;
        let read = matches!(request.method.as_str(), "GET" | "LIST")
            && !inner.spared.iter().any(|path| request.path.contains(path));
        (read || misled == Misled::Everything).then(|| inner.habits[habit].1.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Interferer {
    fn default() -> Self {
        Self::new()
    }
}

impl Interference for Interferer {
    fn habits(&self) -> Vec<&'static str> {
        self.lock().habits.iter().map(|(habit, _)| *habit).collect()
    }

    fn begin(&self, habit: usize, misled: Misled) {
        self.lock().current = Some((habit, misled));
    }

    fn end(&self) {
        self.lock().current = None;
    }
}

/// The habits that a test meets in front of every service, each with its name.
pub fn common_habits() -> Vec<(&'static str, Response)> {
    const HTML: &str = "<!DOCTYPE html><html><title>Sign in</title></html>";

    vec![
        ("an empty 200", Response::status(200)),
        ("a 204", Response::status(204)),
        ("a 200 that is null", Response::json(200, "null")),
        ("a 200 that is an empty list", Response::json(200, "[]")),
        ("a 200 that is an empty object", Response::json(200, "{}")),
        ("a 200 with data that is null", Response::json(200, r#"{"data":null}"#)),
        ("a 200 with a value that is null", Response::json(200, r#"{"value":null,"items":null}"#)),
        ("a 200 in HTML, of a captive portal", Response::html(200, HTML)),
        ("the redirect of a captive portal", Response::html(302, HTML).header("location", "/sign-in")),
        ("an empty 401", Response::status(401)),
        ("an empty 403", Response::status(403)),
        ("the 401 of a gateway", Response::json(401, r#"{"message":"Unauthorized"}"#)),
        ("the 403 of a gateway", Response::json(403, r#"{"message":"Forbidden"}"#)),
        ("the 407 of a proxy", Response::status(407).header("proxy-authenticate", "Basic realm=\"office\"")),
        ("an empty 404", Response::status(404)),
        ("a 401 in HTML", Response::html(401, HTML)),
        ("a 403 in HTML", Response::html(403, HTML)),
        ("a 404 in HTML", Response::html(404, HTML)),
        (
            "a 404 in plain text",
            Response::status(404).header("content-type", "text/plain").body("not found\n"),
        ),
        ("a 404 that is null", Response::json(404, "null")),
        ("a 404 that is an empty object", Response::json(404, "{}")),
        ("a 404 whose errors are null", Response::json(404, r#"{"errors":null}"#)),
        ("the 404 of a gateway", Response::json(404, r#"{"message":"no Route matched with those values"}"#)),
        ("the 404 of a web framework", Response::json(404, r#"{"error":"Not Found","status":404}"#)),
        ("the 404 of another service", Response::json(404, r#"{"error":{"code":"ResourceNotFound"}}"#)),
        (
            "the 404 of another API",
            Response::json(404, r#"{"error":{"code":404,"message":"not found","status":"NOT_FOUND"}}"#),
        ),
        ("an empty 410", Response::status(410)),
        ("a 410 in HTML", Response::html(410, HTML)),
        ("a 502 in HTML", Response::html(502, HTML)),
        ("a 503 in HTML", Response::html(503, HTML)),
    ]
}
