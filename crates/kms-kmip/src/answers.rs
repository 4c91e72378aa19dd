//! The responses to the operations of one or several requests.

use std::sync::Arc;

use kms_core::{Error, Result, Retry};
use zeroize::Zeroizing;

use crate::{
    connection::Endpoint,
    error::{Class, ExchangeError, malformed},
    message::{BatchId, Operation, is_anonymous, response, time_stamp},
    ttlv::{Item, tag},
};

/// The response to one operation.
pub(crate) struct Answer {
    frame: Arc<Zeroizing<Vec<u8>>>,
    asked: Arc<[(Operation, BatchId)]>,
    at: usize,
}

impl Answer {
    /// Takes the responses from a frame, up to the first operation without one.
    pub(crate) fn all(frame: Zeroizing<Vec<u8>>, asked: Vec<(Operation, BatchId)>) -> Vec<Self> {
        let (frame, asked) = (Arc::new(frame), Arc::from(asked));
        let answer = |at| Self { frame: Arc::clone(&frame), asked: Arc::clone(&asked), at };
        (0..asked.len()).map(answer).take_while(|answer| answer.item().is_some()).collect()
    }

    pub(crate) fn operation(&self) -> Option<Operation> {
        self.asked.get(self.at).map(|(operation, _)| *operation)
    }

    pub(crate) fn payload(&self) -> Result<Item<'_>, ExchangeError> {
        self.item().unwrap_or_else(|| Err(unanswered()))
    }

    fn item(&self) -> Option<Result<Item<'_>, ExchangeError>> {
        response(&self.frame, &self.asked, self.at)
    }

    /// The class of the failure. `None` if the operation has succeeded.
    pub(crate) fn class(&self) -> Option<Class> {
        self.payload().err().map(|failed| failed.class)
    }

    /// Whether the response is a refusal that may mean the request as a whole.
    pub(crate) fn is_anonymous(&self) -> bool {
        is_anonymous(&self.frame)
    }

    /// The only object that the response is about. `None` if there is no such object, or several.
    pub(crate) fn object(&self) -> Option<String> {
        let payload = self.payload().ok()?;
        let mut uids = payload.all(tag::UNIQUE_IDENTIFIER);
        let uid = uids.next()?.text()?.to_owned();
        uids.next().is_none().then_some(uid)
    }
}

/// The responses to several operations, up to the first failure.
pub(crate) struct Answers<'c> {
    pub(crate) endpoint: &'c Endpoint,
    pub(crate) answers: Vec<Answer>,
    /// Why the operation after `answers` has no response.
    pub(crate) failed: Option<ExchangeError>,
}

impl<'c> Answers<'c> {
    pub(crate) fn new(endpoint: &'c Endpoint) -> Self {
        Self { endpoint, answers: Vec::new(), failed: None }
    }

    /// Parses the payload of the response to the operation `at`. `None` if the operation was not sent, because one
    /// before it failed or because the server does not chain operations.
    pub(crate) fn read<T>(
        &self,
        at: usize,
        read: impl FnOnce(&Item<'_>) -> Result<T>,
    ) -> Option<Result<T, ExchangeError>> {
        let Some(answer) = self.answers.get(at) else {
            let failed = self.failed.as_ref().filter(|_| at == self.answers.len())?;
            return Some(Err(ExchangeError { class: failed.class, error: failed.error.clone() }));
        };
        let result = answer.payload().and_then(|payload| Ok(read(&payload)?));
        Some(result.map_err(|mut failed| {
            // The server has responded, so the outcome is known, unless the response is malformed.
            let is_idempotent = answer.operation().is_some_and(Operation::is_idempotent);
            if failed.class == Class::Other && !is_idempotent {
                failed.error = failed.error.retry(Retry::IfIdempotent);
            }
            ExchangeError { error: located(failed.error, self.endpoint), ..failed }
        }))
    }

    /// The server's time in the response that has the operation `at`. `None` if there is no response, or it has no time.
    pub(crate) fn stamp(&self, at: usize) -> Option<i64> {
        time_stamp(&self.answers.get(at)?.frame)
    }

    /// Whether no operation has failed so far.
    pub(crate) fn is_ok(&self) -> bool {
        self.failed.is_none() && self.answers.last().is_none_or(|answer| answer.class().is_none())
    }
}

/// Adds the server to an error.
pub(crate) fn located(error: Error, endpoint: &Endpoint) -> Error {
    error.context("server", endpoint.to_string())
}

/// The error for an operation without a response.
pub(crate) fn unanswered() -> ExchangeError {
    malformed("it has no item for the operation").into()
}
