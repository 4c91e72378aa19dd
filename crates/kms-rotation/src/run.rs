//! One run over one OSD: who takes part, and how its steps are announced.

use std::{future::Future, time::Duration, time::SystemTime};

use kms_core::{Error, Kek, KmsProvider, Result, Stored};
use kms_luks::{Added, Device, DeviceLock, Header, Proof, Slot};
use tokio::time::{Instant, sleep_until};

use crate::{Observer, Options, Osd, Phase, Step};

/// How often it is said that the end of the grace is waited for.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// Who takes part in a run.
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

    /// Announces a step, does it, and tells how it ended.
    pub(crate) async fn step<T>(&self, step: Step, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.observer.step(self.osd.name(), &step, Phase::Before);
        let result = work.await;
        let phase = if result.is_ok() { Phase::After } else { Phase::Failed };
        self.observer.step(self.osd.name(), &step, phase);
        result
    }

    /// Takes the right to change the slots of all devices, always in the same order.
    pub(crate) async fn lock(&self) -> Result<Vec<DeviceLock>> {
        let mut devices: Vec<&Device> = self.osd.devices().iter().collect();
        devices.sort_by_key(|device| device.path());
        let mut locks = Vec::with_capacity(devices.len());
        for device in devices {
            locks.push(self.step(Step::Lock(device.path().to_owned()), device.lock()).await?);
        }
        Ok(locks)
    }

    pub(crate) async fn header(&self, device: &Device) -> Result<Header> {
        self.step(Step::ReadHeader(device.path().to_owned()), device.header()).await
    }

    pub(crate) async fn opens(&self, device: &Device, slot: Slot, kek: &Kek) -> Result<bool> {
        let step = Step::Open(device.path().to_owned(), Some(slot));
        self.step(step, device.opens(Some(slot), kek)).await
    }

    pub(crate) async fn find(&self, device: &Device, header: &Header, kek: &Kek) -> Result<Option<Slot>> {
        self.step(Step::Open(device.path().to_owned(), None), device.find(header, kek)).await
    }

    pub(crate) async fn verify(&self, device: &Device, slot: Slot, kek: &Kek) -> Result<Proof> {
        self.step(Step::Verify(device.path().to_owned(), slot), device.verify(slot, kek)).await
    }

    pub(crate) async fn add(
        &self,
        device: &Device,
        from: Slot,
        current: &Kek,
        new_slot: Slot,
        new: &Kek,
    ) -> Result<Added> {
        let step = Step::Add(device.path().to_owned(), new_slot);
        self.step(step, device.add(Some(from), current, new_slot, new)).await
    }

    pub(crate) async fn kill(&self, device: &Device, victim: Slot, proof: &Proof, kek: &Kek) -> Result<()> {
        self.step(Step::Kill(device.path().to_owned(), victim), device.kill(victim, proof, kek)).await
    }

    /// Waits, and says so now and then.
    pub(crate) async fn wait_until(&self, end: Instant) {
        wait_until(end, |left| self.observer.waiting(self.osd.name(), left)).await;
    }

    /// How old a KEK is. One of unknown age is taken to be new, unless whoever started us does not want to wait
    /// anyway: then it is taken to be old, since nobody would ever remove what it superseded.
    pub(crate) fn age(&self, stored: &Stored) -> Duration {
        match stored.updated {
            // The clock of the KMS may be ahead of ours.
            Some(updated) => self.options.now().duration_since(updated).unwrap_or_default(),
            None if self.options.finish_only || !self.options.wait => Duration::MAX,
            None => Duration::ZERO,
        }
    }

    /// Names the OSD.
    pub(crate) fn named(&self, error: Error) -> Error {
        error.operation("rotate").context("key", self.osd.name().as_str())
    }
}

/// Waits until `end`, and calls `say` with the time that is left, at the beginning and then every ten seconds.
pub(crate) async fn wait_until(end: Instant, say: impl Fn(Duration)) {
    loop {
        let now = Instant::now();
        let left = end.saturating_duration_since(now);
        if left.is_zero() {
            return;
        }
        say(left);
        sleep_until(end.min(now + SAY_EVERY)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_wait_ends_on_time_and_is_spoken_of() {
        let said = Mutex::new(Vec::new());
        let begin = Instant::now();
        wait_until(begin + Duration::from_secs(25), |left| said.lock().unwrap().push(left.as_secs())).await;
        assert_eq!(begin.elapsed().as_secs(), 25);
        assert_eq!(*said.lock().unwrap(), [25, 15, 5]);
        wait_until(begin, |_| panic!("there is nothing to wait for")).await;
    }
}
