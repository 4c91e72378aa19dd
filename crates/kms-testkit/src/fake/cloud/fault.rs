//! Faults that tests inject into requests.

use std::{sync::Arc, time::Duration};

use serde_json::Value;
use tokio::sync::Barrier;

use super::Host;
use crate::fake::http::Request;

/// The way in which a request goes wrong.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Action {
    /// The connection ends before the service sees the request.
    LoseRequest,
    /// The service handles the request, and the connection ends before the response.
    LoseAnswer,
    /// The service handles the request after this time.
    Delay(Duration),
    /// The service handles the request, and sends the response after this time.
    DelayAnswer(Duration),
    /// The service handles the request, and sends the response once all parties have reached the barrier.
    Meet(Arc<Barrier>),
    /// A proxy sends this response, as HTML, and the service does not see the request.
    Reply {
        /// The status.
        status: u16,
        /// The value of `Retry-After`.
        retry_after: Option<&'static str>,
        /// The body.
        body: String,
    },
    /// The service handles the request, and a proxy responds with this status.
    DoneBut(u16),
    /// The service handles the request, and the JSON of its response is changed.
    Edit(fn(&mut Value)),
}

impl Action {
    /// Empties the list `resources` of the response.
    pub const EMPTY_RESOURCES: Self = Self::Edit(|body| body["resources"] = Value::Array(Vec::new()));

    /// Removes the field `resources` of the response.
    pub const NO_RESOURCES: Self = Self::Edit(|body| {
        body.as_object_mut().map(|fields| fields.remove("resources"));
    });
}

/// A fault that some requests meet.
#[derive(Clone, Debug)]
pub struct RequestFault {
    host: Host,
    method: Option<&'static str>,
    path: String,
    skip: usize,
    times: usize,
    action: Action,
}

impl RequestFault {
    /// A fault of the next request to this service.
    #[must_use]
    pub fn new(host: Host, action: Action) -> Self {
        Self { host, method: None, path: String::new(), skip: 0, times: 1, action }
    }

    /// Restricts the fault to requests with this method.
    #[must_use]
    pub fn of(mut self, method: &'static str) -> Self {
        self.method = Some(method);
        self
    }

    /// Restricts the fault to requests whose path or query contains this.
    #[must_use]
    pub fn at(mut self, path: impl Into<String>) -> Self {
        self.path = path.into();
        self
    }

    /// Spares the first requests that fit.
    #[must_use]
    pub fn after(mut self, requests: usize) -> Self {
        self.skip = requests;
        self
    }

    /// Repeats the fault for this many requests.
    #[must_use]
    pub fn times(mut self, requests: usize) -> Self {
        self.times = requests;
        self
    }

    /// The way in which this request goes wrong, if it meets the fault.
    pub(super) fn strikes(&mut self, host: Host, request: &Request) -> Option<Action> {
        let fits = self.host == host
            && self.method.is_none_or(|method| method == request.method)
            && request.path.contains(&self.path);
        if !fits || self.times == 0 {
            return None;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        self.times -= 1;
        Some(self.action.clone())
    }
}
