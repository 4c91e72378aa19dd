//! The layer that limits, traces and repeats calls.

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use tokio::time::Instant;

use super::{
    LayerOptions,
    tries::{Tries, unknown_outcome},
};
use crate::{
    Capability, DeleteMode, Error, ErrorKind, Existing, Freshness, HistoryMode, Kek, KeyName, KeyStream,
    KeyVersion, KmsProvider, PastKek, Probe, PutMode, Result, Retry, Stored, UpdateRight, provider::Deleted,
};

/// The text in the last error of a put whose outcome is unknown.
const MAYBE_STORED: &str = "unknown: it may have been stored";
/// The text in the last error of a delete whose outcome is unknown.
const MAYBE_DELETED: &str = "unknown: it may have been deleted";
/// The text in the last error of an undelete whose outcome is unknown.
const MAYBE_UNDELETED: &str = "unknown: the key may be back";
/// How often a probe is tried at most. A connection that breaks once is no finding.
const PROBES: u32 = 3;

/// A provider whose calls end in time, and are repeated after a transient failure.
///
/// Each try ends at its limit, in a list each page, and leaves an event ([`TRIED`](super::TRIED)).
/// Pauses grow by decorrelated jitter: each is a random time between the floor and three times the previous pause.
/// A `Retry-After` of the server is the shortest pause. The jitter is added to it, so that clients that the server
/// refused together do not come back together.
/// If the outcome of a put is unknown, this layer does a fresh read and compares the stored KEK before it retries.
#[derive(Debug)]
pub struct Retried<P> {
    inner: P,
    options: LayerOptions,
}

impl<P: KmsProvider> Retried<P> {
    /// Wraps a provider.
    pub fn new(inner: P, options: LayerOptions) -> Self {
        Self { inner, options }
    }

    fn tries<'a>(&self) -> Tries<'a> {
        Tries::of_provider(self.inner.provider(), &self.options)
    }

    /// Reads the key after a put with unknown outcome, and returns its version if the put was applied.
    ///
    /// `None` if the put was not applied and may be retried.
    async fn settle(
        &self,
        tries: &Tries<'_>,
        name: &KeyName,
        kek: &Kek,
        mode: &PutMode,
    ) -> Result<Option<KeyVersion>> {
        let stored = match tries.one("get", self.inner.get(name, Freshness::Fresh)).await {
            Ok(stored) => stored,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return match mode {
                    PutMode::Update(_) => Err(error),
                    PutMode::Create | PutMode::Overwrite => Ok(None),
                };
            }
            // Only this read could show the outcome, and it has failed.
            Err(error) => return Err(unknown_outcome(error, MAYBE_STORED)),
        };
        if stored.kek.ct_eq(kek) {
            return Ok(Some(stored.version));
        }
        match mode {
            PutMode::Create => Err(Error::already_exists(name, Existing::Different)
                .operation("put")
                .provider(self.inner.provider())),
            PutMode::Update(expected) if *expected != stored.version => {
                Err(Error::key_changed(name).operation("put").provider(self.inner.provider()))
            }
            PutMode::Update(_) | PutMode::Overwrite => Ok(None),
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<P: KmsProvider> KmsProvider for Retried<P> {
    fn provider(&self) -> &'static str {
        self.inner.provider()
    }

    fn capability(&self) -> Capability {
        self.inner.capability()
    }

    async fn put(&self, name: &KeyName, kek: &Kek, mode: PutMode) -> Result<KeyVersion> {
        let mut tries = self.tries().of(name);
        let mut unknown = false;
        loop {
            // While an outcome is unknown, only the stored KEK shows whether to write again.
            let result = if unknown {
                match self.settle(&tries, name, kek, &mode).await {
                    Ok(Some(version)) => return Ok(version),
                    Ok(None) => tries.one("put", self.inner.put(name, kek, mode.clone())).await,
                    Err(error) if error.retryable() == Retry::Never => return Err(error),
                    Err(error) => Err(error),
                }
            } else {
                tries.one("put", self.inner.put(name, kek, mode.clone())).await
            };
            let error = match result {
                Ok(version) => return Ok(version),
                Err(error) => error,
            };
            // Schedule: our first put is in flight, `settle` finds it not applied, the first put arrives, and our
            // second put then loses against it. So the stored KEK may be ours.
            if unknown && matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::Conflict) {
                return match self.settle(&tries, name, kek, &mode).await {
                    Ok(Some(version)) => Ok(version),
                    _ => Err(error),
                };
            }
            unknown |= error.retryable() == Retry::IfIdempotent;
            tries
                .pause_after(error)
                .await
                .map_err(|error| if unknown { unknown_outcome(error, MAYBE_STORED) } else { error })?;
        }
    }

    async fn get(&self, name: &KeyName, freshness: Freshness) -> Result<Stored> {
        self.tries().of(name).run("get", || self.inner.get(name, freshness)).await
    }

    async fn delete(&self, name: &KeyName, mode: DeleteMode) -> Result<Deleted> {
        let tries = self.tries().of(name);
        let call = || self.inner.delete(name, mode);
        let deleted = tries.run_change("delete", MAYBE_DELETED, ErrorKind::NotFound, call).await?;
        Ok(deleted.unwrap_or(match mode {
            DeleteMode::Destroy => Deleted::Destroyed,
            DeleteMode::Soft => Deleted::Recoverable { until: None },
        }))
    }

    /// Retries a list until its first key; after that an error is final.
    ///
    /// The deadline is for the first key, since the time for the rest depends on the reader.
    fn list(&self) -> KeyStream<'_> {
        struct State<'a> {
            keys: KeyStream<'a>,
            /// The tries, and when the last one began. `None` until the reader asks for the first key: the time before that does
            /// not count.
            tries: Option<(Tries<'a>, Instant)>,
            begun: bool,
        }

        let start = State { keys: self.inner.list(), tries: None, begun: false };
        Box::pin(stream::unfold(Some(start), move |state| async move {
            let mut state = state?;
            let (tries, start) = state.tries.get_or_insert_with(|| (self.tries(), Instant::now()));
            loop {
                let next = async { state.keys.next().await.transpose() };
                let error = match tries.bounded("list", next).await {
                    Ok(Some(info)) => {
                        if !state.begun {
                            tries.lift_deadline();
                            state.begun = true;
                        }
                        return Some((Ok(info), Some(state)));
                    }
                    Ok(None) => {
                        tries.trace("list", *start, None);
                        return None;
                    }
                    Err(error) => error,
                };
                tries.trace("list", *start, Some(&error));
                let last = if state.begun { Err(error) } else { tries.pause_after(error).await };
                if let Err(error) = last {
                    return Some((Err(error), None));
                }
                (state.keys, *start) = (self.inner.list(), Instant::now());
            }
        }))
    }

    async fn undelete(&self, name: &KeyName) -> Result<KeyVersion> {
        let tries = self.tries().of(name);
        let call = || self.inner.undelete(name);
        match tries.run_change("undelete", MAYBE_UNDELETED, ErrorKind::AlreadyExists, call).await? {
            Some(version) => Ok(version),
            None => self.get(name, Freshness::Fresh).await.map(|stored| stored.version),
        }
    }

    async fn history(&self, name: &KeyName, mode: HistoryMode) -> Result<Vec<PastKek>> {
        self.tries().of(name).run("history", || self.inner.history(name, mode)).await
    }

    async fn retire_superseded(&self, name: &KeyName, current: &KeyVersion) -> Result<usize> {
        self.tries().of(name).run("retire", || self.inner.retire_superseded(name, current)).await
    }

    async fn may_update(&self, names: &[KeyName]) -> Result<Vec<UpdateRight>> {
        self.tries().run("rights", || self.inner.may_update(names)).await
    }

    async fn probe(&self, probe: &mut Probe) {
        let mut tries = self.tries();
        // A person who looks for a fault wants to see it now.
        tries.at_most(PROBES);
        loop {
            *probe = Probe::new();
            let mut step = None;
            let call = async {
                self.inner.probe(probe).await;
                probe.failed.take().map_or(Ok(()), |(name, error)| {
                    step = Some(name);
                    Err(error)
                })
            };
            let Err(error) = tries.one("probe", call).await else { return };
            match step {
                Some(step) => probe.failed = Some((step, error)),
                None => probe.cut_off(error),
            }
            let Some((step, error)) = probe.failed.take() else { return };
            if let Err(error) = tries.pause_after(error).await {
                probe.failed = Some((step, error));
                return;
            }
        }
    }
}
