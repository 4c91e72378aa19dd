//! A provider that fails on demand.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt, future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use kms_core::{
    Capability, DeleteMode, Error, ErrorKind, Freshness, HistoryMode, Kek, KeyInfo, KeyName, KeyStream,
    KeyVersion, KmsProvider, PastKek, Probe, PutMode, Result, Retry, Stored, UpdateRight, memory::Memory,
    provider::Deleted,
};
use tokio::time::Instant;

/// A method of [`KmsProvider`] that does I/O.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum Operation {
    /// [`KmsProvider::delete`].
    Delete,
    /// [`KmsProvider::get`].
    Get,
    /// [`KmsProvider::history`].
    History,
    /// [`KmsProvider::may_update`].
    Rights,
    /// [`KmsProvider::list`], counted at the request for the first key.
    List,
    /// [`KmsProvider::probe`].
    Probe,
    /// [`KmsProvider::put`].
    Put,
    /// [`KmsProvider::retire_superseded`].
    Retire,
    /// [`KmsProvider::undelete`].
    Undelete,
}

/// A recorded call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Call {
    /// The method.
    pub operation: Operation,
    /// The time by tokio's clock, which tests can pause.
    pub at: Instant,
}

/// A fault that a call meets.
#[derive(Debug)]
pub struct InjectedFault {
    end: End,
    applied: Applied,
    overtaken: Option<Overtaken>,
    after_items: usize,
}

#[derive(Debug)]
enum End {
    Fail { kind: ErrorKind, retry: Retry, wait: Option<Duration> },
    Hang,
    Pass,
}

#[derive(Debug)]
enum Applied {
    No,
    Now,
    BeforeCall(usize),
}

#[derive(Debug)]
enum Overtaken {
    Delete,
    Put(Kek),
}

impl InjectedFault {
    fn new(end: End) -> Self {
        Self { end, applied: Applied::No, overtaken: None, after_items: 0 }
    }

    /// The call fails without an effect, and its error does not allow a retry.
    pub fn error(kind: ErrorKind) -> Self {
        Self::new(End::Fail { kind, retry: Retry::Never, wait: None })
    }

    /// The call never returns and has no effect.
    pub fn hang() -> Self {
        Self::new(End::Hang)
    }

    /// The call succeeds. It spares a call from the next fault in the queue.
    pub fn pass() -> Self {
        Self { applied: Applied::Now, ..Self::new(End::Pass) }
    }

    /// Sets whether the error allows a retry.
    ///
    /// # Panics
    ///
    /// If the fault is not an error.
    #[must_use]
    pub fn retry(mut self, retry: Retry) -> Self {
        let End::Fail { retry: of_error, .. } = &mut self.end else { panic!("{self:?} has no error") };
        *of_error = retry;
        self
    }

    /// Sets the wait that the error asks for.
    ///
    /// # Panics
    ///
    /// If the fault is not an error.
    #[must_use]
    pub fn wait(mut self, wait: Duration) -> Self {
        let End::Fail { wait: of_error, .. } = &mut self.end else { panic!("{self:?} has no error") };
        *of_error = Some(wait);
        self
    }

    /// The call takes effect nevertheless: only its result is lost.
    #[must_use]
    pub fn applied(mut self) -> Self {
        self.applied = Applied::Now;
        self
    }

    /// The call takes effect late, right before the `calls`-th call after it; 1 is the next call.
    /// For puts and deletes only.
    #[must_use]
    pub fn applied_before_call(mut self, calls: usize) -> Self {
        self.applied = Applied::BeforeCall(calls);
        self
    }

    /// Another client stores this KEK under the same name before the call ends. For puts and deletes only.
    #[must_use]
    pub fn overtaken_by(mut self, kek: Kek) -> Self {
        self.overtaken = Some(Overtaken::Put(kek));
        self
    }

    /// Another client deletes the key before the call ends. For puts and deletes only.
    #[must_use]
    pub fn overtaken_by_delete(mut self) -> Self {
        self.overtaken = Some(Overtaken::Delete);
        self
    }

    /// A list returns this many keys before it fails.
    #[must_use]
    pub fn after_items(mut self, items: usize) -> Self {
        self.after_items = items;
        self
    }
}

/// A write in flight.
#[derive(Debug)]
enum Late {
    Delete(KeyName, DeleteMode),
    Put(KeyName, Kek, PutMode),
}

#[derive(Debug, Default)]
struct State {
    queues: BTreeMap<Operation, VecDeque<InjectedFault>>,
    calls: Vec<Call>,
    late: Vec<(usize, Late)>,
}

/// A provider that wraps another one, fails on demand and records calls.
///
/// Each operation has a queue of faults. A call takes the first fault; with an empty queue it succeeds.
pub struct Scripted {
    inner: Arc<dyn KmsProvider>,
    state: Mutex<State>,
}

impl Scripted {
    /// Wraps an empty [`Memory`].
    pub fn new() -> Self {
        Self::around(Arc::new(Memory::new()))
    }

    /// Wraps this provider.
    pub fn around(inner: Arc<dyn KmsProvider>) -> Self {
        Self { inner, state: Mutex::default() }
    }

    /// The wrapped provider. Its calls are not recorded and meet no faults.
    pub fn inner(&self) -> &Arc<dyn KmsProvider> {
        &self.inner
    }

    /// Adds a fault to the queue of an operation.
    pub fn push(&self, operation: Operation, fault: InjectedFault) {
        self.state().queues.entry(operation).or_default().push_back(fault);
    }

    /// Adds `times` faults to the queue of an operation.
    pub fn push_times(&self, times: usize, operation: Operation, fault: impl Fn() -> InjectedFault) {
        for _ in 0..times {
            self.push(operation, fault());
        }
    }

    /// Forgets recorded calls and queued faults.
    pub fn reset(&self) {
        *self.state() = State::default();
    }

    /// The recorded calls, in order.
    pub fn calls(&self) -> Vec<Call> {
        self.state().calls.clone()
    }

    /// The number of calls of an operation.
    pub fn count(&self, operation: Operation) -> usize {
        self.state().calls.iter().filter(|call| call.operation == operation).count()
    }

    /// The times between the calls of an operation.
    pub fn pauses(&self, operation: Operation) -> Vec<Duration> {
        let calls: Vec<_> = self.calls().into_iter().filter(|call| call.operation == operation).collect();
        calls.windows(2).map(|pair| pair[1].at - pair[0].at).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a call, applies the late writes that are due, and takes the fault.
    async fn begin(&self, operation: Operation) -> InjectedFault {
        let (fault, due) = {
            let mut state = self.state();
            state.calls.push(Call { operation, at: Instant::now() });
            for (calls, _) in &mut state.late {
                *calls -= 1;
            }
            let (due, late) = std::mem::take(&mut state.late).into_iter().partition(|(calls, _)| *calls == 0);
            state.late = late;
            let fault = state.queues.get_mut(&operation).and_then(VecDeque::pop_front);
            (fault.unwrap_or_else(InjectedFault::pass), due)
        };
        let due: Vec<(usize, Late)> = due;
        for (_, write) in due {
            // The store decides whether a late write is still possible.
            let _ = match write {
                Late::Delete(name, mode) => self.inner.delete(&name, mode).await.map(drop),
                Late::Put(name, kek, mode) => self.inner.put(&name, &kek, mode).await.map(drop),
            };
        }
        fault
    }

    fn later(&self, calls: usize, write: Late) {
        self.state().late.push((calls.max(1), write));
    }

    async fn overtake(&self, name: &KeyName, overtaken: Option<Overtaken>) {
        let _ = match overtaken {
            Some(Overtaken::Delete) => self.inner.delete(name, DeleteMode::Destroy).await.map(drop),
            Some(Overtaken::Put(kek)) => self.inner.put(name, &kek, PutMode::Overwrite).await.map(drop),
            None => Ok(()),
        };
    }
}

impl Default for Scripted {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { inner, state: _ } = self;
        f.debug_struct("Scripted").field("inner", inner).finish_non_exhaustive()
    }
}

impl End {
    /// Returns the error, never returns, or returns normally.
    async fn reached(self) -> Result<()> {
        match self {
            Self::Fail { kind, retry, wait } => {
                Err(Error::new(kind, "as the script says").retry(retry).retry_after(wait))
            }
            Self::Hang => future::pending().await,
            Self::Pass => Ok(()),
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl KmsProvider for Scripted {
    fn provider(&self) -> &'static str {
        self.inner.provider()
    }

    fn capability(&self) -> Capability {
        self.inner.capability()
    }

    async fn put(&self, name: &KeyName, kek: &Kek, mode: PutMode) -> Result<KeyVersion> {
        let fault = self.begin(Operation::Put).await;
        let result = match fault.applied {
            Applied::No => None,
            Applied::Now => Some(self.inner.put(name, kek, mode).await),
            Applied::BeforeCall(calls) => {
                self.later(calls, Late::Put(name.clone(), kek.duplicate(), mode));
                None
            }
        };
        self.overtake(name, fault.overtaken).await;
        fault.end.reached().await?;
        result.expect("a call that passes was applied")
    }

    async fn get(&self, name: &KeyName, freshness: Freshness) -> Result<Stored> {
        self.begin(Operation::Get).await.end.reached().await?;
        self.inner.get(name, freshness).await
    }

    async fn delete(&self, name: &KeyName, mode: DeleteMode) -> Result<Deleted> {
        let fault = self.begin(Operation::Delete).await;
        let result = match fault.applied {
            Applied::No => None,
            Applied::Now => Some(self.inner.delete(name, mode).await),
            Applied::BeforeCall(calls) => {
                self.later(calls, Late::Delete(name.clone(), mode));
                None
            }
        };
        self.overtake(name, fault.overtaken).await;
        fault.end.reached().await?;
        result.expect("a call that passes was applied")
    }

    fn list(&self) -> KeyStream<'_> {
        Box::pin(
            stream::once(async {
                let fault = self.begin(Operation::List).await;
                if matches!(fault.end, End::Pass) {
                    return self.inner.list();
                }
                let end = stream::once(fault.end.reached()).filter_map(async |end| match end {
                    Ok(()) => None,
                    Err(error) => Some(Err::<KeyInfo, _>(error)),
                });
                Box::pin(self.inner.list().take(fault.after_items).chain(end)) as KeyStream<'_>
            })
            .flatten(),
        )
    }

    async fn undelete(&self, name: &KeyName) -> Result<KeyVersion> {
        let fault = self.begin(Operation::Undelete).await;
        let result = match fault.applied {
            Applied::Now => Some(self.inner.undelete(name).await),
            Applied::No | Applied::BeforeCall(_) => None,
        };
        fault.end.reached().await?;
        result.expect("a call that passes was applied")
    }

    async fn history(&self, name: &KeyName, mode: HistoryMode) -> Result<Vec<PastKek>> {
        self.begin(Operation::History).await.end.reached().await?;
        self.inner.history(name, mode).await
    }

    async fn retire_superseded(&self, name: &KeyName, current: &KeyVersion) -> Result<usize> {
        let fault = self.begin(Operation::Retire).await;
        let result = match fault.applied {
            Applied::Now => Some(self.inner.retire_superseded(name, current).await),
            Applied::No | Applied::BeforeCall(_) => None,
        };
        fault.end.reached().await?;
        result.expect("a call that passes was applied")
    }

    async fn may_update(&self, names: &[KeyName]) -> Result<Vec<UpdateRight>> {
        self.begin(Operation::Rights).await.end.reached().await?;
        self.inner.may_update(names).await
    }

    async fn probe(&self, probe: &mut Probe) {
        probe.plan(&["begun", "script", "store"]);
        probe.pass("begun", "as the script says");
        match self.begin(Operation::Probe).await.end.reached().await {
            Ok(()) => {
                probe.pass("script", "passed");
                self.inner.probe(probe).await;
            }
            Err(error) => drop(probe.fail("script", error)),
        }
    }
}
