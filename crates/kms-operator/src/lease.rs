//! The Lease that decides which replica acts.
//!
//! It is load control and not what keeps a device safe: that is the name of a Job, the lock of the device, and the
//! compare-and-set of the KMS. So two leaders for a moment do no harm.
//!
//! Times in the Lease are for people. Whether a Lease has ended is measured by the monotonic clock of the replica that looks, from
//! the moment at which it saw the Lease change; so clocks that differ do not matter.

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    time::{Duration, Instant},
};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kms_core::{Error, ErrorKind, Result};
use kms_kube::{Connection, Objects};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::{
    clock::Clock,
    health::{Health, Role},
};

/// The name of the Lease.
pub const LEASE: &str = "kms-operator";

/// How long and how often.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct LeaseTimes {
    /// How long the other replicas wait after the last change of the Lease.
    pub duration: Duration,
    /// How often the holder changes the Lease, and the others look.
    pub renew: Duration,
}

impl LeaseTimes {
    /// Sets both times.
    #[must_use]
    pub const fn new(duration: Duration, renew: Duration) -> Self {
        Self { duration, renew }
    }

    /// How long a holder acts after a change of the Lease: it stops well before another one may begin.
    fn holds(self) -> Duration {
        self.duration * 2 / 3
    }
}

impl Default for LeaseTimes {
    fn default() -> Self {
        Self::new(Duration::from_secs(15), Duration::from_secs(5))
    }
}

/// Whether this replica may act. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Leadership(watch::Receiver<Option<Instant>>);

impl Leadership {
    /// Whether this replica holds the Lease at this moment.
    pub(crate) fn holds(&self) -> bool {
        self.0.borrow().is_some_and(|until| Instant::now() < until)
    }

    /// Waits until the replica has won, renewed or lost the Lease. Never returns once the election has ended.
    pub(crate) async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// The part of a replica in the election.
#[derive(Debug)]
pub(crate) struct Election {
    leases: Objects<Lease>,
    identity: String,
    times: LeaseTimes,
    clock: Clock,
    health: Health,
    held_until: watch::Sender<Option<Instant>>,
    observed: Option<Observed>,
    /// The Lease as this replica has written it, if it holds the Lease.
    own: Option<Lease>,
}

/// The Lease, as it was last seen to change.
#[derive(Debug)]
struct Observed {
    version: String,
    since: Instant,
}

impl Election {
    /// # Errors
    ///
    /// `ConfigInvalid` if the text cannot be the name of a namespace.
    pub(crate) fn new(
        connection: Connection,
        kube_namespace: &str,
        identity: String,
        times: LeaseTimes,
        clock: Clock,
        health: Health,
    ) -> Result<(Self, Leadership)> {
        let leases = Objects::new(connection, kube_namespace)?;
        let (held_until, receiver) = watch::channel(None);
        Ok((
            Self { leases, identity, times, clock, health, held_until, observed: None, own: None },
            Leadership(receiver),
        ))
    }

    /// Takes part until `stop` is true, and releases the Lease then.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let (mut was_leading, mut failing) = (false, false);
        while !*stop.borrow() {
            let begun = Instant::now();
            // A request that hangs must leave time for another one.
            match tokio::time::timeout(self.times.renew, self.step()).await.unwrap_or_else(|_| Err(slow())) {
                Ok(true) => {
                    failing = false;
                    self.held_until.send_replace(Some(begun + self.times.holds()));
                }
                Ok(false) => {
                    failing = false;
                    self.held_until.send_replace(None);
                }
                // The time until which the Lease is held runs out by itself.
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        warn!("the Lease {LEASE} could not be read or renewed: {error}");
                    }
                    self.health.failed(error.to_string());
                }
            }
            let leads = self.is_held();
            if leads != was_leading {
                info!(identity = %self.identity, "this replica {} the Lease", if leads { "holds" } else { "does not hold" });
            }
            was_leading = leads;
            self.health.polled(if leads { Role::Leading } else { Role::Standby });
            let stopped = tokio::time::timeout(self.pause(leads, failing), stop.wait_for(|stop| *stop)).await;
            if matches!(stopped, Ok(Err(_))) {
                break;
            }
        }
        if self.held_until.send_replace(None).is_some() {
            let released =
                tokio::time::timeout(self.times.renew, self.release()).await.unwrap_or_else(|_| Err(slow()));
            if let Err(error) = released {
                warn!(
                    "the Lease {LEASE} could not be released, so another replica waits for its end: {error}"
                );
            }
        }
        self.health.polled(Role::Standby);
    }

    fn is_held(&self) -> bool {
        self.held_until.borrow().is_some_and(|until| Instant::now() < until)
    }

    /// The time until the next step, a tenth more or less, so that replicas do not meet.
    fn pause(&self, leads: bool, failing: bool) -> Duration {
        // A request that failed leaves little time until the Lease is lost.
        let renew = if failing { self.times.renew / 5 } else { self.times.renew };
        let tenth = renew / 10;
        let random = RandomState::new().build_hasher().finish();
        let part = u32::try_from(random % 200).unwrap_or_default();
        let pause = renew - tenth + tenth * part / 100;
        let ends = self.observed.as_ref().filter(|_| !leads).map(|seen| seen.since + self.times.duration);
        let left = ends.map(|ends| ends.saturating_duration_since(Instant::now()));
        match left {
            Some(left) if !left.is_zero() => pause.min(left),
            _ => pause,
        }
    }

    /// Takes or renews the Lease if that is possible. Returns whether this replica holds it.
    async fn step(&mut self) -> Result<bool> {
        // A holder knows the Lease as it has written it; if that is not so any more, the write fails.
        let known = match self.own.take() {
            Some(lease) => Ok(lease),
            None => self.leases.read::<Lease>(LEASE).await,
        };
        let lease = match known {
            Ok(lease) => lease,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let lease = Lease {
                    metadata: ObjectMeta { name: Some(LEASE.to_owned()), ..ObjectMeta::default() },
                    spec: Some(self.spec(&LeaseSpec::default())),
                };
                let created = self.leases.create(LEASE, &lease).await;
                return held(created);
            }
            Err(error) => return Err(error),
        };
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        if self.observed.as_ref().is_none_or(|observed| observed.version != version) {
            self.observed = Some(Observed { version, since: Instant::now() });
        }
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        let lasts = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        let lasts = lasts.map_or(self.times.duration, Duration::from_secs).max(self.times.duration);
        let has_ended = self.observed.as_ref().is_some_and(|observed| observed.since.elapsed() >= lasts);
        self.health.saw_holder(holder);
        if !holder.is_empty() && holder != self.identity && !has_ended {
            return Ok(false);
        }
        // The resource version is that of the Lease as read, so another replica that was faster wins.
        let lease = Lease { spec: Some(self.spec(&spec)), ..lease };
        let replaced = self.leases.replace(LEASE, &lease).await;
        held(replaced.map(|stored| {
            let version = stored.resource_version.clone().unwrap_or_default();
            self.observed = Some(Observed { version, since: Instant::now() });
            self.own = Some(Lease { metadata: stored, ..lease });
        }))
    }

    /// The Lease with this replica as the holder.
    fn spec(&self, before: &LeaseSpec) -> LeaseSpec {
        let now = self.clock.now().map(MicroTime);
        let is_renewal = before.holder_identity.as_ref() == Some(&self.identity);
        let (acquired, transitions) = if is_renewal {
            (before.acquire_time.clone(), before.lease_transitions)
        } else {
            (now.clone(), Some(before.lease_transitions.map_or(0, |count| count.saturating_add(1))))
        };
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            // Whole seconds, and never fewer than this replica acts.
            lease_duration_seconds: Some(
                i32::try_from(self.times.duration.as_secs().max(1)).unwrap_or(i32::MAX),
            ),
            acquire_time: acquired,
            renew_time: now,
            lease_transitions: transitions,
            ..LeaseSpec::default()
        }
    }

    /// Gives the Lease back, so that another replica need not wait for its end.
    async fn release(&self) -> Result<()> {
        let lease: Lease = self.leases.read(LEASE).await?;
        let spec = lease.spec.clone().unwrap_or_default();
        if spec.holder_identity.as_ref() != Some(&self.identity) {
            return Ok(());
        }
        let spec = LeaseSpec { holder_identity: None, renew_time: self.clock.now().map(MicroTime), ..spec };
        self.leases.replace(LEASE, &Lease { spec: Some(spec), ..lease }).await.map(drop)
    }
}

/// Whether the Lease is held after a write: another replica may have been faster.
fn held(written: Result<()>) -> Result<bool> {
    match written {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::Conflict) => Ok(false),
        Err(error) => Err(error),
    }
}

fn slow() -> Error {
    Error::new(ErrorKind::Timeout, "the API server did not respond in time")
}
