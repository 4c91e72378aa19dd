//! The one table from responses of the API server to (cause, kind, retry).

use std::{error::Error as StdError, fmt, io, time::Duration};

use http::StatusCode;
use kms_core::{Error, ErrorKind, Retry};
use kms_response::WebPage;
use kms_tls::{Handshakes, fault::fault, needs_proxy_credentials};
use kube::core::Status;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{secret::Base64, token_file::TokenFileError, transport::NAMES};

/// The user name of a request without credentials.
const ANONYMOUS: &str = "system:anonymous";

/// The longest quote of a message of the server, in characters.
const MAX_QUOTED: usize = 300;

/// The number of consecutive bytes of a value that a message may contain by chance.
const MAX_REPEATED: usize = 8;

/// The text with which Go's HTTP server refuses a path that it does not know.
const UNKNOWN_PATH: &[u8] = b"404 page not found";

/// The cause of a refused write while the namespace is being deleted.
const NAMESPACE_TERMINATING: &str = "NamespaceTerminating";

/// The cause of a refused apply when another manager has set a field to another value.
const OTHER_MANAGER: &str = "FieldManagerConflict";

/// The number of fields of other managers that a message names.
const MAX_FIELDS: usize = 5;

/// The verb and the object of a request, for messages.
#[derive(Clone, Copy)]
pub(crate) struct Target<'a> {
    /// The verb of RBAC.
    pub(crate) verb: &'static str,
    /// The API group of the resource; the core group has no name.
    pub(crate) group: &'static str,
    /// The resource of RBAC.
    pub(crate) resource: &'static str,
    /// The namespace; `None` for a resource without namespaces.
    pub(crate) kube_namespace: Option<&'a str>,
    /// The object; `None` for all of them.
    pub(crate) name: Option<&'a str>,
    /// The values in the object, which no message may quote.
    pub(crate) hidden: &'a [&'a Base64],
}

impl Target<'_> {
    pub(crate) fn add_to(&self, error: Error) -> Error {
        let Self { verb: _, group: _, resource, kube_namespace, name, hidden: _ } = self;
        let error = match kube_namespace {
            Some(kube_namespace) => error.context("namespace", *kube_namespace),
            None => error,
        };
        match (name, *resource) {
            (Some(name), "secrets") => error.context("secret", *name),
            (Some(name), _) => error.context("object", *name),
            (None, _) => error,
        }
    }

    /// The rule to add to a Role so that it allows the request.
    fn rule(&self) -> String {
        let Self { verb, group, resource, name, .. } = self;
        // A rule for names allows neither creates nor lists, since those name no object.
        let names = match name {
            Some(name) if !matches!(*verb, "create" | "list" | "watch") => {
                format!(", resourceNames: [{name:?}]")
            }
            _ => String::new(),
        };
        format!("{{apiGroups: [{group:?}], resources: [{resource:?}]{names}, verbs: [{verb:?}]}}")
    }
}

/// An error, and its meaning for the object.
#[derive(Debug)]
#[non_exhaustive]
pub struct Failure {
    /// What the response says about the object.
    pub cause: Cause,
    /// The error for the caller.
    pub error: Error,
}

/// What a response says about the object itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Cause {
    /// The object is absent.
    Absent,
    /// The object exists already.
    Exists,
    /// The object is not in the expected version, or is another object of the same name.
    Changed,
    /// The token of a list page has expired: the list has to start again.
    Expired,
    /// The API server does not know the resource.
    NoSuchResource,
    /// Any other error.
    Other,
}

impl Failure {
    /// The error of a list. If the token of a page has expired, the list is incomplete.
    pub fn list_error(self) -> Error {
        match self.cause {
            Cause::Expired => Error::new(
                ErrorKind::Incomplete,
                "objects may be missing, since the list changes faster than it can be read; try again",
            )
            .source(self.error),
            _ => self.error,
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        failure.error
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { cause: Cause::Other, error }
    }
}

/// The body of a response that is not a success, and not a web page.
enum Refusal {
    /// A `Status`, as the API server sends it.
    Status(Box<Status>),
    /// The text that the API server sends for a path of an unknown group or version.
    UnknownPath,
    /// Any other body: a proxy or another server sends it.
    Foreign,
}

impl Refusal {
    /// Reads a body. Other APIs have bodies with a code and a reason too, so the kind has to be `Status`.
    fn of(body: &[u8]) -> Self {
        #[derive(Deserialize)]
        struct Kind {
            kind: String,
        }

        if body.trim_ascii() == UNKNOWN_PATH {
            return Self::UnknownPath;
        }
        let kind = serde_json::from_slice::<Kind>(body).ok();
        match serde_json::from_slice::<Status>(body) {
            Ok(status) if status.code != 0 && kind.is_some_and(|found| found.kind == "Status") => {
                Self::Status(Box::new(status))
            }
            _ => Self::Foreign,
        }
    }
}

/// The error for a response that is not a success: of the API server, or of another server in its place.
pub(crate) fn unsuccessful(
    code: StatusCode,
    retry_after: Option<Duration>,
    body: &[u8],
    target: &Target<'_>,
) -> Failure {
    match WebPage::of(body) {
        Some(page) => {
            let error = page.error(code, target.hidden.is_empty()).retry_after(retry_after);
            target.add_to(error.context("status", code.as_u16().to_string())).into()
        }
        None => refused(code, retry_after, &Refusal::of(body), target),
    }
}

/// The error for a response that is not a success, and not a web page.
///
/// The reason decides first, since several reasons share one HTTP status. An unknown reason falls back to the HTTP
/// status, as in the Go client.
/// Messages of the server decide nothing. The error quotes one only when a policy refuses the request, since only the
/// message says what the policy demands.
fn refused(
    code: StatusCode,
    retry_after: Option<Duration>,
    refusal: &Refusal,
    target: &Target<'_>,
) -> Failure {
    use ErrorKind as Kind;

    let status = match refusal {
        Refusal::Status(status) => Some(status.as_ref()),
        Refusal::UnknownPath | Refusal::Foreign => None,
    };
    let is_status = status.is_some();
    let reason = status.map_or("", |status| status.reason.as_str());
    let details = status.and_then(|status| status.details.as_ref());
    let has_cause = |wanted: &str| details.is_some_and(|of| of.causes.iter().any(|one| one.reason == wanted));
    // A create may fail because another object that it refers to is absent.
    let named = details.is_some_and(|of| !of.name.is_empty() && target.name == Some(of.name.as_str()));
    let unnamed = details.is_none_or(|of| of.name.is_empty());
    let of_namespace = details.is_some_and(|of| of.kind == "namespaces") && target.resource != "namespaces";
    let wait = retry_after.or_else(|| {
        let seconds = details.map_or(0, |of| of.retry_after_seconds);
        (seconds > 0).then(|| Duration::from_secs(seconds.into()))
    });

    let (cause, kind, retry, message) = match (reason, code.as_u16()) {
        ("AlreadyExists", _) => {
            (Cause::Exists, Kind::AlreadyExists, Retry::Never, "the object exists already".to_owned())
        }
        ("Conflict", _) if has_cause(OTHER_MANAGER) => {
            (Cause::Other, Kind::Conflict, Retry::Never, owned_by_others(status))
        }
        ("Conflict", _) | (_, 409) => (
            Cause::Changed,
            Kind::Conflict,
            Retry::Never,
            "the object has changed since it was read".to_owned(),
        ),
        ("NotFound", _) if of_namespace => {
            (Cause::Other, Kind::NotFound, Retry::Never, "the namespace does not exist".to_owned())
        }
        ("NotFound", _) if named => {
            (Cause::Absent, Kind::NotFound, Retry::Never, "the object does not exist".to_owned())
        }
        // Every API server knows the resources of the core group.
        ("NotFound", _) | (_, 404)
            if !target.group.is_empty()
                && (matches!(refusal, Refusal::UnknownPath) || (reason == "NotFound" && unnamed)) =>
        {
            (
                Cause::NoSuchResource,
                Kind::NotFound,
                Retry::Never,
                format!("the API server does not know the resource {:?}", target.resource),
            )
        }
        ("NotFound", _) | (_, 404) if is_status => (
            Cause::Other,
            Kind::Protocol,
            Retry::Never,
            "the API server responds with HTTP status 404 about another object".to_owned(),
        ),
        // An API server gives each refusal a `Status`. A proxy that logs in answers without one.
        (_, 401) if !is_status => (
            Cause::Other,
            Kind::Protocol,
            Retry::Never,
            "the refusal (HTTP status 401) does not come from a Kubernetes API server, but from something in between: check \
             the server's address and the proxies; if the address is that of a proxy with a login of its own, log in there \
             again"
                .to_owned(),
        ),
        ("Unauthorized", _) | (_, 401) => (
            Cause::Other,
            Kind::Unauthenticated,
            Retry::Never,
            "the API server does not accept the credentials: they are wrong or have expired; renew those of the \
             kubeconfig, or the token of the service account"
                .to_owned(),
        ),
        ("Forbidden", _) | (_, 403) if has_cause(NAMESPACE_TERMINATING) => (
            Cause::Other,
            Kind::Unavailable,
            Retry::Never,
            "the namespace is being deleted, so nothing can be created in it".to_owned(),
        ),
        ("Forbidden", _) | (_, 403) if is_status => forbidden(status, target),
        ("Expired" | "Gone", _) => {
            (Cause::Expired, Kind::Unavailable, Retry::Always, "the list took too long to read".to_owned())
        }
        ("TooManyRequests", _) | (_, 429) => (
            // API Priority and Fairness rejects a request before the server looks at it.
            Cause::Other,
            Kind::RateLimited,
            Retry::Always,
            "the API server asks for fewer requests".to_owned(),
        ),
        ("Invalid", _) | (_, 422) => {
            (Cause::Other, Kind::ConfigInvalid, Retry::Never, invalid(status, target))
        }
        ("RequestEntityTooLarge", _) | (_, 413) => (
            Cause::Other,
            Kind::ConfigInvalid,
            Retry::Never,
            "the object is larger than the API server accepts".to_owned(),
        ),
        ("Timeout" | "ServerTimeout", _) | (_, 504) => (
            Cause::Other,
            Kind::Timeout,
            Retry::IfIdempotent,
            "the API server gave up waiting for its own storage".to_owned(),
        ),
        (_, 500..=599) => (
            Cause::Other,
            Kind::Unavailable,
            Retry::IfIdempotent,
            format!("the API server is not able to work now: HTTP status {}", code.as_u16()),
        ),
        (_, other) => (
            Cause::Other,
            Kind::Protocol,
            Retry::Never,
            if is_status {
                format!("the API server does not accept the request: HTTP status {other}")
            } else {
                format!(
                    "the response with HTTP status {other} does not come from a Kubernetes API server; check the \
                     server's address and the proxies in between"
                )
            },
        ),
    };
    let error = target.add_to(Error::new(kind, message).retry(retry).retry_after(wait));
    Failure { cause, error }
}

fn forbidden(status: Option<&Status>, target: &Target<'_>) -> (Cause, ErrorKind, Retry, String) {
    let text = status.map_or("", |status| status.message.as_str());
    let Target { verb, group: _, resource, kube_namespace, name: _, hidden: _ } = target;
    let place = match kube_namespace {
        Some(kube_namespace) => format!(" in namespace {kube_namespace}"),
        None => String::new(),
    };
    // Only messages of RBAC name the account. Other messages come from a policy (an admission plugin or webhook).
    let (kind, message) = match account(text) {
        Some(ANONYMOUS) => (
            ErrorKind::Unauthenticated,
            format!(
                "no credentials were presented, and the API server does not let {ANONYMOUS} {verb} {resource}{place}"
            ),
        ),
        Some(account) => {
            // An apply of an absent object is a `create` too, and only the server knows which of the two it refused.
            let verb = if *verb == "patch" && text.contains("\" cannot create resource ") {
                "create"
            } else {
                *verb
            };
            let rule = Target { verb, ..*target }.rule();
            (
                ErrorKind::PermissionDenied,
                format!("{account} may not {verb} {resource}{place}: add to its Role the rule {rule}"),
            )
        }
        None => {
            let message = match quoted(text, target) {
                Some(quoted) => {
                    format!("a policy of the cluster refuses to {verb} {resource}{place}: {quoted}")
                }
                None => format!(
                    "the API server refuses to {verb} {resource}{place}; the reason is withheld because it may quote a secret"
                ),
            };
            (ErrorKind::PermissionDenied, message)
        }
    };
    (Cause::Other, kind, Retry::Never, message)
}

/// The account in a message of RBAC: `… is forbidden: User "NAME" cannot VERB resource …`.
fn account(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("is forbidden: User \"")?;
    let (name, rest) = rest.split_once('"')?;
    rest.starts_with(" cannot ").then_some(name)
}

/// The message of the server; `None` if it is empty or contains a part of a hidden value, plain or in base64.
///
/// A policy may quote the object that it refuses, or the stored one. No policy decides about reads, and the values of the
/// object are unknown then, so the message for a refused read is never quoted.
fn quoted(text: &str, target: &Target<'_>) -> Option<String> {
    if matches!(target.verb, "get" | "list") {
        return None;
    }
    let shown: String = text.chars().filter(|c| !c.is_control()).take(MAX_QUOTED).collect();
    let repeats = |value: &[u8]| {
        !value.is_empty()
            && value.windows(MAX_REPEATED.min(value.len())).any(|part| contains(shown.as_bytes(), part))
    };
    let safe = !target.hidden.iter().any(|value| {
        repeats(value.as_str().as_bytes())
            || value.decoded().map(Zeroizing::new).is_some_and(|value| repeats(&value))
    });
    (safe && !shown.is_empty()).then_some(shown)
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|at| at == part)
}

/// The message for an invalid object. It names the fields only, since the messages of the server quote their values.
///
/// A `ValidatingAdmissionPolicy` names no fields and says in a message what it demands.
fn invalid(status: Option<&Status>, target: &Target<'_>) -> String {
    let causes = status.and_then(|status| status.details.as_ref()).map_or(&[][..], |details| &details.causes);
    let mut fields: Vec<&str> =
        causes.iter().map(|cause| cause.field.as_str()).filter(|field| !field.is_empty()).collect();
    fields.dedup();
    let text = status.map_or("", |status| status.message.as_str());
    match quoted(text, target) {
        _ if !fields.is_empty() => format!("the API server finds the object invalid: {}", fields.join(", ")),
        Some(quoted) => format!("the API server finds the object invalid: {quoted}"),
        None => "the API server finds the object invalid".to_owned(),
    }
}

/// The message for fields that another manager has set. It names the fields and the managers; the response has no values.
fn owned_by_others(status: Option<&Status>) -> String {
    let causes = status.and_then(|status| status.details.as_ref()).map_or(&[][..], |details| &details.causes);
    let fields = causes.iter().filter(|cause| cause.reason == OTHER_MANAGER).take(MAX_FIELDS).map(|cause| {
        let shown: String = cause.message.chars().filter(|c| !c.is_control()).take(MAX_QUOTED).collect();
        format!("{} ({shown})", cause.field)
    });
    let more = causes.len().saturating_sub(MAX_FIELDS);
    let more = if more > 0 { format!(", and {more} more") } else { String::new() };
    format!("another manager has set fields to other values: {}{more}", fields.collect::<Vec<_>>().join(", "))
}

/// The error for a response that cannot be read.
pub(crate) fn unreadable(what: &str, target: &Target<'_>) -> Failure {
    // The outcome of a write is unknown until it is read back.
    let error = Error::new(ErrorKind::Protocol, format!("the response of the API server {what}"));
    target.add_to(error.retry(Retry::IfIdempotent)).into()
}

/// The error for a request without a response.
pub(crate) fn unrefused(error: kube::Error, target: &Target<'_>) -> Failure {
    if let Some(tls) = chain(&error).find_map(|cause| cause.downcast_ref::<rustls::Error>()) {
        let fault = fault(tls, &Handshakes::named(NAMES), Retry::IfIdempotent);
        return target.add_to(fault).into();
    }
    let (kind, retry, message) = match TransportFailure::of(&error) {
        TransportFailure::Token => (
            ErrorKind::Unauthenticated,
            Retry::Never,
            "the file with the service-account token cannot be used",
        ),
        TransportFailure::Login => (
            ErrorKind::Unauthenticated,
            Retry::Never,
            "the credentials that the kubeconfig describes could not be obtained",
        ),
        TransportFailure::Proxy => (
            ErrorKind::Unavailable,
            Retry::Never,
            "the proxy asks for credentials, or for others than ours (HTTP status 407): set them in HTTPS_PROXY, or in \
             proxy-url of the kubeconfig, as http://USER:PASSWORD@PROXY",
        ),
        TransportFailure::Connect => {
            (ErrorKind::Unavailable, Retry::Always, "the API server cannot be reached")
        }
        TransportFailure::Timeout => {
            (ErrorKind::Timeout, Retry::IfIdempotent, "the API server did not answer in time")
        }
        TransportFailure::Broken => {
            (ErrorKind::Unavailable, Retry::IfIdempotent, "the connection to the API server broke")
        }
    };
    let ours = target.add_to(Error::new(kind, message).retry(retry));
    // The output of a credential plugin may hold a token, so its error is left out.
    let ours = match error {
        kube::Error::Auth(_) => ours,
        kube::Error::Service(source) if source.is::<kube::client::AuthError>() => ours,
        kube::Error::Service(source) => ours.source(source),
        other => ours.source(other),
    };
    ours.into()
}

/// A failure below HTTP.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum TransportFailure {
    Token,
    Login,
    Proxy,
    Connect,
    Timeout,
    Broken,
}

impl TransportFailure {
    fn of(error: &kube::Error) -> Self {
        if matches!(error, kube::Error::Auth(_)) {
            return Self::Login;
        }
        if needs_proxy_credentials(error) {
            return Self::Proxy;
        }
        let mut connecting = false;
        let mut timeout = false;
        for cause in chain(error) {
            if cause.is::<TokenFileError>() {
                return Self::Token;
            }
            if cause.is::<kube::client::AuthError>() {
                return Self::Login;
            }
            connecting |= cause
                .downcast_ref::<hyper_util::client::legacy::Error>()
                .is_some_and(hyper_util::client::legacy::Error::is_connect);
            timeout |= cause
                .downcast_ref::<io::Error>()
                .is_some_and(|cause| cause.kind() == io::ErrorKind::TimedOut);
        }
        match (connecting, timeout) {
            (true, _) => Self::Connect,
            (false, true) => Self::Timeout,
            (false, false) => Self::Broken,
        }
    }
}

/// Iterates over an error and its causes. An I/O error does not return the error that it wraps as its cause, so this
/// looks it up.
fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    // Longer than any real chain; it ends the loop for an error that is its own cause.
    const MAX_DEPTH: usize = 32;

    std::iter::successors(Some(error), |at| {
        let at: &'a (dyn StdError + 'static) = *at;
        match at.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(wrapped) => Some(wrapped as &(dyn StdError + 'static)),
            None => at.source(),
        }
    })
    .take(MAX_DEPTH)
}

impl fmt::Debug for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { verb, group, resource, kube_namespace, name, hidden: _ } = self;
        f.debug_struct("Target")
            .field("verb", verb)
            .field("group", group)
            .field("resource", resource)
            .field("kube_namespace", kube_namespace)
            .field("name", name)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use kms_core::Kek;
    use serde_json::{Value, json};

    use super::*;

    fn target<'a>(hidden: &'a [&'a Base64]) -> Target<'a> {
        Target {
            verb: "create",
            group: "",
            resource: "secrets",
            kube_namespace: Some("rook-ceph"),
            name: Some("s1"),
            hidden,
        }
    }

    fn answer(code: u16, body: &Value) -> Failure {
        answer_of("", code, body)
    }

    fn answer_of(group: &'static str, code: u16, body: &Value) -> Failure {
        let mut body = body.clone();
        if body["kind"] == "Status" {
            body["code"] = json!(code);
        }
        // A text stands for a body that is not JSON.
        let text = body.as_str().map_or_else(|| body.to_string(), str::to_owned);
        let code = StatusCode::from_u16(code).unwrap();
        unsuccessful(code, None, text.as_bytes(), &Target { group, ..target(&[]) })
    }

    /// Bodies as kube-apiserver 1.36 writes them.
    fn status(reason: &str, message: &str, details: &Value) -> Value {
        json!({"kind": "Status", "status": "Failure", "reason": reason, "message": message, "details": details})
    }

    #[test]
    fn each_answer_has_its_kind_and_says_whether_to_repeat() {
        use Cause::{Absent, Changed, Exists, Expired, Other};
        use ErrorKind as Kind;

        let named = json!({"name": "s1", "kind": "secrets"});
        let other = json!({"name": "s2", "kind": "secrets"});
        let namespace = json!({"name": "nosuch", "kind": "namespaces"});
        let terminating = json!({"name": "s1", "causes": [{"reason": "NamespaceTerminating"}]});
        let cases = [
            (409, status("AlreadyExists", "", &named), Exists, Kind::AlreadyExists, Retry::Never),
            (409, status("Conflict", "", &named), Changed, Kind::Conflict, Retry::Never),
            (404, status("NotFound", "", &named), Absent, Kind::NotFound, Retry::Never),
            (404, status("NotFound", "", &namespace), Other, Kind::NotFound, Retry::Never),
            (404, status("NotFound", "", &other), Other, Kind::Protocol, Retry::Never),
            // Every API server knows Secrets, so these come from another server.
            (404, status("NotFound", "", &json!({})), Other, Kind::Protocol, Retry::Never),
            (404, json!("404 page not found\n"), Other, Kind::Protocol, Retry::Never),
            (404, json!("<html>"), Other, Kind::Protocol, Retry::Never),
            (401, json!("<html>"), Other, Kind::Protocol, Retry::Never),
            (403, json!("<!DOCTYPE html>"), Other, Kind::Protocol, Retry::Never),
            (429, json!("<html>"), Other, Kind::RateLimited, Retry::Always),
            (502, json!("<html>"), Other, Kind::Unavailable, Retry::IfIdempotent),
            (
                404,
                json!({"code": 404, "reason": "NotFound", "details": named}),
                Other,
                Kind::Protocol,
                Retry::Never,
            ),
            (
                401,
                status("Unauthorized", "Unauthorized", &json!({})),
                Other,
                Kind::Unauthenticated,
                Retry::Never,
            ),
            // An API server gives each refusal a `Status`, so these say nothing about credentials and rights.
            (401, json!(""), Other, Kind::Protocol, Retry::Never),
            (401, json!({"message": "Unauthorized"}), Other, Kind::Protocol, Retry::Never),
            (403, json!(""), Other, Kind::Protocol, Retry::Never),
            (403, json!({"message": "denied"}), Other, Kind::Protocol, Retry::Never),
            (403, status("Forbidden", "", &terminating), Other, Kind::Unavailable, Retry::Never),
            (403, status("Forbidden", "", &named), Other, Kind::PermissionDenied, Retry::Never),
            (410, status("Expired", "", &json!({})), Expired, Kind::Unavailable, Retry::Always),
            (422, status("Invalid", "", &named), Other, Kind::ConfigInvalid, Retry::Never),
            (413, status("RequestEntityTooLarge", "", &json!({})), Other, Kind::ConfigInvalid, Retry::Never),
            (429, status("TooManyRequests", "", &json!({})), Other, Kind::RateLimited, Retry::Always),
            (500, status("InternalError", "", &json!({})), Other, Kind::Unavailable, Retry::IfIdempotent),
            (503, json!("upstream"), Other, Kind::Unavailable, Retry::IfIdempotent),
            (504, status("Timeout", "", &json!({})), Other, Kind::Timeout, Retry::IfIdempotent),
            (500, status("ServerTimeout", "", &json!({})), Other, Kind::Timeout, Retry::IfIdempotent),
            (400, status("BadRequest", "", &json!({})), Other, Kind::Protocol, Retry::Never),
            (302, json!("moved"), Other, Kind::Protocol, Retry::Never),
            (410, json!("<html>"), Other, Kind::Protocol, Retry::Never),
        ];
        for (code, body, cause, kind, retry) in cases {
            let failure = answer(code, &body);
            assert_eq!(
                (failure.cause, failure.error.kind(), failure.error.retryable()),
                (cause, kind, retry),
                "{code} {body}: {}",
                failure.error
            );
        }
    }

    #[test]
    fn a_page_is_named_by_its_title_unless_the_request_held_a_secret() {
        let kek = Base64::of(&Kek::parse("canary-kek-which-is-long").unwrap());
        let page = |hidden: &[&Base64]| {
            let body = b"<html><title>Blocked by policy</title></html>";
            unsuccessful(StatusCode::FORBIDDEN, None, body, &target(hidden)).error.to_string()
        };
        let shown = page(&[]);
        for part in ["web page", "title of the page: Blocked by policy", "status: 403", "secret: s1"] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        assert!(!page(&[&kek]).contains("Blocked"), "{}", page(&[&kek]));
    }

    #[test]
    fn only_the_api_server_says_that_it_does_not_know_a_resource() {
        for (body, cause, kind) in [
            (status("NotFound", "", &json!({})), Cause::NoSuchResource, ErrorKind::NotFound),
            (json!("404 page not found\n"), Cause::NoSuchResource, ErrorKind::NotFound),
            (status("NotFound", "", &json!({"name": "s1"})), Cause::Absent, ErrorKind::NotFound),
            (json!("<html>"), Cause::Other, ErrorKind::Protocol),
            (json!({}), Cause::Other, ErrorKind::Protocol),
            (json!({"message": "no Route matched"}), Cause::Other, ErrorKind::Protocol),
        ] {
            let failure = answer_of("ceph.rook.io", 404, &body);
            assert_eq!((failure.cause, failure.error.kind()), (cause, kind), "{body}: {}", failure.error);
        }
    }

    #[test]
    fn a_refusal_names_account_verb_place_and_rule() {
        let message = r#"secrets is forbidden: User "system:serviceaccount:rook-ceph:rook-ceph-osd" cannot create resource "secrets" in API group "" in the namespace "rook-ceph""#;
        let error = answer(403, &status("Forbidden", message, &json!({"kind": "secrets"}))).error;
        assert_eq!(
            error.to_string(),
            "system:serviceaccount:rook-ceph:rook-ceph-osd may not create secrets in namespace rook-ceph: \
             add to its Role the rule {apiGroups: [\"\"], resources: [\"secrets\"], verbs: [\"create\"]} \
             (namespace: rook-ceph, secret: s1)"
        );
        // A rule for one name is enough where the verb names an object.
        let target = Target { verb: "get", ..target(&[]) };
        let message = r#"secrets "s1" is forbidden: User "u" cannot get resource "secrets" in API group "" in the namespace "rook-ceph""#;
        let status_of = |message: &str| -> Status {
            serde_json::from_value(status("Forbidden", message, &json!({"kind": "secrets"}))).unwrap()
        };
        let refusal = Refusal::Status(Box::new(status_of(message)));
        let error = refused(StatusCode::FORBIDDEN, None, &refusal, &target).error.to_string();
        assert!(
            error.contains(
                r#"{apiGroups: [""], resources: ["secrets"], resourceNames: ["s1"], verbs: ["get"]}"#
            ),
            "{error}"
        );
        let message = r#"secrets is forbidden: User "system:anonymous" cannot create resource "secrets""#;
        let error = answer(403, &status("Forbidden", message, &json!({"kind": "secrets"}))).error;
        assert_eq!(error.kind(), ErrorKind::Unauthenticated);
    }

    #[test]
    fn a_policy_is_quoted_unless_it_quotes_the_object() {
        let kek = Base64::of(&Kek::parse("canary-kek-which-is-long").unwrap());
        let quote = |code: u16, reason: &str, text: &str| {
            let status: Status = serde_json::from_value(status(reason, text, &json!({}))).unwrap();
            let code = StatusCode::from_u16(code).unwrap();
            refused(code, None, &Refusal::Status(Box::new(status)), &target(&[&kek])).error.to_string()
        };
        let text = "admission webhook \"p\" denied the request: no owner";
        for (code, reason) in [(403, "Forbidden"), (422, "Invalid")] {
            assert!(
                quote(code, reason, text).contains(&format!(": {text} (")),
                "{}",
                quote(code, reason, text)
            );
            // The value in full, in part, and as it was sent.
            for text in
                ["bad canary-kek-which-is-long", "bad ry-kek-w", "bad Y2FuYXJ5LWtlay13aGljaC1pcy1sb25n"]
            {
                let error = quote(code, reason, text);
                assert!(!error.contains("bad"), "{error}");
            }
        }
    }

    #[test]
    fn invalid_fields_are_named_without_their_values() {
        let details = json!({"name": "s1", "causes": [
            {"reason": "FieldValueInvalid", "message": "Invalid value: \"canary\"", "field": "metadata.labels"},
        ]});
        let error = answer(422, &status("Invalid", "canary", &details)).error;
        assert!(error.to_string().contains("invalid: metadata.labels ("), "{error}");
        assert!(!format!("{error:?}").contains("canary"));
    }

    #[test]
    fn the_wait_is_taken_from_the_header_or_the_details() {
        let body: Status =
            serde_json::from_value(status("TooManyRequests", "", &json!({"retryAfterSeconds": 3}))).unwrap();
        let refusal = Refusal::Status(Box::new(body));
        let wait =
            |header| refused(StatusCode::TOO_MANY_REQUESTS, header, &refusal, &target(&[])).error.wait();
        assert_eq!(wait(None), Some(Duration::from_secs(3)));
        assert_eq!(wait(Some(Duration::from_secs(7))), Some(Duration::from_secs(7)));
    }

    #[test]
    fn the_cause_of_a_broken_connection_is_found_inside_io_errors() {
        let tls = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let wrapped = kube::Error::Service(Box::new(io::Error::other(io::Error::other(tls))));
        let error = unrefused(wrapped, &target(&[])).error;
        assert_eq!(error.kind(), ErrorKind::ConfigInvalid, "{error}");
        assert!(error.to_string().contains("the server's certificate is refused"), "{error}");
        for clock in [rustls::CertificateError::Expired, rustls::CertificateError::NotValidYet] {
            let tls = rustls::Error::InvalidCertificate(clock);
            let wrapped = kube::Error::Service(Box::new(io::Error::other(tls)));
            let error = unrefused(wrapped, &target(&[])).error.to_string();
            assert!(error.contains("clock of this host"), "{error}");
        }
        let timeout = kube::Error::Service(Box::new(io::Error::from(io::ErrorKind::TimedOut)));
        assert_eq!(TransportFailure::of(&timeout), TransportFailure::Timeout);
        let reset = kube::Error::Service(Box::new(io::Error::from(io::ErrorKind::ConnectionReset)));
        assert_eq!(TransportFailure::of(&reset), TransportFailure::Broken);
    }
}
