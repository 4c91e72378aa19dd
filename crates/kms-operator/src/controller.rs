//! The loop of one namespace: looks, decides, and acts if this replica leads.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;
use k8s_openapi::api::{apps::v1::Deployment, batch::v1::Job};
use kms_core::{ErrorKind, KeyName, Result, Trace};
use kms_kube::Objects;
use kms_rook::{
    ESCROW_LABEL, Found, JobMaker, Naming, Osd, ROTATION_LABEL,
    client::{ApplyOptions, LastRotation, Reason, RookNamespace, prune},
};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::{
    api::OsdKey,
    clock::Clock,
    copies::in_words,
    escrow::{EscrowFacts, EscrowJob, EscrowPlan},
    events::Announcer,
    facts::{Facts, Obstacle, OsdFacts},
    health::Health,
    job::{Attempt, JobFacts, JobState, traced},
    keys,
    lease::Leadership,
    metrics::Reconciles,
    outlook::Outlook,
    place::{Copies, Ours, Shared, Sight},
    plan::{self, OsdPlan, Plan, plan},
    reports::Requests,
    tally::Tally,
    view::{ClusterView, EscrowView, KeyView, Publisher},
};

/// How long a Job that was created counts although no watch has shown it.
const UNSEEN: Duration = Duration::from_secs(60);

/// How many `OsdKey`s are written at a time.
const WRITES_PARALLEL: usize = 8;

/// How often the loops work.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Pace {
    /// How long a namespace waits for further events after one.
    pub debounce: Duration,
    /// The pause after a failure.
    pub retry: Duration,
    /// The longest pause between two looks.
    pub longest: Duration,
}

impl Pace {
    /// Sets the times.
    #[must_use]
    pub const fn new(debounce: Duration, retry: Duration, longest: Duration) -> Self {
        Self { debounce, retry, longest }
    }
}

impl Default for Pace {
    fn default() -> Self {
        Self::new(Duration::from_millis(500), Duration::from_secs(10), Duration::from_secs(60))
    }
}

/// The loop of one namespace.
#[derive(Debug)]
pub(crate) struct Controller {
    pub(crate) place: RookNamespace,
    pub(crate) copies: Copies,
    pub(crate) shared: Shared,
    pub(crate) jobs: Objects<Job>,
    pub(crate) deployments: Objects<Deployment>,
    pub(crate) keys: Objects<OsdKey>,
    pub(crate) clock: Clock,
    pub(crate) leadership: Leadership,
    pub(crate) health: Health,
    pub(crate) publisher: Publisher,
    pub(crate) reconciles: Reconciles,
    pub(crate) tally: Tally,
    pub(crate) requests: Requests,
    pub(crate) announcer: Announcer,
    pub(crate) image: Option<String>,
    pub(crate) pace: Pace,
    /// The Jobs that this replica has created and no watch has shown.
    pub(crate) begun: BTreeMap<String, (Instant, JobFacts)>,
    /// Why Rook's rotation keeps the operator from rotating, as last seen in Rook's CronJobs, Jobs and pods.
    pub(crate) rook: Option<String>,
    /// The faults of Deployments that were logged.
    pub(crate) logged: BTreeMap<String, String>,
}

impl Controller {
    /// Runs until it is dropped.
    pub(crate) async fn run(mut self, mut changed: watch::Receiver<()>) {
        loop {
            changed.mark_unchanged();
            let was_leading = self.leadership.holds();
            let (began, trace) = (Instant::now(), Trace::random());
            let result = trace.run(self.reconcile()).await;
            self.reconciles.ended(began.elapsed(), result.is_ok(), self.clock.now());
            let pause = match result {
                Ok(next) => self.until(next),
                Err(error) => {
                    let text = in_words(&error);
                    warn!(namespace = self.place.name(), %trace, "the keys could not be looked after: {text}");
                    self.health.failed(text);
                    self.pace.retry
                }
            };
            self.health.reconciled(self.place.name());
            let mut leadership = self.leadership.clone();
            let flips = async {
                while leadership.holds() == was_leading {
                    leadership.changed().await;
                }
            };
            tokio::select! {
                // The senders live as long as this loop.
                _ = changed.changed() => {}
                () = flips => {}
                () = tokio::time::sleep(pause) => {}
            }
            tokio::time::sleep(self.pace.debounce).await;
        }
    }

    /// The time until a moment, but no more than the longest pause.
    fn until(&self, next: Option<Timestamp>) -> Duration {
        let left = next.zip(self.clock.now()).map(|(next, now)| next.duration_since(now));
        let left = left.map(|left| Duration::try_from(left).unwrap_or_default());
        left.map_or(self.pace.longest, |left| left.min(self.pace.longest))
    }

    /// One look, and what follows from it. Returns when the plan changes by itself.
    async fn reconcile(&mut self) -> Result<Option<Timestamp>> {
        let Some(now) = self.clock.now() else { return Ok(None) };
        self.forget_begun();
        // A standby counts too: it may lead next.
        let reports = self.copies.reports.objects().unwrap_or_default();
        self.requests.count(self.place.name(), reports.into_values(), now);
        let Some(mut sight) = self.look(now) else { return Ok(None) };
        let planned = sight.ours.as_ref().map(|ours| plan(&ours.facts));
        let kube_namespace = self.place.name().to_owned();
        self.publisher.publish(&kube_namespace, sight.ours.as_ref().zip(planned.as_ref()).map(view));
        self.log_faults(&sight);
        if !self.leadership.holds() {
            self.announcer.forget();
            return Ok(planned.and_then(|plan| plan.next));
        }
        let (Some(ours), Some(mut plan)) = (&mut sight.ours, planned) else {
            self.remove_keys(&sight).await?;
            return Ok(None);
        };
        if self.asks_rook(&sight.cron_jobs, &ours.facts, &plan) {
            let names: Vec<&KeyName> = ours.osds.iter().map(|osd| &osd.name).collect();
            let found = self.place.rook_rotation(false).await?.check(&names).err();
            let before = std::mem::replace(&mut self.rook, found.map(|error| in_words(&error)));
            match &self.rook {
                // This pass still has the obstacle that is gone.
                None if before.is_some() => return Ok(Some(now)),
                None => {}
                Some(why) => {
                    ours.facts.rules = Err(Obstacle::RookRotates(why.clone()));
                    plan = plan::plan(&ours.facts);
                    self.publisher.publish(&kube_namespace, Some(view((ours, &plan))));
                }
            }
        }
        self.escrow(ours, &plan).await?;
        let acts = ours.facts.rules.is_ok() && !ours.facts.is_paused;
        if acts && sight.cron_jobs.contains(Naming::BesideRook.app()) {
            self.prune_cron_jobs().await?;
        }
        self.write_keys(&sight, &plan).await?;
        self.remove_keys(&sight).await?;
        if acts {
            self.begin(&sight, &plan).await?;
            self.delete_jobs(&plan).await?;
        }
        // What Rook does is looked at again in a while: it gives no event.
        let again = self.rook.as_ref().and_then(|_| now.checked_add(self.pace.retry).ok());
        Ok(plan.next.into_iter().chain(again).min())
    }

    fn look(&self, now: Timestamp) -> Option<Sight> {
        let begun = self.begun.iter().map(|(name, (_, job))| (name.clone(), job.clone())).collect();
        let kube_namespace = self.place.name();
        let mut sight =
            self.copies.sight(kube_namespace, &self.shared, now, &begun, self.image.as_deref())?;
        let facts = sight.ours.as_mut().map(|ours| &mut ours.facts);
        let provider = facts.as_ref().and_then(|facts| facts.provider.clone());
        self.tally.set(
            kube_namespace,
            provider.as_deref(),
            facts.as_ref().map_or(0, |facts| facts.running()),
        );
        if let Some(facts) = facts {
            facts.elsewhere = self.tally.elsewhere(kube_namespace, provider.as_deref());
        }
        if let (Some(why), Some(ours)) = (&self.rook, &mut sight.ours)
            && ours.facts.rules.is_ok()
        {
            ours.facts.rules = Err(Obstacle::RookRotates(why.clone()));
        }
        Some(sight)
    }

    /// Drops the Jobs that a watch has shown, or that none shows any more.
    fn forget_begun(&mut self) {
        let seen = &self.copies.jobs;
        self.begun.retain(|name, (since, _)| !seen.has(name) && since.elapsed() < UNSEEN);
    }

    /// Whether Rook's CronJobs, Jobs and pods have to be looked at: before a rotation begins, and while Rook has CronJobs or had
    /// something that runs. They give no watch, since Rook gives its Jobs no label.
    fn asks_rook(&self, cron_jobs: &BTreeSet<&str>, facts: &Facts, plan: &Plan) -> bool {
        let may_rotate = match &facts.rules {
            Ok(_) => true,
            Err(Obstacle::RookRotates(why)) => self.rook.as_ref() == Some(why),
            Err(Obstacle::Invalid(_)) => false,
        };
        let begins = plan.osds.iter().any(|osd| osd.start.is_some());
        may_rotate && (begins || self.rook.is_some() || cron_jobs.contains(Naming::Rook.app()))
    }

    fn log_faults(&mut self, sight: &Sight) {
        let faults = sight.ours.as_ref().map(|ours| ours.faults.clone()).unwrap_or_default();
        for (deployment, why) in &faults {
            if self.logged.get(deployment) != Some(why) {
                warn!(namespace = self.place.name(), %deployment, "the key of this OSD is not rotated: {why}");
            }
        }
        self.logged = faults;
    }

    async fn prune_cron_jobs(&self) -> Result<()> {
        let report = prune(&self.place, Naming::BesideRook, Reason::Requested, ApplyOptions::new()).await?;
        match report.first_error() {
            Some(error) => Err(error.clone()),
            None => {
                let count = report.outcomes.len();
                info!(
                    namespace = self.place.name(),
                    "deleted {count} CronJobs: the operator rotates these keys"
                );
                Ok(())
            }
        }
    }

    /// Creates the `OsdKey`s that are missing, and writes each status that has changed. One that fails does not block the others.
    async fn write_keys(&mut self, sight: &Sight, plan: &Plan) -> Result<()> {
        let Some(ours) = &sight.ours else { return Ok(()) };
        let this = &*self;
        let write = |(osd, osd_plan): (&Arc<Osd>, &OsdPlan)| {
            let (osd, osd_plan) = (Arc::clone(osd), osd_plan.clone());
            let stored = sight.keys.get(osd.name.as_str());
            async move {
                let written = if this.leadership.holds() {
                    let status = &osd_plan.status;
                    let written =
                        keys::write(&this.keys, &this.place, &ours.name, &osd, stored, status).await;
                    written.map(|()| true)
                } else {
                    Ok(false)
                };
                (osd, stored, osd_plan, written)
            }
        };
        let writes = stream::iter(ours.osds.iter().zip(&plan.osds).map(write));
        let writes: Vec<_> = writes.buffer_unordered(WRITES_PARALLEL).collect().await;
        let mut result = Ok(());
        for (osd, stored, osd_plan, written) in writes {
            match written {
                Ok(true) => {
                    let stored = stored.map(|stored| &stored.status);
                    self.announcer.announce(&self.place, &osd, stored, &osd_plan).await;
                }
                Ok(false) => {}
                Err(error) => result = result.and(Err(error)),
            }
        }
        result
    }

    /// Deletes the `OsdKey`s without an OSD. Kubernetes deletes them too, some time after the Deployment.
    async fn remove_keys(&self, sight: &Sight) -> Result<()> {
        for (name, key) in &sight.keys {
            let is_wanted = sight.ours.as_ref().is_some_and(|ours| {
                let faulty = key.spec.as_ref().is_some_and(|spec| ours.faults.contains_key(&spec.deployment));
                faulty || ours.osds.iter().any(|osd| osd.name.as_str() == name)
            });
            if !is_wanted && self.leadership.holds() {
                keys::remove(&self.keys, name, key).await?;
            }
        }
        Ok(())
    }

    /// Begins the rotations and verifications of the plan.
    async fn begin(&mut self, sight: &Sight, plan: &Plan) -> Result<()> {
        let Some(ours) = &sight.ours else { return Ok(()) };
        let Some((cluster, options)) = &ours.settings else { return Ok(()) };
        let maker = JobMaker::new(&cluster.spec, options)?;
        let mut result = Ok(());
        for (at, osd_plan) in plan.osds.iter().enumerate() {
            let (Some(attempt), Some(osd)) = (&osd_plan.start, ours.osds.get(at)) else { continue };
            if !self.leadership.holds() {
                break;
            }
            // One that fails does not block the others.
            result = result.and(match self.is_still_due(ours, at, osd, attempt).await {
                // This replica may have lost the Lease while the API server was asked.
                Ok(true) if self.leadership.holds() && self.may_begin(&ours.facts) => {
                    self.create(&maker, osd, attempt).await
                }
                Ok(_) => Ok(()),
                Err(error) => Err(error.context("deployment", &osd.deployment)),
            });
        }
        result
    }

    /// Counts one more Job for the KMS, if its limit allows that. The loops of other namespaces count at the same time.
    fn may_begin(&self, facts: &Facts) -> bool {
        facts.limit.is_none_or(|limit| self.tally.begin(self.place.name(), limit))
    }

    /// Begins the escrow of the plan, deletes Jobs of escrows that guard nothing, and tells of a failure. It waits for nothing
    /// but a pause: an escrow touches no device, so Rook may rotate keys at the same time.
    async fn escrow(&mut self, ours: &Ours, plan: &Plan) -> Result<()> {
        let Some((cluster, options)) = &ours.settings else { return Ok(()) };
        let EscrowPlan { start, failed, obsolete, .. } = &plan.escrow;
        if let (Some((at, _)), Some(why), Some(reference)) =
            (failed, plan.escrow.problem(), &cluster.reference)
        {
            self.announcer.escrow_failed(&self.place, reference, *at, why).await;
        }
        if ours.facts.is_paused {
            return Ok(());
        }
        for job in obsolete {
            if self.leadership.holds() {
                self.jobs.delete(&job.name, job.uid.clone(), false).await?;
            }
        }
        let (Some(attempt), Some(Ok(rules))) = (start, &ours.facts.escrow.rules) else { return Ok(()) };
        // What the API server has now: the copies may be older.
        let jobs: Vec<Job> = self.jobs.list(ESCROW_LABEL).await?;
        let jobs = jobs.iter().filter_map(EscrowJob::of).collect();
        let fresh = EscrowFacts { jobs, ..ours.facts.escrow.clone() };
        let is_due = fresh.plan(ours.facts.now).start.as_ref() == Some(attempt);
        if !is_due || !self.leadership.holds() || !self.may_begin(&ours.facts) {
            return Ok(());
        }
        let name = attempt.job_name();
        match self.jobs.create(&name, &traced(attempt.job(cluster, options, rules)?)).await {
            Ok(()) => info!(namespace = self.place.name(), job = %name, "an escrow begins"),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Whether an attempt is still due by what the API server has now: the copies may be older.
    async fn is_still_due(&self, ours: &Ours, at: usize, osd: &Osd, attempt: &Attempt) -> Result<bool> {
        let label = format!("{ROTATION_LABEL}={}", osd.id);
        let jobs: Vec<Job> = self.jobs.list(&label).await?;
        let deployment: serde_json::Value = match self.deployments.read(&osd.deployment).await {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            read => read?,
        };
        let Some(Found::Osd(current)) = Found::of_value(&deployment) else { return Ok(false) };
        let Some(known) = ours.facts.osds.get(at) else { return Ok(false) };
        let mut fresh = known.clone();
        // What the pods of the Jobs have reported is in the copies alone.
        let failure = |job: &JobFacts| known.jobs.iter().find(|one| one.uid == job.uid)?.failure;
        let jobs = jobs.iter().filter_map(JobFacts::of);
        fresh.jobs = jobs.map(|job| JobFacts { failure: failure(&job), ..job }).collect();
        fresh.last = LastRotation::of(&current.annotations);
        Ok(current.uid == osd.uid
            && Outlook::of(&fresh, &ours.facts).attempt(&fresh, &ours.facts).as_ref() == Some(attempt))
    }

    /// Creates the Job of an attempt. If another replica has created it already, that is as good.
    async fn create(&mut self, maker: &JobMaker<'_>, osd: &Osd, attempt: &Attempt) -> Result<()> {
        let name = attempt.job_name(osd.id);
        let created = self.jobs.create(&name, &traced(attempt.job(maker, osd))).await;
        let is_new = match created {
            Ok(()) => true,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
            Err(error) => return Err(error),
        };
        if is_new {
            let what = if attempt.cause.is_verification() { "verification" } else { "rotation" };
            info!(namespace = self.place.name(), osd = osd.id, job = %name, "a {what} begins");
        }
        let facts = JobFacts {
            name: name.clone(),
            uid: None,
            osd: osd.id,
            attempt: attempt.clone(),
            state: JobState::Active,
            failure: None,
        };
        self.begun.insert(name, (Instant::now(), facts));
        Ok(())
    }

    async fn delete_jobs(&self, plan: &Plan) -> Result<()> {
        for job in &plan.obsolete {
            if self.leadership.holds() {
                self.jobs.delete(&job.name, job.uid.clone(), false).await?;
            }
        }
        Ok(())
    }
}

/// What people and metrics see of a cluster.
fn view((ours, plan): (&Ours, &Plan)) -> ClusterView {
    let Facts { provider, rules, is_paused, osds, .. } = &ours.facts;
    let key = |((osd, facts), plan): ((&Arc<Osd>, &OsdFacts), &OsdPlan)| {
        let view = KeyView {
            osd: osd.id,
            deployment: osd.deployment.clone(),
            deployment_uid: osd.uid.clone(),
            domain: facts.domain.clone(),
            status: plan.status.clone(),
        };
        (osd.name.to_string(), view)
    };
    ClusterView {
        name: ours.name.clone(),
        provider: provider.clone(),
        policy: ours.policy.clone(),
        window: ours.window.clone(),
        schedule: rules.as_ref().ok().map(|rules| rules.schedule.to_string()),
        is_paused: *is_paused,
        obstacle: rules.as_ref().err().map(|obstacle| match obstacle {
            Obstacle::RookRotates(why) | Obstacle::Invalid(why) => why.clone(),
        }),
        keys: ours.osds.iter().zip(osds).zip(&plan.osds).map(key).collect(),
        faults: ours.faults.clone(),
        token: ours.token.clone(),
        escrow: EscrowView {
            made: ours.facts.escrow.made,
            drilled: ours.facts.escrow.drilled,
            next: plan.escrow.next,
            failed: plan.escrow.failed.map_or(0, |(_, number)| number),
            problem: plan.escrow.problem(),
        },
    }
}
