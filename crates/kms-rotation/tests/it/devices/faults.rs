//! Rotations in which the KMS fails, lies, or is in use by another operator.

use async_trait::async_trait;
use kms_core::{
    Capability, DeleteMode, ErrorKind, Freshness, Guarantee, HistoryMode, Kek, KeyName, KeyStream,
    KeyVersion, KmsProvider, PastKek, Probe, PutMode, Result, Retry, Stored, UpdateRight, provider::Deleted,
};
use kms_rotation::{Outcome, Silent, rotate};
use kms_testkit::fake::{InjectedFault, Operation};

use crate::bench::{Bench, Other, at_once, kek, name};

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it rotation"]
async fn nothing_is_written_where_updates_are_not_possible_or_not_allowed() {
    let bench = Bench::cheap(2).await;
    let before = bench.bytes();
    let cases = [
        (Guarantee::Unsupported, UpdateRight::Granted, ErrorKind::Unsupported),
        (Guarantee::Atomic, UpdateRight::Denied, ErrorKind::PermissionDenied),
    ];
    for (update, right, kind) in cases {
        let kms = Other::around(bench.kms.clone(), update, right);
        let error = rotate(&kms, &bench.osd(), &at_once(), &Silent).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert_eq!((bench.bytes(), bench.version().await.as_str()), (before.clone(), "1"));
    }
    assert_eq!(bench.kms.count(Operation::Put), 0);
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it rotation"]
async fn a_kms_that_does_not_tell_rights_is_asked_by_storing_the_same_kek() {
    let bench = Bench::cheap(1).await;
    let old = bench.current().await;
    let before = bench.bytes();
    let kms = Other::around(bench.kms.clone(), Guarantee::Atomic, UpdateRight::Unknown);
    bench.kms.push(Operation::Put, InjectedFault::error(ErrorKind::PermissionDenied));
    let error = rotate(&kms, &bench.osd(), &at_once(), &Silent).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert_eq!((bench.bytes(), bench.version().await.as_str()), (before, "1"));

    let report = rotate(&kms, &bench.osd(), &at_once(), &Silent).await.unwrap();
    assert_eq!(
        (report.outcome, report.to_version.as_str()),
        (Outcome::Rotated, "3"),
        "once the same, once the new"
    );
    assert!(!bench.converged("after").await.ct_eq(&old));
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it rotation"]
async fn a_lost_race_is_undone() {
    for devices in 1..=3 {
        let bench = Bench::cheap(devices).await;
        // The other operator has stored the current KEK once more, as the beginning of a rotation does.
        let current = bench.current().await;
        bench.kms.push(
            Operation::Put,
            InjectedFault::error(ErrorKind::Conflict).overtaken_by(current.duplicate()),
        );
        let error = bench.rotate(&at_once()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(error.to_string().contains("devices: as before"), "{error}");
        assert!(bench.converged("after a lost race").await.ct_eq(&current));
        bench.rotate(&at_once()).await.unwrap();
        bench.converged("after the next run").await;
    }
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it rotation"]
async fn a_refusal_in_the_last_moment_is_undone() {
    let bench = Bench::cheap(2).await;
    let current = bench.current().await;
    bench.kms.push(Operation::Put, InjectedFault::error(ErrorKind::PermissionDenied));
    let error = bench.rotate(&at_once()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(error.to_string().contains("as before"), "{error}");
    assert!(bench.converged("after").await.ct_eq(&current));
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it rotation"]
async fn when_only_the_answer_is_lost_the_rotation_goes_on() {
    let bench = Bench::cheap(2).await;
    let old = bench.current().await;
    let fault = InjectedFault::error(ErrorKind::Unavailable).retry(Retry::IfIdempotent).applied();
    bench.kms.push(Operation::Put, fault);
    let report = bench.rotate(&at_once()).await.unwrap();
    assert_eq!(report.outcome, Outcome::Rotated);
    assert!(!bench.converged("after").await.ct_eq(&old));
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it rotation"]
async fn what_was_surely_not_stored_is_undone() {
    let bench = Bench::cheap(2).await;
    let old = bench.current().await;
    bench.kms.push(Operation::Put, InjectedFault::error(ErrorKind::Unavailable).retry(Retry::IfIdempotent));
    let error = bench.rotate(&at_once()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("as before"), "{error}");
    assert!(bench.converged("after").await.ct_eq(&old));
}

/// The write arrives after the run has read the old KEK. Whenever it arrives, the run removes no slot that the KEK of
/// the KMS needs.
#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it rotation"]
async fn a_write_that_arrives_late_never_leaves_the_kms_with_a_kek_that_opens_nothing() {
    for update in [Guarantee::Atomic, Guarantee::CheckThenAct] {
        for calls in 1..=4 {
            let bench = Bench::cheap(2).await;
            let kms = Other::around(bench.kms.clone(), update, UpdateRight::Granted);
            let fault = InjectedFault::error(ErrorKind::Timeout)
                .retry(Retry::IfIdempotent)
                .applied_before_call(calls);
            bench.kms.push(Operation::Put, fault);
            let first = rotate(&kms, &bench.osd(), &at_once(), &Silent).await;
            bench.holds(&format!("{update:?}, call {calls}: {first:?}")).await;
            // It may arrive during the next run too.
            let next = rotate(&kms, &bench.osd(), &at_once(), &Silent).await;
            if update == Guarantee::Atomic {
                bench.holds(&format!("next after {update:?}, call {calls}: {next:?}")).await;
                rotate(&kms, &bench.osd(), &at_once(), &Silent).await.unwrap();
                bench.converged("at last").await;
            }
        }
    }
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it rotation"]
async fn a_kms_that_goes_away_in_the_middle_leaves_what_the_next_run_finishes() {
    // The reads of a run: the KEK, and the KEK read back.
    for (passes, puts) in [(1, true), (1, false)] {
        let bench = Bench::cheap(2).await;
        for _ in 0..passes {
            bench.kms.push(Operation::Get, InjectedFault::pass());
        }
        bench.kms.push(Operation::Get, InjectedFault::error(ErrorKind::Unavailable));
        if !puts {
            bench.kms.push(
                Operation::Put,
                InjectedFault::error(ErrorKind::Unavailable).retry(Retry::IfIdempotent),
            );
        }
        let error = bench.rotate(&at_once()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains("the next run finishes"), "{error}");
        bench.holds("while the KMS is away").await;
        assert_eq!(bench.images[0].slots(), [0, 1], "both stay");
        bench.kms.reset();
        bench.rotate(&at_once()).await.unwrap();
        bench.converged("after the next run").await;
    }
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it rotation"]
async fn a_stale_answer_after_the_write_removes_nothing() {
    /// A KMS whose reads lag behind once the key was written.
    #[derive(Debug)]
    struct Lagging {
        other: Other,
        old: Kek,
        reads: std::sync::atomic::AtomicUsize,
    }

    #[async_trait]
    #[deny(clippy::missing_trait_methods)]
    impl KmsProvider for Lagging {
        fn provider(&self) -> &'static str {
            self.other.provider()
        }

        fn capability(&self) -> Capability {
            self.other.capability().with_fresh_reads(false)
        }

        async fn put(&self, name: &KeyName, kek: &Kek, mode: PutMode) -> Result<KeyVersion> {
            self.other.put(name, kek, mode).await
        }

        async fn get(&self, _: &KeyName, _: Freshness) -> Result<Stored> {
            self.reads.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Ok(Stored::new(self.old.duplicate(), KeyVersion::new("1")))
        }

        async fn delete(&self, name: &KeyName, mode: DeleteMode) -> Result<Deleted> {
            self.other.delete(name, mode).await
        }

        fn list(&self) -> KeyStream<'_> {
            self.other.list()
        }

        async fn undelete(&self, name: &KeyName) -> Result<KeyVersion> {
            self.other.undelete(name).await
        }

        async fn history(&self, name: &KeyName, mode: HistoryMode) -> Result<Vec<PastKek>> {
            self.other.history(name, mode).await
        }

        async fn retire_superseded(&self, name: &KeyName, current: &KeyVersion) -> Result<usize> {
            self.other.retire_superseded(name, current).await
        }

        async fn may_update(&self, names: &[KeyName]) -> Result<Vec<UpdateRight>> {
            self.other.may_update(names).await
        }

        async fn probe(&self, probe: &mut Probe) {
            self.other.probe(probe).await;
        }
    }

    let bench = Bench::cheap(2).await;
    let old = bench.current().await;
    let lagging = Lagging {
        other: Other::around(bench.kms.clone(), Guarantee::Atomic, UpdateRight::Granted),
        old: old.duplicate(),
        reads: Default::default(),
    };
    let error = rotate(&lagging, &bench.osd(), &at_once(), &Silent).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("lags behind"), "{error}");
    assert_eq!(lagging.reads.load(std::sync::atomic::Ordering::Relaxed), 2);
    assert!(!bench.holds("after").await.ct_eq(&old));
    assert!(bench.images.iter().all(|image| image.opens(&old)), "the old one opens too");
    // The reads still lag: the KMS refuses the next run before the run removes anything.
    let error = rotate(&lagging, &bench.osd(), &at_once(), &Silent).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    bench.holds("after the next run on stale answers").await;
    bench.rotate(&at_once()).await.unwrap();
    bench.converged("at last").await;
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it rotation"]
async fn a_kek_that_was_replaced_right_after_ours_is_reported_and_no_slot_is_removed() {
    let bench = Bench::cheap(1).await;
    let image = &bench.images[0];
    let old = bench.current().await;
    let theirs = kek();
    image.add(&old, 6, &theirs);
    bench.kms.push(Operation::Put, InjectedFault::pass().overtaken_by(theirs.duplicate()));
    let error = bench.rotate(&at_once()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_eq!(image.slots(), [0, 1, 6]);
    bench.holds("after").await;
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it rotation"]
async fn a_key_that_is_deleted_meanwhile_leaves_both_slots() {
    let bench = Bench::cheap(1).await;
    bench.kms.push(Operation::Put, InjectedFault::error(ErrorKind::NotFound).overtaken_by_delete());
    let error = bench.rotate(&at_once()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(bench.images[0].slots(), [0, 1]);
    assert_eq!(
        bench.kms.inner().get(&name(), Freshness::Fresh).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it rotation"]
async fn of_two_rotations_at_once_one_wins_and_the_other_fails_with_the_reason() {
    let bench = Bench::cheap(2).await;
    let old = bench.current().await;
    let options = at_once();
    let (first, second) = tokio::join!(bench.rotate(&options), bench.rotate(&options));
    let (won, lost) = match (first, second) {
        (Ok(won), Err(lost)) | (Err(lost), Ok(won)) => (won, lost),
        other => panic!("{other:?}"),
    };
    assert_eq!((won.outcome, lost.kind()), (Outcome::Rotated, ErrorKind::Conflict));
    assert!(!bench.converged("after both").await.ct_eq(&old));
}
