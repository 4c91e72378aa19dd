//! Passes time while a test only waits.

use std::{
    sync::{
        Arc, Mutex,
        mpsc::{self, RecvTimeoutError},
    },
    time::Duration,
};

use tokio::{
    sync::watch,
    task::{JoinHandle, spawn_blocking, yield_now},
    time,
};

use super::{Cloud, Double, lock, milliseconds};

/// How often to look whether anything happens, in real time.
const LOOK: Duration = Duration::from_millis(2);
/// How many looks in a row must see nothing before time passes. A name is looked up on another thread, so a client may
/// be at work although its runtime is idle.
const QUIET: usize = 10;
/// How many times each look lets all tasks run, and reads from all connections.
const TURNS: usize = 20;
/// How much time passes then.
const STEP: Duration = Duration::from_millis(250);

/// Time that passes while nothing happens. Dropping it makes the clock go on as usual.
#[derive(Debug)]
#[must_use = "time passes as usual when it is dropped"]
pub struct PassingTime {
    task: JoinHandle<()>,
    /// Ends the thread that looks, when it is dropped.
    _end: mpsc::Sender<()>,
}

impl Drop for PassingTime {
    fn drop(&mut self) {
        self.task.abort();
        if !std::thread::panicking() {
            time::resume();
        }
    }
}

impl<S: Cloud> Double<S> {
    /// Stops the clock of tokio, and moves it and the clock of the double forward whenever no request is on its way: then
    /// the client only waits.
    ///
    /// The pauses of a client take a fraction of their time, in the order that they have in real time.
    ///
    /// # Panics
    ///
    /// If the runtime has several threads: client and double must take turns on one thread, so that a runtime with
    /// nothing to do means that nothing is on its way.
    pub fn pass_time(&self) -> PassingTime {
        time::pause();
        let (look, looks) = watch::channel(());
        // While a blocking task runs, tokio does not move a stopped clock by itself. It would do so while a response is
        // on its way.
        let (end, ended) = mpsc::channel();
        spawn_blocking(move || {
            while ended.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                look.send_replace(());
            }
        });
        PassingTime { task: tokio::spawn(pass_time(Arc::clone(&self.state), looks)), _end: end }
    }
}

async fn pass_time<S: Cloud>(state: Arc<Mutex<S>>, mut looks: watch::Receiver<()>) {
    let (mut seen, mut quiet) = (0, 0);
    while looks.changed().await.is_ok() {
        for _ in 0..TURNS {
            yield_now().await;
        }
        let events = lock(&state).base().events;
        quiet = if events == seen { quiet + 1 } else { 0 };
        seen = events;
        if quiet == QUIET {
            quiet = 0;
            time::advance(STEP).await;
            lock(&state).base().clock.offset += milliseconds(STEP);
        }
    }
}
