//! The running call: its deadline, and the server that it waits for, so that a time-out names who was slow.
//!
//! An async function has room for a future twice, as its argument and where it awaits it. So callers pass a large one as a
//! pinned reference, or it doubles with each function that it goes through. What contains [`waiting_for`] is passed as a value
//! or in a box: a limit drops what it cuts off, and only then is the server named.

use std::{
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    task_local,
    time::{Instant, timeout, timeout_at},
};

use crate::{Error, ErrorKind, Result, Retry};

/// The part of the deadline that one step of a try may take.
const STEPS_PER_DEADLINE: u32 = 6;

task_local! {
    static RUNNING: Running;
}

/// A call that runs, with its tries.
#[derive(Clone, Default)]
struct Running {
    /// The server that has not answered yet.
    server: Arc<Mutex<Option<String>>>,
    /// The time for all tries. `None` outside the layer that retries.
    deadline: Option<Duration>,
    /// When the earliest of the limits around the call cuts it off. `None` without a limit.
    end: Option<Instant>,
}

impl Running {
    fn current() -> Self {
        RUNNING.try_with(Self::clone).unwrap_or_default()
    }

    fn server(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for a server on behalf of the running call. If a time limit cuts the call off meanwhile, its error names the
/// server.
///
/// `server` is asked only then. It returns an address or the name of a service, never a secret. Inside another
/// `waiting_for` the outer name counts.
pub async fn waiting_for<T, S: Into<String>>(server: impl FnOnce() -> S, call: impl Future<Output = T>) -> T {
    let mut cut_off = CutOff { server: Some(server) };
    let result = call.await;
    cut_off.server = None;
    result
}

/// Names the server that has not answered, when a time limit drops the call that waits for it. What waits inside is
/// dropped first, so the outer name stays.
struct CutOff<S: Into<String>, F: FnOnce() -> S> {
    /// `None` once the server has answered.
    server: Option<F>,
}

impl<S: Into<String>, F: FnOnce() -> S> Drop for CutOff<S, F> {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            let _ = RUNNING.try_with(|running| *running.server() = Some(server().into()));
        }
    }
}

/// The time limit of one step of a try: `usual`, or a sixth of the deadline if that is longer.
///
/// So a caller who allows more time (`--timeout`) allows it to each step.
pub fn step_limit(usual: Duration) -> Duration {
    let deadline = RUNNING.try_with(|running| running.deadline).ok().flatten();
    deadline.map_or(usual, |deadline| usual.max(deadline / STEPS_PER_DEADLINE))
}

/// Prepares a client whose calls will have this deadline: inside, [`step_limit`] counts with it. So limits that a client
/// has from its beginning, such as that of a connection, follow the deadline too.
pub async fn preparing<T>(deadline: Option<Duration>, preparation: impl Future<Output = T>) -> T {
    RUNNING.scope(Running { deadline, ..Running::current() }, preparation).await
}

/// Runs one step with a time limit.
///
/// # Errors
///
/// `Timeout` with the name of the server that did not answer, if the call [waited for](waiting_for) one. The server may
/// or may not have done what it was asked.
pub async fn limited<T>(limit: Duration, call: impl Future<Output = Result<T>>) -> Result<T> {
    let end = Instant::now().checked_add(limit);
    let outer = RUNNING.try_with(|running| running.end).ok().flatten();
    // A limit around this one that ends no later names the same server, so this one needs no timer.
    if outer.is_some_and(|outer| end.is_none_or(|end| outer <= end)) {
        return call.await;
    }
    let running = Running { end, ..Running::current() };
    match RUNNING.scope(running.clone(), timeout(limit, call)).await {
        Ok(result) => result,
        Err(_elapsed) => Err(no_answer(running.server().take(), limit)),
    }
}

/// The error of a step that a time limit has cut off while it waited for `server`.
pub(super) fn no_answer(server: Option<String>, limit: Duration) -> Error {
    let message = match server {
        Some(server) => format!("{server} did not answer within {limit:?}"),
        None => format!("no answer within {limit:?}"),
    };
    Error::new(ErrorKind::Timeout, message).retry(Retry::IfIdempotent)
}

/// Runs a try until `end`. All tries together have the time `deadline`.
///
/// # Errors
///
/// The server that did not answer, if it is known.
pub(super) async fn until<T>(
    end: Instant,
    deadline: Duration,
    call: impl Future<Output = T>,
) -> Result<T, Option<String>> {
    let current = Running::current();
    let first = current.end.map_or(end, |outer| outer.min(end));
    let running = Running { deadline: Some(deadline), end: Some(first), ..current };
    let result = RUNNING.scope(running.clone(), timeout_at(end, call)).await;
    result.map_err(|_elapsed| running.server().take())
}
