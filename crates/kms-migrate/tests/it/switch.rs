//! Switches of a cluster whose operator follows its settings, with kills at every step.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use kms_core::{Error, ErrorKind, Kek, KmsProvider, PutMode, Result};
use kms_migrate::{
    Bytes, Cluster, Hold, Journal, Options, OsdView, Phase, Side, Silent, cutover, put_back, restarted_keys,
    verify,
};

use crate::{Scene, key};

const OSDS: usize = 6;

/// A cluster whose operator changes, at each pause, every OSD that is not held back.
struct Fake {
    osds: Mutex<Vec<OsdView>>,
    side: Mutex<Option<Side>>,
    /// How many calls succeed before the process is gone.
    calls_left: AtomicUsize,
    /// The largest number of OSDs that restarted in one pause, from the second pause on.
    batch: AtomicUsize,
    first: Mutex<Option<Vec<u32>>>,
    /// Whether the operator works at all.
    works: bool,
    /// A source in which a key is rotated while the cluster is switched.
    rotates: Option<Arc<dyn KmsProvider>>,
}

impl Fake {
    fn new() -> Self {
        let osd = |number: usize| {
            let mut osd = OsdView::new(u32::try_from(number).unwrap(), key(number), format!("osd-{number}"));
            (osd.reads, osd.is_running) = (Some(Side::Source), true);
            osd
        };
        Self {
            osds: Mutex::new((0..OSDS).map(osd).collect()),
            side: Mutex::new(Some(Side::Source)),
            calls_left: AtomicUsize::new(usize::MAX),
            batch: AtomicUsize::new(0),
            first: Mutex::new(None),
            works: true,
            rotates: None,
        }
    }

    fn call(&self) -> Result<()> {
        match self.calls_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)) {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::new(ErrorKind::Unavailable, "the process is gone")),
        }
    }

    fn set_hold(&self, id: u32, hold: Hold) {
        self.osds.lock().unwrap().iter_mut().find(|osd| osd.id == id).unwrap().hold = hold;
    }

    fn all_run_from(&self, side: Side) -> bool {
        self.osds.lock().unwrap().iter().all(|osd| osd.runs_from(side) && osd.hold == Hold::No)
    }
}

#[async_trait]
impl Cluster for Fake {
    async fn osds(&self) -> Result<Vec<OsdView>> {
        self.call()?;
        Ok(self.osds.lock().unwrap().clone())
    }

    async fn side(&self) -> Result<Option<Side>> {
        self.call()?;
        Ok(*self.side.lock().unwrap())
    }

    async fn switch(&self, to: Side) -> Result<()> {
        self.call()?;
        if let Some(source) = &self.rotates {
            source.put(&key(1), &Kek::generate().unwrap(), PutMode::Overwrite).await?;
        }
        *self.side.lock().unwrap() = Some(to);
        Ok(())
    }

    async fn hold(&self, osd: &OsdView) -> Result<()> {
        self.call()?;
        self.set_hold(osd.id, Hold::Ours);
        Ok(())
    }

    async fn release(&self, osd: &OsdView) -> Result<()> {
        self.call()?;
        self.set_hold(osd.id, Hold::No);
        Ok(())
    }

    async fn pause(&self, waiting: &[&OsdView]) -> Result<()> {
        self.call()?;
        assert!(!waiting.is_empty());
        if !self.works {
            return Err(Error::new(ErrorKind::Timeout, "waited long enough"));
        }
        let side = *self.side.lock().unwrap();
        let mut changed = Vec::new();
        for osd in
            self.osds.lock().unwrap().iter_mut().filter(|osd| osd.hold == Hold::No && osd.reads != side)
        {
            osd.reads = side;
            changed.push(osd.id);
        }
        let mut first = self.first.lock().unwrap();
        if first.is_some() {
            self.batch.fetch_max(changed.len(), Ordering::Relaxed);
        } else {
            *first = Some(changed);
        }
        Ok(())
    }
}

async fn verified(scene: &Scene) -> Journal {
    let mut journal = scene.journal();
    scene.copied(&mut journal).await;
    let verified = verify(scene.pair(), &mut journal, &Options::default(), &Bytes, &Silent).await.unwrap();
    assert!(verified.is_proven());
    journal
}

#[tokio::test]
async fn one_osd_restarts_alone_and_then_the_others_in_batches() {
    let scene = Scene::with_keys(OSDS).await;
    let (mut journal, cluster) = (verified(&scene).await, Fake::new());
    let two = std::num::NonZeroUsize::new(2);
    let switched =
        cutover(scene.pair(), &mut journal, &cluster, &Options::default(), two, &Silent).await.unwrap();
    assert!(switched.failed.is_empty() && switched.restarted == OSDS, "{switched:?}");
    assert_eq!(cluster.first.lock().unwrap().as_deref(), Some(&[0][..]));
    assert_eq!(cluster.batch.load(Ordering::Relaxed), 2);
    assert!(cluster.all_run_from(Side::Target) && journal.phase() == Phase::Switched);
    assert_eq!(restarted_keys(&cluster).await.unwrap().len(), OSDS);
}

#[tokio::test]
async fn a_switch_that_ends_at_any_call_is_resumed_and_can_be_put_back() {
    let mut calls = 0;
    loop {
        let scene = Scene::with_keys(OSDS).await;
        let (mut journal, cluster) = (verified(&scene).await, Fake::new());
        cluster.calls_left.store(calls, Ordering::Relaxed);
        let options = Options::default();
        let ended = cutover(scene.pair(), &mut journal, &cluster, &options, None, &Silent).await;
        drop(journal);
        cluster.calls_left.store(usize::MAX, Ordering::Relaxed);
        let mut journal = scene.journal();
        let back = calls % 2 == 1 && journal.phase() != Phase::Verified;
        if back {
            let run = put_back(scene.pair(), &mut journal, &cluster, &options, None, &Silent);
            assert!(run.await.unwrap().failed.is_empty());
            assert!(cluster.all_run_from(Side::Source), "{calls}");
        } else {
            let run = cutover(scene.pair(), &mut journal, &cluster, &options, None, &Silent);
            assert!(run.await.unwrap().failed.is_empty());
            assert!(cluster.all_run_from(Side::Target) && journal.phase() == Phase::Switched, "{calls}");
        }
        if ended.is_ok() {
            assert!(calls > 2 * OSDS, "{calls}");
            return;
        }
        calls += 1;
    }
}

#[tokio::test]
async fn nothing_is_switched_after_a_rotation_or_for_an_osd_without_a_verified_key() {
    let scene = Scene::with_keys(OSDS).await;
    let (mut journal, cluster) = (verified(&scene).await, Fake::new());
    scene.overwrite(&scene.from, &key(3)).await;
    let options = Options::default();
    let switched = cutover(scene.pair(), &mut journal, &cluster, &options, None, &Silent).await.unwrap();
    assert!(!switched.verified.unwrap().is_proven());
    assert!(cluster.all_run_from(Side::Source) && journal.phase() == Phase::Verified);

    let scene = Scene::with_keys(OSDS - 1).await;
    let mut journal = verified(&scene).await;
    let error = cutover(scene.pair(), &mut journal, &cluster, &options, None, &Silent).await.unwrap_err();
    assert!(error.to_string().contains(key(OSDS - 1).as_str()), "{error}");
    assert!(cluster.all_run_from(Side::Source));
}

#[tokio::test]
async fn a_rotation_while_the_cluster_is_switched_is_seen_and_the_others_stay_at_the_source() {
    let scene = Scene::with_keys(OSDS).await;
    let (mut journal, mut cluster) = (verified(&scene).await, Fake::new());
    cluster.rotates = Some(scene.from.inner().clone());
    let options = Options::default();
    let switched = cutover(scene.pair(), &mut journal, &cluster, &options, None, &Silent).await.unwrap();
    assert!(switched.failed[0].name == key(1) && switched.failed[0].error.to_string().contains("abort"));
    let held =
        |cluster: &Fake| cluster.osds.lock().unwrap().iter().filter(|osd| osd.hold == Hold::Ours).count();
    assert_eq!((held(&cluster), journal.phase()), (OSDS - 1, Phase::Switching));
    cluster.rotates = None;
    let back = put_back(scene.pair(), &mut journal, &cluster, &options, None, &Silent).await.unwrap();
    assert!(back.failed.is_empty() && cluster.all_run_from(Side::Source));
}

#[tokio::test]
async fn an_osd_that_others_hold_back_is_left_and_named() {
    let scene = Scene::with_keys(OSDS).await;
    let (mut journal, cluster) = (verified(&scene).await, Fake::new());
    cluster.set_hold(0, Hold::Others);
    let options = Options::default();
    let switched = cutover(scene.pair(), &mut journal, &cluster, &options, None, &Silent).await.unwrap();
    assert_eq!((switched.restarted, switched.failed[0].name.clone()), (OSDS - 1, key(0)));
    assert_eq!((journal.phase(), cluster.osds.lock().unwrap()[0].hold), (Phase::Switching, Hold::Others));
    let error = restarted_keys(&cluster).await.unwrap_err();
    assert!(error.to_string().contains("has not restarted"), "{error}");
}

#[tokio::test]
async fn a_rotation_of_the_source_during_the_switch_does_not_keep_the_cluster_from_going_back() {
    let scene = Scene::with_keys(OSDS).await;
    let (mut journal, cluster) = (verified(&scene).await, Fake::new());
    let options = Options::default();
    cutover(scene.pair(), &mut journal, &cluster, &options, None, &Silent).await.unwrap();
    scene.overwrite(&scene.from, &key(2)).await;
    let back = put_back(scene.pair(), &mut journal, &cluster, &options, None, &Silent).await.unwrap();
    assert!(back.verified.unwrap().is_proven() && cluster.all_run_from(Side::Source));
}

#[tokio::test]
async fn a_cluster_is_not_put_back_to_a_source_that_is_stale() {
    let scene = Scene::with_keys(OSDS).await;
    let (mut journal, cluster) = (verified(&scene).await, Fake::new());
    let options = Options::default();
    cutover(scene.pair(), &mut journal, &cluster, &options, None, &Silent).await.unwrap();
    scene.to.put(&key(2), &Kek::generate().unwrap(), PutMode::Overwrite).await.unwrap();
    let back = put_back(scene.pair(), &mut journal, &cluster, &options, None, &Silent).await.unwrap();
    assert!(!back.verified.unwrap().is_proven() && cluster.all_run_from(Side::Target));
}

#[tokio::test]
async fn an_operator_that_does_nothing_keeps_all_but_the_first_osd_at_the_source() {
    let scene = Scene::with_keys(OSDS).await;
    let (mut journal, mut cluster) = (verified(&scene).await, Fake::new());
    cluster.works = false;
    let options = Options::default();
    let error = cutover(scene.pair(), &mut journal, &cluster, &options, None, &Silent).await.unwrap_err();
    assert_eq!((error.kind(), journal.phase()), (ErrorKind::Timeout, Phase::Switching));
    let held = cluster.osds.lock().unwrap().iter().filter(|osd| osd.hold == Hold::Ours).count();
    assert_eq!(held, OSDS - 1);
    *cluster.side.lock().unwrap() = None;
    let error = cutover(scene.pair(), &mut journal, &cluster, &options, None, &Silent).await.unwrap_err();
    assert!(error.to_string().contains("other KMS settings"), "{error}");
}
