//! The answers to requests.

use std::sync::Arc;

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Method, Request, Response, StatusCode,
    header::{
        ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderMap, REFERRER_POLICY,
        WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
    },
};
use http_body_util::Full;

use super::access::{Gate, Refusal};
use crate::{
    metrics::{Form, Metrics},
    page::page,
    source::Source,
};

const TEXT: &str = "text/plain; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";

/// A response in one piece.
pub(super) type Answer = Response<Full<Bytes>>;

/// Everything that is served.
#[derive(Debug)]
pub(super) struct Site {
    source: Arc<dyn Source>,
    metrics: Metrics,
    gate: Gate,
    policy: HeaderValue,
}

impl Site {
    pub(super) fn new(source: Arc<dyn Source>, metrics: Metrics, gate: Gate) -> Self {
        let policy = format!("{}; frame-ancestors 'none'", kms_page::policy());
        // Base64 and words are valid in a header. If they were not, nothing would be loaded all the same.
        let policy = HeaderValue::from_str(&policy)
            .unwrap_or(HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"));
        Self { source, metrics, gate, policy }
    }

    /// Answers a request. The body of a request is not read.
    pub(super) async fn respond<B>(&self, request: &Request<B>) -> Answer {
        let mut answer = self.find(request.method(), request.uri().path(), request.headers()).await;
        let headers = answer.headers_mut();
        headers.insert(CONTENT_SECURITY_POLICY, self.policy.clone());
        for (name, value) in [
            (X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (CACHE_CONTROL, "no-store"),
            (REFERRER_POLICY, "no-referrer"),
            (X_FRAME_OPTIONS, "DENY"),
            (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        answer
    }

    async fn find(&self, method: &Method, path: &str, headers: &HeaderMap) -> Answer {
        if !matches!(*method, Method::GET | Method::HEAD) {
            let answer = says(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are answered");
            return with(answer, ALLOW, "GET, HEAD");
        }
        match path {
            "/livez" => probe(self.source.state().dead),
            "/readyz" => probe(self.source.state().unready),
            "/metrics" | "/" => match self.gate.check(headers, path).await {
                Ok(()) if path == "/" => answer(StatusCode::OK, HTML, page(&*self.source)),
                Ok(()) => self.scrape(headers),
                Err(refusal) => refused(refusal),
            },
            _ => says(StatusCode::NOT_FOUND, "there are /, /metrics, /livez and /readyz"),
        }
    }

    fn scrape(&self, headers: &HeaderMap) -> Answer {
        let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let form = if accepted.into_iter().any(|text| text.contains("application/openmetrics-text")) {
            Form::OpenMetrics
        } else {
            Form::Prometheus
        };
        match self.metrics.encode(form) {
            Ok(text) => answer(StatusCode::OK, form.media_type(), text),
            Err(_) => says(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be written"),
        }
    }
}

/// The answer to a probe; `problem` is the reason why it fails.
fn probe(problem: Option<String>) -> Answer {
    match problem {
        None => says(StatusCode::OK, "ok"),
        Some(problem) => says(StatusCode::SERVICE_UNAVAILABLE, &problem),
    }
}

fn refused(refusal: Refusal) -> Answer {
    match refusal {
        Refusal::Unauthenticated => {
            let why = "send a token that the cluster knows: as a Bearer token, or as the password of Basic";
            let mut answer = says(StatusCode::UNAUTHORIZED, why);
            for scheme in ["Bearer", "Basic realm=\"the password is a token of the cluster\""] {
                answer.headers_mut().append(WWW_AUTHENTICATE, HeaderValue::from_static(scheme));
            }
            answer
        }
        Refusal::Forbidden => says(
            StatusCode::FORBIDDEN,
            "the user of the token may not see this: allow it by a ClusterRole with nonResourceURLs and the verb get",
        ),
        Refusal::Unavailable => says(
            StatusCode::SERVICE_UNAVAILABLE,
            "the API server cannot be asked whose the token is; try again",
        ),
    }
}

fn says(status: StatusCode, text: &str) -> Answer {
    answer(status, TEXT, format!("{text}\n"))
}

fn answer(status: StatusCode, media_type: &'static str, body: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    with(answer, CONTENT_TYPE, media_type)
}

fn with(mut answer: Answer, name: HeaderName, value: &'static str) -> Answer {
    answer.headers_mut().insert(name, HeaderValue::from_static(value));
    answer
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;
    use crate::{serve::access::Access, source::ReplicaState, test_data::Fixed};

    async fn ask(source: Fixed, access: Access, request: Request<()>) -> (Answer, String) {
        let source: Arc<dyn Source> = Arc::new(source);
        let site = Site::new(Arc::clone(&source), Metrics::new(source), Gate::new(access));
        let mut answer = site.respond(&request).await;
        let body = answer.body_mut().collect().await.unwrap().to_bytes();
        (answer, String::from_utf8(body.to_vec()).unwrap())
    }

    fn get(path: &str) -> Request<()> {
        Request::get(path).body(()).unwrap()
    }

    #[tokio::test]
    async fn every_answer_forbids_scripts_frames_and_caches() {
        for path in ["/", "/metrics", "/livez", "/nowhere"] {
            let (answer, _) = ask(Fixed::new(), Access::Everyone, get(path)).await;
            let header = |name: HeaderName| answer.headers()[name].to_str().unwrap().to_owned();
            let policy = header(CONTENT_SECURITY_POLICY);
            assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
            assert!(policy.ends_with("frame-ancestors 'none'") && !policy.contains("unsafe"), "{policy}");
            assert_eq!(header(X_CONTENT_TYPE_OPTIONS), "nosniff");
            assert_eq!(header(CACHE_CONTROL), "no-store");
        }
    }

    #[tokio::test]
    async fn a_scraper_gets_the_form_that_it_asks_for() {
        for (accept, form) in [
            ("application/openmetrics-text;version=1.0.0,text/plain;q=0.5", Form::OpenMetrics),
            ("*/*", Form::Prometheus),
        ] {
            let request = Request::get("/metrics").header(ACCEPT, accept).body(()).unwrap();
            let (answer, body) = ask(Fixed::new(), Access::Everyone, request).await;
            assert_eq!(answer.headers()[CONTENT_TYPE], form.media_type());
            assert_eq!(body.ends_with("# EOF\n"), form == Form::OpenMetrics);
        }
    }

    #[tokio::test]
    async fn probes_say_why_they_fail_and_other_methods_and_paths_are_refused() {
        let failing = || {
            let source = Fixed::new();
            source.parts().state = ReplicaState {
                dead: Some("no poll for 90 s".to_owned()),
                unready: Some("the store of OsdKeys is not filled".to_owned()),
                ..ReplicaState::default()
            };
            source
        };
        for (path, body) in
            [("/livez", "no poll for 90 s\n"), ("/readyz", "the store of OsdKeys is not filled\n")]
        {
            let (answer, text) = ask(Fixed::new(), Access::Everyone, get(path)).await;
            assert_eq!((answer.status(), text.as_str()), (StatusCode::OK, "ok\n"));
            let (answer, text) = ask(failing(), Access::Everyone, get(path)).await;
            assert_eq!((answer.status(), text.as_str()), (StatusCode::SERVICE_UNAVAILABLE, body));
        }
        let (answer, _) = ask(Fixed::new(), Access::Everyone, get("/metrics/")).await;
        assert_eq!(answer.status(), StatusCode::NOT_FOUND);
        let request = Request::post("/").body(()).unwrap();
        let (answer, _) = ask(Fixed::new(), Access::Everyone, request).await;
        assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(answer.headers()[ALLOW], "GET, HEAD");
    }
}
