//! What goes wrong on demand.

use std::{sync::Arc, time::Duration};

use tokio::sync::Barrier;

use super::{Answer, Body, Host, Request};

/// How a request goes wrong.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Action {
    /// The connection ends before the request is looked at.
    LoseRequest,
    /// The request is done, and the connection ends before the answer.
    LoseAnswer,
    /// The request waits so long before it is done.
    Delay(Duration),
    /// The request is done, and its answer takes so long.
    DelayAnswer(Duration),
    /// The request is done, and its answer waits until all have come for whom the barrier is.
    Meet(Arc<Barrier>),
    /// This answer instead; nothing is done. The body is sent as it is, as HTML.
    Reply {
        /// The status.
        status: u16,
        /// `Retry-After`, if there is to be one.
        retry_after: Option<&'static str>,
        /// The body.
        body: String,
    },
    /// The request is done, and this status is answered all the same.
    DoneBut(u16),
}

/// A fault of some requests.
#[derive(Clone, Debug)]
pub struct Fault {
    host: Host,
    method: Option<&'static str>,
    path: String,
    skip: usize,
    times: usize,
    pub(super) action: Action,
}

impl Fault {
    /// A fault of the next request to this host.
    #[must_use]
    pub fn new(host: Host, action: Action) -> Self {
        Self { host, method: None, path: String::new(), skip: 0, times: 1, action }
    }

    /// Only of requests with this method.
    #[must_use]
    pub fn of(mut self, method: &'static str) -> Self {
        self.method = Some(method);
        self
    }

    /// Only of requests whose path, with the query, holds this.
    #[must_use]
    pub fn at(mut self, path: impl Into<String>) -> Self {
        self.path = path.into();
        self
    }

    /// Not of the first so many that fit.
    #[must_use]
    pub fn after(mut self, requests: usize) -> Self {
        self.skip = requests;
        self
    }

    /// Of so many requests.
    #[must_use]
    pub fn times(mut self, requests: usize) -> Self {
        self.times = requests;
        self
    }

    /// Whether it is this request's turn to go wrong.
    pub(super) fn strikes(&mut self, request: &Request) -> bool {
        let fits = self.host == request.host
            && self.method.is_none_or(|method| method == request.method)
            && request.path.contains(&self.path);
        if !fits || self.times == 0 {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        self.times -= 1;
        true
    }
}

impl Action {
    /// The answer in place of the true one, for a request that is not done.
    pub(super) fn instead(&self) -> Option<Answer> {
        let Self::Reply { status, retry_after, body } = self else { return None };
        let answer = Answer {
            status: *status,
            headers: vec![("content-type", "text/html".to_owned())],
            body: Body::Raw(body.clone()),
        };
        Some(match retry_after {
            Some(wait) => answer.header("retry-after", *wait),
            None => answer,
        })
    }

    /// What becomes of the true answer.
    pub(super) fn spoil(&self, answer: Answer) -> Answer {
        match (self, answer) {
            (Self::DoneBut(status), _) => Answer {
                status: *status,
                headers: vec![("content-type", "text/html".to_owned())],
                body: Body::Raw("<html>upstream error</html>".to_owned()),
            },
            (_, answer) => answer,
        }
    }
}
