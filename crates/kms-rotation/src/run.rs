//! One run over one OSD: its participants, and the steps that it announces to the observer.

use std::{
    future::Future,
    time::{Duration, SystemTime},
};

use kms_core::{Error, Kek, KmsProvider, Result, Stored};
use tokio::time::Instant;

use crate::{Added, Observer, Options, Osd, Phase, Proof, Slot, SlotLock, SlotStore, SlotTable, Step, Timer};

/// The time between two announcements of a pause.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(10);

/// The participants of a run.
#[derive(Clone, Copy)]
pub(crate) struct Run<'a> {
    pub(crate) kms: &'a dyn KmsProvider,
    pub(crate) osd: &'a Osd,
    pub(crate) options: &'a Options,
    observer: &'a dyn Observer,
    pub(crate) started: SystemTime,
}

impl<'a> Run<'a> {
    pub(crate) fn new(
        kms: &'a dyn KmsProvider,
        osd: &'a Osd,
        options: &'a Options,
        observer: &'a dyn Observer,
    ) -> Self {
        Self { kms, osd, options, observer, started: options.now() }
    }

    /// Announces a step, does it, and announces its end.
    pub(crate) async fn step<T>(&self, step: Step, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.observer.step(self.osd.name(), &step, Phase::Before);
        let result = work.await;
        let phase = if result.is_ok() { Phase::After } else { Phase::Failed };
        self.observer.step(self.osd.name(), &step, phase);
        result
    }

    /// Takes the locks of all devices, always in the same order.
    pub(crate) async fn lock(&self) -> Result<Vec<SlotLock>> {
        let mut devices: Vec<_> = self.osd.devices().iter().collect();
        devices.sort_by_key(|device| device.path());
        let mut locks = Vec::with_capacity(devices.len());
        for device in devices {
            locks.push(self.step(Step::Lock(device.path().to_owned()), device.lock()).await?);
        }
        Ok(locks)
    }

    pub(crate) async fn table(&self, device: &dyn SlotStore) -> Result<SlotTable> {
        self.step(Step::ReadHeader(device.path().to_owned()), device.table()).await
    }

    pub(crate) async fn opens(&self, device: &dyn SlotStore, slot: Slot, kek: &Kek) -> Result<bool> {
        self.step(Step::Open(device.path().to_owned(), Some(slot)), device.opens(slot, kek)).await
    }

    pub(crate) async fn find(
        &self,
        device: &dyn SlotStore,
        table: &SlotTable,
        kek: &Kek,
    ) -> Result<Option<Slot>> {
        self.step(Step::Open(device.path().to_owned(), None), device.find(table, kek)).await
    }

    pub(crate) async fn prove(&self, device: &dyn SlotStore, slot: Slot, kek: &Kek) -> Result<Proof> {
        let step = Step::Verify(device.path().to_owned(), slot);
        self.step(step, Proof::by_opening(device, slot, kek)).await
    }

    pub(crate) async fn add(
        &self,
        device: &dyn SlotStore,
        from: Slot,
        current: &Kek,
        new_slot: Slot,
        new: &Kek,
    ) -> Result<Added> {
        let step = Step::Add(device.path().to_owned(), new_slot);
        self.step(step, device.add(from, current, new_slot, new)).await
    }

    pub(crate) async fn remove(
        &self,
        device: &dyn SlotStore,
        victim: Slot,
        proof: &Proof,
        kek: &Kek,
    ) -> Result<()> {
        self.step(Step::Kill(device.path().to_owned(), victim), device.remove(victim, proof, kek)).await
    }

    /// Waits until `end`, and announces the time that is left, at the beginning and then every ten seconds.
    pub(crate) async fn wait_until(&self, end: Instant) {
        let announce = |left| self.observer.waiting(self.osd.name(), left);
        wait_until(&*self.options.timer, end, announce).await;
    }

    /// The age of a KEK by the clock of this host; zero if it is unknown. It decides only whether a run that had to
    /// finish an earlier rotation makes a new KEK as well, since clocks may be wrong.
    pub(crate) fn age(&self, stored: &Stored) -> Duration {
        let since = |updated| self.options.now().duration_since(updated).ok();
        stored.updated.and_then(since).unwrap_or_default()
    }

    /// The grace period. Without compare-and-set it is no shorter than a write can be on its way: until then a late
    /// write of an earlier run may bring the old KEK back.
    pub(crate) fn grace(&self) -> Duration {
        if self.is_atomic() { self.options.grace } else { self.options.safe_grace() }
    }

    /// Adds the operation and the name of the key to an error.
    pub(crate) fn annotate_error(&self, error: Error) -> Error {
        error.operation("rotate").context("key", self.osd.name().as_str())
    }
}

async fn wait_until(timer: &dyn Timer, end: Instant, announce: impl Fn(Duration)) {
    loop {
        let now = timer.now();
        let left = end.saturating_duration_since(now);
        if left.is_zero() {
            return;
        }
        announce(left);
        timer.sleep_until(end.min(now + ANNOUNCE_EVERY)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::options::TokioTimer;

    #[tokio::test(start_paused = true)]
    async fn the_wait_ends_on_time_and_is_spoken_of() {
        let said = Mutex::new(Vec::new());
        let begin = Instant::now();
        let end = begin + Duration::from_secs(25);
        wait_until(&TokioTimer, end, |left| said.lock().unwrap().push(left.as_secs())).await;
        assert_eq!(begin.elapsed().as_secs(), 25);
        assert_eq!(*said.lock().unwrap(), [25, 15, 5]);
        wait_until(&TokioTimer, begin, |_| panic!("there is nothing to wait for")).await;
    }
}
