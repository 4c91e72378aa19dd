//! A clock whose time passes only while all its participants sleep.
//!
//! So a step takes the time that the test gives it, however slow the machine is, and an hour takes no time.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use kms_rotation::{SightStore, Timer, Unchanged};
use tokio::{sync::oneshot, time::Instant};

/// The clock.
#[derive(Debug)]
pub(crate) struct VirtualTime {
    begin: Instant,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    now: Duration,
    /// The participants that do not sleep.
    awake: usize,
    sleepers: Vec<(Duration, oneshot::Sender<()>)>,
    /// What was last seen of the slots, and since when.
    sight: Option<(String, Duration)>,
}

impl State {
    /// Lets time pass up to the end of the shortest sleep, if all participants sleep.
    fn pass(&mut self) {
        let next = self.sleepers.iter().map(|(end, _)| *end).min();
        let Some(next) = next.filter(|_| self.awake == 0) else { return };
        self.now = next;
        for (_, sleeper) in self.sleepers.extract_if(.., |(end, _)| *end == next) {
            self.awake += 1;
            sleeper.send(()).unwrap();
        }
    }
}

impl VirtualTime {
    /// A clock at zero, with this many participants, all awake.
    pub(crate) fn new(participants: usize) -> Self {
        let state = State { now: Duration::ZERO, awake: participants, sleepers: Vec::new(), sight: None };
        Self { begin: Instant::now(), state: Mutex::new(state) }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time since the beginning, in seconds.
    pub(crate) fn seconds(&self) -> u64 {
        self.state().now.as_secs()
    }

    /// Another participant begins.
    pub(crate) fn enter(&self) {
        self.state().awake += 1;
    }

    /// A participant has ended.
    pub(crate) fn leave(&self) {
        let mut state = self.state();
        state.awake -= 1;
        state.pass();
    }

    /// A participant sleeps.
    pub(crate) async fn sleep(&self, time: Duration) {
        let end = self.state().now + time;
        self.sleep_to(end).await;
    }

    async fn sleep_to(&self, end: Duration) {
        let woken = {
            let mut state = self.state();
            if end <= state.now {
                return;
            }
            let (sleeper, woken) = oneshot::channel();
            state.sleepers.push((end, sleeper));
            state.awake -= 1;
            state.pass();
            woken
        };
        woken.await.unwrap();
    }
}

#[async_trait]
impl Timer for VirtualTime {
    fn now(&self) -> Instant {
        self.begin + self.state().now
    }

    async fn sleep_until(&self, end: Instant) {
        self.sleep_to(end.saturating_duration_since(self.begin)).await;
    }
}

/// What the runs of one OSD have seen.
impl SightStore for VirtualTime {
    fn unchanged_for(&self, _: &str, sight: &str, grace: Duration) -> Option<Unchanged> {
        let mut state = self.state();
        let now = state.now;
        let kept = state.sight.take().filter(|(kept, _)| kept == sight);
        let (_, since) = state.sight.insert(kept.unwrap_or_else(|| (sight.to_owned(), now)));
        Some(Unchanged { time: now - *since, grace })
    }
}

#[tokio::test]
async fn time_passes_while_all_sleep_and_ends_the_shortest_sleep_first() {
    let time = VirtualTime::new(2);
    let order = Mutex::new(Vec::new());
    let participant = async |name: &'static str, sleeps: &[u64]| {
        for sleep in sleeps {
            time.sleep(Duration::from_secs(*sleep)).await;
            order.lock().unwrap().push((time.seconds(), name));
        }
        time.leave();
    };
    tokio::join!(participant("a", &[10, 10, 600]), participant("b", &[15]));
    assert_eq!(*order.lock().unwrap(), [(10, "a"), (15, "b"), (20, "a"), (620, "a")]);
}
