//! The running call: its deadline, and the server that it waits for, so that a time-out names who was slow.

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
/// `server` is an address or the name of a service, never a secret. Inside another `waiting_for` the outer name stays.
pub async fn waiting_for<T>(server: impl Into<String>, call: impl Future<Output = T>) -> T {
    let running = Running::current();
    let is_outer = {
        let mut waiting = running.server();
        let is_outer = waiting.is_none();
        waiting.get_or_insert_with(|| server.into());
        is_outer
    };
    let result = call.await;
    // A call that is cut off does not get here.
    if is_outer {
        running.server().take();
    }
    result
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
    let mut running = Running::current();
    let end = Instant::now().checked_add(limit);
    // A limit around this one that ends no later names the same server, so this one needs no timer.
    if running.end.is_some_and(|outer| end.is_none_or(|end| outer <= end)) {
        return call.await;
    }
    running.end = end;
    match RUNNING.scope(running.clone(), timeout(limit, call)).await {
        Ok(result) => result,
        Err(_) => Err(running.too_late(limit)),
    }
}

impl Running {
    fn too_late(&self, limit: Duration) -> Error {
        let message = match self.server().take() {
            Some(server) => format!("{server} did not answer within {limit:?}"),
            None => format!("no answer within {limit:?}"),
        };
        Error::new(ErrorKind::Timeout, message).retry(Retry::IfIdempotent)
    }
}

/// Runs a try until `end`, which is `deadline` after the first one began.
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
