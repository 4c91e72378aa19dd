//! The trait that every KMS implements, and the operations built on it.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use futures_core::Stream;
use tokio::time::sleep;

use crate::{
    Capability, ClockDifference, DeleteMode, Error, ErrorKind, Freshness, Guarantee, HistoryMode, Kek,
    KekState, KeyName, KeyVersion, PastKek, PutMode, Result, UpdateRight,
};

/// How often [`KmsProviderExt::ensure`] tries. It starts again if the key was deleted or replaced meanwhile.
const ENSURE_ROUNDS: usize = 8;
/// The longest time that a writer takes from its read to its write if the server has no compare-and-set.
const SETTLE: Duration = Duration::from_millis(250);

/// A stored KEK, with its version and times.
#[derive(Debug)]
#[non_exhaustive]
pub struct Stored {
    /// The KEK.
    pub kek: Kek,
    /// The version that was read, for [`PutMode::Update`].
    pub version: KeyVersion,
    /// When the key was first stored, if the provider knows.
    pub created: Option<SystemTime>,
    /// When this version was stored, if the provider knows.
    pub updated: Option<SystemTime>,
}

impl Stored {
    /// A stored KEK without times.
    pub fn new(kek: Kek, version: KeyVersion) -> Self {
        Self { kek, version, created: None, updated: None }
    }

    /// Sets the times; `None` for an unknown time.
    #[must_use]
    pub fn with_times(mut self, created: Option<SystemTime>, updated: Option<SystemTime>) -> Self {
        self.created = created;
        self.updated = updated;
        self
    }
}

impl From<Stored> for PastKek {
    /// The current version: the whole history on a server that keeps no other versions.
    fn from(stored: Stored) -> Self {
        Self::new(stored.version, KekState::Current).with_kek(Some(stored.kek)).with_stored(stored.updated)
    }
}

/// What a list marks at a key that may not open its device.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum KeyState {
    /// The server does not hand the KEK out until an administrator enables the key.
    Disabled,
    /// The time until which the key is valid has passed. Some servers hand its KEK out nevertheless.
    Expired,
    /// The name is left, and the server no longer has the KEK.
    Destroyed,
}

impl KeyState {
    /// The state as one word: `disabled`, `expired`, `destroyed`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Expired => "expired",
            Self::Destroyed => "destroyed",
        }
    }
}

/// A key in a list: everything but the KEK.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct KeyInfo {
    /// Its name.
    pub name: KeyName,
    /// Its current version, if a list shows it.
    pub version: Option<KeyVersion>,
    /// When it was first stored, if the provider knows.
    pub created: Option<SystemTime>,
    /// When the current version was stored, if the provider knows.
    pub updated: Option<SystemTime>,
    /// What the list marks at the key. `None` for a key in use.
    pub state: Option<KeyState>,
}

impl KeyInfo {
    /// A key with its name alone.
    pub fn new(name: KeyName) -> Self {
        Self { name, version: None, created: None, updated: None, state: None }
    }

    /// Marks the key.
    #[must_use]
    pub fn with_state(mut self, state: Option<KeyState>) -> Self {
        self.state = state;
        self
    }

    /// Sets the version.
    #[must_use]
    pub fn with_version(mut self, version: KeyVersion) -> Self {
        self.version = Some(version);
        self
    }

    /// Sets the times; `None` for an unknown time.
    #[must_use]
    pub fn with_times(mut self, created: Option<SystemTime>, updated: Option<SystemTime>) -> Self {
        self.created = created;
        self.updated = updated;
        self
    }
}

/// A stream of a provider's keys. It fetches each page when the reader gets there.
pub type KeyStream<'a> = Pin<Box<dyn Stream<Item = Result<KeyInfo>> + Send + 'a>>;

/// What a delete leaves behind.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Deleted {
    /// Nothing: the KEK is gone for good.
    Destroyed,
    /// [`KmsProvider::undelete`] can bring the key back.
    Recoverable {
        /// The time until which that is possible. `None` if it is unlimited or unknown.
        until: Option<SystemTime>,
    },
}

impl Deleted {
    /// Whether the key can be brought back.
    pub const fn is_recoverable(self) -> bool {
        matches!(self, Self::Recoverable { .. })
    }
}

/// The report of a probe, step by step.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Probe {
    /// The steps that passed, in order: the name of each step and its finding.
    pub passed: Vec<(&'static str, String)>,
    /// What deserves attention although nothing failed: the name of the step and the warning.
    pub warned: Vec<(&'static str, String)>,
    /// The step that failed, if one did.
    pub failed: Option<(&'static str, Error)>,
    /// The steps after the failed one, which were not tried.
    pub not_run: Vec<&'static str>,
    /// Whether the server has said that the account may not destroy keys. A test key that this account stores would stay.
    pub cannot_destroy: bool,
    /// The key exchange of each TLS session of the probe.
    pub key_exchanges: Vec<KeyExchange>,
    /// What this process has seen of the server so far, beyond the steps. Calls before and after the probe contribute to
    /// it.
    pub details: Details,
    /// The steps that the provider has announced and that have not ended yet.
    planned: Vec<&'static str>,
}

/// The key exchange of a TLS session.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct KeyExchange {
    /// The name of the step that made the session.
    pub step: &'static str,
    /// The group by its IANA name, such as `X25519MLKEM768`.
    pub group: String,
    /// Whether a recording of the session stays secret from an attacker who has a quantum computer later.
    pub is_post_quantum: bool,
}

impl KeyExchange {
    /// The key exchange that a step has made.
    pub fn new(step: &'static str, group: impl Into<String>, is_post_quantum: bool) -> Self {
        Self { step, group: group.into(), is_post_quantum }
    }
}

/// Reads what a process has seen of a server by now: what it is about, and what was seen.
#[derive(Clone, Default)]
pub struct Details(Option<Arc<ReadDetails>>);

type ReadDetails = dyn Fn() -> Vec<(&'static str, String)> + Send + Sync;

impl Details {
    /// Details that `read` returns. It must do no I/O.
    pub fn new(read: impl Fn() -> Vec<(&'static str, String)> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(read)))
    }

    /// What was seen so far.
    pub fn read(&self) -> Vec<(&'static str, String)> {
        self.0.as_ref().map(|read| read()).unwrap_or_default()
    }
}

impl fmt::Debug for Details {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.read()).finish()
    }
}

impl Probe {
    /// An empty probe.
    pub fn new() -> Self {
        Self::default()
    }

    /// Announces the steps to come, in order. If one fails or is cut off, the steps after it are
    /// [`not_run`](Self::not_run).
    pub fn plan(&mut self, steps: &[&'static str]) {
        self.planned = steps.to_vec();
    }

    /// Adds a finding of a step. A step passes with its first finding.
    pub fn pass(&mut self, step: &'static str, found: impl Into<String>) {
        self.planned.retain(|planned| *planned != step);
        self.passed.push((step, found.into()));
    }

    /// Adds a warning of a step that does not fail.
    pub fn warn(&mut self, step: &'static str, warning: impl Into<String>) {
        self.warned.push((step, warning.into()));
    }

    /// Adds how far the clock of this host is from that of the server, as the step `clock`. Adds nothing if it is not known.
    pub fn clock(&mut self, difference: Option<ClockDifference>) {
        const STEP: &str = "clock";
        match difference {
            Some(wrong) if wrong.is_wrong() => {
                let warning = format!(
                    "the clock of this host is {wrong} that of the server, so tokens and certificates end at \
                             the wrong time; set it right"
                );
                self.warn(STEP, warning);
            }
            Some(right) => self.pass(STEP, format!("this host is {right} the server")),
            None => {}
        }
    }

    /// Adds a step with its result. `None` if the step failed, which ends the probe.
    #[must_use]
    pub fn step(&mut self, step: &'static str, result: Result<String>) -> Option<()> {
        match result {
            Ok(found) => {
                self.pass(step, found);
                Some(())
            }
            Err(error) => self.fail(step, error),
        }
    }

    /// Ends the probe with the failed step. Returns `None`, so that a function of steps can return it.
    pub fn fail(&mut self, step: &'static str, error: Error) -> Option<()> {
        self.not_run = std::mem::take(&mut self.planned);
        self.not_run.retain(|planned| *planned != step);
        self.failed = Some((step, error));
        None
    }

    /// Ends a probe that a time limit cut off: the step that was running failed, and the steps before it have passed.
    pub fn cut_off(&mut self, error: Error) {
        let last = self.passed.last().map(|(step, _)| *step);
        let step = self.planned.first().copied().or(last).unwrap_or("connect");
        self.fail(step, error);
    }
}

/// A key-management system (KMS) that keeps KEKs.
///
/// Programs use it as `Arc<dyn KmsProvider>`.
/// A caller may drop any call before it ends: a read leaves nothing behind, and a write has either happened or not.
/// A provider tries once. The [layers](crate::layer) retry, limit the time, trace, check each put and complete the
/// errors; the conformance suite and `kms-dispatch` add the layers.
///
/// A provider leaves operation, provider and key out of its errors: [`Contract`](crate::layer::Contract) adds them.
#[async_trait]
pub trait KmsProvider: fmt::Debug + Send + Sync + 'static {
    /// The name of the provider in messages, such as `vault`. No I/O.
    fn provider(&self) -> &'static str;

    /// What this provider can do with its present configuration. No I/O.
    ///
    /// If that depends on the server (the version of a KV mount), this is the weaker capability until the first call
    /// has found out.
    fn capability(&self) -> Capability;

    /// Stores a KEK and returns its version.
    ///
    /// If updates are atomic, an update with the stored KEK makes a new version too. Every earlier write that is still
    /// in flight then fails.
    ///
    /// # Errors
    ///
    /// `AlreadyExists` with [`Error::existing`] for [`PutMode::Create`] on an existing key, whatever its value: if
    /// `put` reports "stored", the caller's KEK opens the device.
    /// `Conflict` or `NotFound` for [`PutMode::Update`] on a key that has changed or is gone.
    /// `Unsupported` for a mode that [`capability`](Self::capability) excludes.
    async fn put(&self, name: &KeyName, kek: &Kek, mode: PutMode) -> Result<KeyVersion>;

    /// Reads a KEK.
    ///
    /// # Errors
    ///
    /// `NotFound` if the key is absent or deleted; `Protocol` if the stored value is not a KEK.
    async fn get(&self, name: &KeyName, freshness: Freshness) -> Result<Stored>;

    /// Deletes a key, and returns whether it can be recovered.
    ///
    /// # Errors
    ///
    /// `NotFound` if the key is absent: the name is then usually wrong.
    /// `Unsupported` for a mode that [`capability`](Self::capability) excludes.
    async fn delete(&self, name: &KeyName, mode: DeleteMode) -> Result<Deleted>;

    /// Lists the keys of this provider, in no particular order. A list has no key material.
    ///
    /// It leaves out the objects of other programs in the same place.
    ///
    /// # Errors
    ///
    /// `Incomplete` as the last item, after the keys that were found, if the server does not return every key. A caller
    /// must not conclude from such a list that a key is absent.
    fn list(&self) -> KeyStream<'_>;

    /// Brings back a key that [`DeleteMode::Soft`] has deleted, and returns the version that is current again.
    ///
    /// # Errors
    ///
    /// `NotFound` if there is no deleted key that the server can bring back; `AlreadyExists` if the key exists.
    /// `Unsupported` if [`capability`](Self::capability) excludes soft deletes.
    async fn undelete(&self, name: &KeyName) -> Result<KeyVersion>;

    /// Reads every KEK that the server still has for a key, the newest first.
    ///
    /// A recovery of a device tries them all. The read is fresh. [`HistoryMode::Restore`] reads deleted versions too.
    ///
    /// # Errors
    ///
    /// `NotFound` if the server has no version of the key, a deleted one included. `Unsupported` if
    /// [`capability`](Self::capability) excludes it.
    async fn history(&self, name: &KeyName, mode: HistoryMode) -> Result<Vec<PastKek>>;

    /// Destroys or disables the versions of a key before `current`, and returns their number.
    ///
    /// # Errors
    ///
    /// `Unsupported` if the server keeps no superseded versions; `Conflict` if `current` is not the current version.
    async fn retire_superseded(&self, name: &KeyName, current: &KeyVersion) -> Result<usize>;

    /// Asks the server whether it would allow updates of these keys, and changes nothing. Returns one answer for each
    /// name, in the order of the names.
    ///
    /// A rotation asks before it touches a device. The provider sends as few requests as the server allows, and does
    /// not check whether the keys exist. A key that exists and cannot change is `Denied` too.
    ///
    /// # Errors
    ///
    /// Errors of the connection and the login. If the server refuses the question, the answer is
    /// [`UpdateRight::Unknown`], not an error.
    async fn may_update(&self, names: &[KeyName]) -> Result<Vec<UpdateRight>>;

    /// Connects and logs in, and reports what it presented and what it found. Reads no key and changes nothing.
    ///
    /// The provider adds each step to `probe` when the step ends, so that a probe which is cut off keeps its steps.
    async fn probe(&self, probe: &mut Probe);
}

macro_rules! forward {
    ($($wrapper:ty),*) => {$(
        #[async_trait]
        #[deny(clippy::missing_trait_methods)]
        impl<P: KmsProvider + ?Sized> KmsProvider for $wrapper {
            fn provider(&self) -> &'static str {
                (**self).provider()
            }

            fn capability(&self) -> Capability {
                (**self).capability()
            }

            async fn put(&self, name: &KeyName, kek: &Kek, mode: PutMode) -> Result<KeyVersion> {
                (**self).put(name, kek, mode).await
            }

            async fn get(&self, name: &KeyName, freshness: Freshness) -> Result<Stored> {
                (**self).get(name, freshness).await
            }

            async fn delete(&self, name: &KeyName, mode: DeleteMode) -> Result<Deleted> {
                (**self).delete(name, mode).await
            }

            fn list(&self) -> KeyStream<'_> {
                (**self).list()
            }

            async fn undelete(&self, name: &KeyName) -> Result<KeyVersion> {
                (**self).undelete(name).await
            }

            async fn history(&self, name: &KeyName, mode: HistoryMode) -> Result<Vec<PastKek>> {
                (**self).history(name, mode).await
            }

            async fn retire_superseded(&self, name: &KeyName, current: &KeyVersion) -> Result<usize> {
                (**self).retire_superseded(name, current).await
            }

            async fn may_update(&self, names: &[KeyName]) -> Result<Vec<UpdateRight>> {
                (**self).may_update(names).await
            }

            async fn probe(&self, probe: &mut Probe) {
                (**self).probe(probe).await;
            }
        }
    )*};
}

forward!(Arc<P>, Box<P>);

/// The result of [`KmsProviderExt::ensure`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Ensured {
    /// Whether the candidate was stored. `false` if the key existed already, or if another writer was faster.
    pub created: bool,
    /// The stored KEK.
    pub stored: Stored,
}

/// Operations that every provider has, built on [`KmsProvider`].
#[async_trait]
pub trait KmsProviderExt: KmsProvider {
    /// Returns the report of a [probe](KmsProvider::probe).
    async fn probed(&self) -> Probe {
        let mut probe = Probe::new();
        self.probe(&mut probe).await;
        probe
    }

    /// Gets the key, or stores `candidate` if the key is absent. An operator calls this before it prepares an OSD.
    ///
    /// A caller that loses a race gets the winner's KEK, and its candidate is wiped.
    /// If creating is only [`Guarantee::CheckThenAct`], `ensure` reads the key until two reads a quarter of a second
    /// apart agree: all writers of the race have written by then, and all of them see the last one's KEK.
    ///
    /// # Errors
    ///
    /// Those of [`KmsProvider::put`] and [`KmsProvider::get`]; `Conflict` if the key was deleted or replaced during
    /// every try.
    async fn ensure(&self, name: &KeyName, candidate: Kek) -> Result<Ensured> {
        for _ in 0..ENSURE_ROUNDS {
            let created = match self.get(name, Freshness::Fresh).await {
                Ok(stored) if self.capability().create == Guarantee::Atomic => {
                    return Ok(Ensured { created: false, stored });
                }
                Ok(_) => false,
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    match self.put(name, &candidate, PutMode::Create).await {
                        Ok(version) if self.capability().create == Guarantee::Atomic => {
                            return Ok(Ensured { created: true, stored: Stored::new(candidate, version) });
                        }
                        Ok(_) => true,
                        // Another writer was faster.
                        Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
                        Err(error) => return Err(error),
                    }
                }
                Err(error) => return Err(error),
            };
            match settled(self, name).await? {
                Some(stored) => {
                    let created = created && stored.kek.ct_eq(&candidate);
                    return Ok(Ensured { created, stored });
                }
                None => continue,
            }
        }
        Err(Error::new(
            ErrorKind::Conflict,
            "the key was deleted or replaced each time that it was looked at",
        )
        .operation("ensure")
        .provider(self.provider())
        .context("key", name.as_str()))
    }
}

impl<P: KmsProvider + ?Sized> KmsProviderExt for P {}

/// Reads the stored KEK, and reads it twice if creates are not atomic. `None` if the key is absent, or if the second
/// read finds another KEK.
async fn settled<P: KmsProvider + ?Sized>(kms: &P, name: &KeyName) -> Result<Option<Stored>> {
    let read = async || match kms.get(name, Freshness::Fresh).await {
        Ok(stored) => Ok(Some(stored)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    let Some(first) = read().await? else { return Ok(None) };
    if kms.capability().create == Guarantee::Atomic {
        return Ok(Some(first));
    }
    sleep(SETTLE).await;
    Ok(read().await?.filter(|second| second.kek.ct_eq(&first.kek)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compiles only while the trait is dyn-compatible.
    fn _is_dyn_compatible(provider: Arc<dyn KmsProvider>) -> Arc<dyn KmsProvider> {
        provider
    }

    #[tokio::test]
    async fn ensure_returns_the_key_of_the_first_caller() {
        let kms: Arc<dyn KmsProvider> = Arc::new(crate::memory::Memory::new());
        let name = KeyName::new("set1-data-0").unwrap();
        let first = kms.ensure(&name, Kek::generate().unwrap()).await.unwrap();
        let second = kms.ensure(&name, Kek::generate().unwrap()).await.unwrap();
        assert!(first.created && !second.created);
        assert!(first.stored.kek.ct_eq(&second.stored.kek));
        assert_eq!(first.stored.version, second.stored.version);
    }
}
