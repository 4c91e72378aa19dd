//! Verifications, on facts that are written down.

use kms_core::ErrorKind;
use serde_json::json;

use super::*;
use crate::{
    api::OsdKeyStatus,
    job::JobState,
    plan::{
        plan,
        tests::{NONE, NOW, begun, facts, job, rotated, time},
    },
};

/// A day before [`NOW`].
const DUE: &str = "2026-11-29T12:00:00Z";

fn weekly() -> serde_json::Value {
    json!({"verify": {"maxAge": "168h"}})
}

/// The reason of a key whose KEK was seen not to open a device.
const VERIFICATION_FAILED: &str = "VerificationFailed";

/// An OSD whose proof is of a rotation eight days ago. The schedule makes its rotation due on Sundays: it is paused in
/// `facts_of` by a schedule of another year.
fn old(id: u32) -> OsdFacts {
    rotated(id, "2026-11-22T12:00:00Z")
}

/// Facts with a schedule that makes no rotation due.
fn facts_of(osds: Vec<OsdFacts>) -> Facts {
    let mut policy = weekly();
    policy["schedule"] = json!("0 3 1 1 *");
    facts(policy, osds)
}

fn verification(osd: u32, due: &str, number: u32, state: JobState) -> JobFacts {
    job(osd, Cause::Verify(time(due)), number, state)
}

/// A verification that failed at this time, with what its pod has reported.
fn failed(at: &str, number: u32, failure: Option<Failure>) -> JobFacts {
    JobFacts { failure, ..verification(0, DUE, number, JobState::Failed(time(at))) }
}

/// A KEK that was seen not to open a device.
const REFUTED: Option<Failure> =
    Some(Failure { kind: ErrorKind::Conflict, is_of_kms: false, refutation: Some(Refutation::Kek) });
/// A device whose LUKS header is gone.
const HEADER_GONE: Option<Failure> =
    Some(Failure { kind: ErrorKind::ConfigInvalid, is_of_kms: false, refutation: Some(Refutation::Header) });

/// A failure from which nothing follows about the KEK.
fn failure(kind: ErrorKind, is_of_kms: bool) -> Option<Failure> {
    Some(Failure { kind, is_of_kms, refutation: None })
}

fn status(facts: &Facts) -> OsdKeyStatus {
    plan(facts).osds[0].status.clone()
}

/// The status of a condition, and its reason.
fn condition(status: &OsdKeyStatus, type_: ConditionType) -> (ConditionStatus, &str) {
    let found = status.conditions.iter().find(|condition| condition.type_ == type_).unwrap();
    (found.status, &found.reason)
}

#[test]
fn a_proof_that_is_too_old_is_made_again_once() {
    let mut facts = facts_of(vec![old(0)]);
    let attempt = Attempt { cause: Cause::Verify(time(DUE)), number: 1 };
    assert_eq!(plan(&facts).osds[0].start, Some(attempt.clone()));
    // Its Job runs, and nothing else begins: neither it again nor a rotation that is asked for.
    facts.osds[0].jobs = vec![verification(0, DUE, 1, JobState::Active)];
    facts.osds[0].asked = Some("now".to_owned());
    assert_eq!(begun(&facts), NONE);
    facts.osds[0].asked = None;
    // It rotates nothing.
    let running = status(&facts);
    assert_eq!((running.job.as_ref(), running.rotated_at.as_deref()), (None, Some("2026-11-22T12:00:00Z")));
    facts.osds[0].jobs = vec![verification(0, DUE, 1, JobState::Succeeded(time(NOW)))];
    let proven = status(&facts);
    assert_eq!(begun(&facts), NONE);
    assert_eq!(proven.verified_at.as_deref(), Some(NOW));
    assert_eq!(proven.rotated_at.as_deref(), Some("2026-11-22T12:00:00Z"));
    assert_eq!(condition(&proven, ConditionType::Verified), (ConditionStatus::True, "VerificationSucceeded"));
    assert_eq!(plan(&facts).next, Some(time("2026-12-07T12:00:00Z")));
    // The status has it once the Job is gone, and a rotation is a proof too.
    facts.osds[0].jobs.clear();
    facts.osds[0].status = proven;
    assert_eq!((begun(&facts), status(&facts).verified_at.as_deref()), (Vec::new(), Some(NOW)));
    facts.osds[0] = rotated(0, "2026-11-30T11:00:00Z");
    let by_rotation = status(&facts);
    assert_eq!(begun(&facts), NONE);
    assert_eq!(by_rotation.verified_at, by_rotation.rotated_at);
    assert_eq!(
        condition(&by_rotation, ConditionType::Verified),
        (ConditionStatus::True, "RotationSucceeded")
    );
}

#[test]
fn a_kek_that_does_not_open_is_shown_and_tried_again_ever_later() {
    let mut facts = facts_of(vec![old(0)]);
    facts.osds[0].jobs = vec![failed("2026-11-30T11:30:00Z", 1, REFUTED)];
    let refuted = status(&facts);
    for type_ in [ConditionType::Ready, ConditionType::Verified] {
        assert_eq!(condition(&refuted, type_), (ConditionStatus::False, VERIFICATION_FAILED));
    }
    assert_eq!((refuted.failed_attempts, refuted.verified_at.as_deref()), (0, Some("2026-11-22T12:00:00Z")));
    assert_eq!((begun(&facts), plan(&facts).next), (Vec::new(), Some(time("2026-11-30T12:30:00Z"))));
    facts.now = time("2026-11-30T12:30:00Z");
    let second = Attempt { cause: Cause::Verify(time(DUE)), number: 2 };
    assert_eq!(plan(&facts).osds[0].start, Some(second));
    // A second one that could not be made takes nothing back, also when the pod of the first one is gone.
    facts.osds[0].status = refuted;
    facts.osds[0].jobs.push(failed("2026-11-30T12:35:00Z", 2, failure(ErrorKind::Unavailable, true)));
    facts.now = time("2026-11-30T12:40:00Z");
    for gone in [false, true] {
        if gone {
            facts.osds[0].jobs[0].failure = None;
        }
        for type_ in [ConditionType::Ready, ConditionType::Verified] {
            assert_eq!(condition(&status(&facts), type_), (ConditionStatus::False, VERIFICATION_FAILED));
        }
    }
    // Without its Jobs it stays, until a proof is made.
    facts.osds[0].jobs.clear();
    assert_eq!(condition(&status(&facts), ConditionType::Verified).0, ConditionStatus::False);
    facts.osds[0].last = rotated(0, "2026-11-30T12:10:00Z").last;
    assert_eq!(condition(&status(&facts), ConditionType::Verified).0, ConditionStatus::True);
    assert_eq!(condition(&status(&facts), ConditionType::Ready).0, ConditionStatus::True);
}

#[test]
fn a_device_whose_header_is_gone_has_a_reason_of_its_own_that_names_the_way_back() {
    let mut facts = facts_of(vec![old(0)]);
    facts.osds[0].jobs = vec![failed("2026-11-30T11:30:00Z", 1, HEADER_GONE)];
    let gone = status(&facts);
    for type_ in [ConditionType::Ready, ConditionType::Verified] {
        let condition = gone.conditions.iter().find(|condition| condition.type_ == type_).unwrap();
        assert_eq!(
            (condition.status, condition.reason.as_str()),
            (ConditionStatus::False, "HeaderDamaged"),
            "{type_:?}"
        );
        assert!(
            condition.message.contains("kms escrow restore DIR set1-data-0 --header DEVICE"),
            "{condition:?}"
        );
    }
    // It stays without the Job and its pod, and what is seen later replaces it.
    facts.osds[0].status = gone;
    facts.osds[0].jobs.clear();
    let of = |facts: &Facts| condition(&status(facts), ConditionType::Verified).1.to_owned();
    assert_eq!(of(&facts), "HeaderDamaged");
    facts.now = time("2026-11-30T13:00:00Z");
    facts.osds[0].jobs = vec![failed("2026-11-30T12:20:00Z", 2, REFUTED)];
    assert_eq!(of(&facts), VERIFICATION_FAILED);
    facts.osds[0].jobs.push(verification(0, DUE, 3, JobState::Succeeded(time("2026-11-30T12:40:00Z"))));
    assert_eq!(of(&facts), "VerificationSucceeded");
}

#[test]
fn a_verification_that_could_not_be_made_says_nothing_about_the_kek_and_is_tried_again() {
    let of = |told: Option<Failure>| {
        let mut facts = facts_of(vec![old(0)]);
        facts.osds[0].jobs = vec![failed("2026-11-30T11:30:00Z", 1, told)];
        facts
    };
    for (told, reason) in [
        (failure(ErrorKind::Unavailable, true), "KmsUnavailable"),
        (failure(ErrorKind::Timeout, true), "KmsUnavailable"),
        (failure(ErrorKind::Unauthenticated, true), "KmsDenied"),
        (failure(ErrorKind::PermissionDenied, true), "KmsDenied"),
        // A device that is in use, and an API server that is away.
        (failure(ErrorKind::Conflict, false), "VerificationIncomplete"),
        (failure(ErrorKind::Unavailable, false), "VerificationIncomplete"),
        // A Job that was ended from outside reports nothing.
        (None, "VerificationIncomplete"),
    ] {
        let untried = status(&of(told));
        assert_eq!(
            condition(&untried, ConditionType::Verified),
            (ConditionStatus::Unknown, reason),
            "{told:?}"
        );
        assert_eq!(condition(&untried, ConditionType::Ready), (ConditionStatus::True, "UpToDate"));
        assert_eq!(untried.verified_at.as_deref(), Some("2026-11-22T12:00:00Z"));
    }
    let mut facts = of(None);
    assert_eq!((begun(&facts), plan(&facts).next), (Vec::new(), Some(time("2026-11-30T12:30:00Z"))));
    // The next one sees that the KEK does not open: that is no longer unknown.
    facts.osds[0].jobs.push(failed("2026-11-30T12:30:00Z", 2, REFUTED));
    facts.now = time("2026-11-30T12:31:00Z");
    assert_eq!(
        condition(&status(&facts), ConditionType::Verified),
        (ConditionStatus::False, VERIFICATION_FAILED)
    );
    facts.osds[0].jobs.push(verification(0, DUE, 3, JobState::Succeeded(time("2026-11-30T12:31:00Z"))));
    assert_eq!(condition(&status(&facts), ConditionType::Verified).0, ConditionStatus::True);
}

#[test]
fn a_rotation_that_sees_that_the_kek_does_not_open_refutes_the_proof_and_a_verification_follows() {
    let last = "2026-11-30T11:00:00Z";
    let mut facts = facts_of(vec![rotated(0, last)]);
    let at = "2026-11-30T11:30:00Z";
    let rotation = job(0, Cause::Asked("1".to_owned()), 1, JobState::Failed(time(at)));
    facts.osds[0].jobs =
        vec![JobFacts { failure: failure(ErrorKind::Unavailable, true), ..rotation.clone() }];
    assert_eq!(condition(&status(&facts), ConditionType::Verified).0, ConditionStatus::True);
    assert_eq!(begun(&facts), NONE);
    facts.osds[0].jobs = vec![JobFacts { failure: REFUTED, ..rotation }];
    assert_eq!(
        condition(&status(&facts), ConditionType::Verified),
        (ConditionStatus::False, VERIFICATION_FAILED)
    );
    // The proof of the last rotation is not old, and does not count any more.
    let attempt = Attempt { cause: Cause::Verify(time(at)), number: 1 };
    assert_eq!(plan(&facts).osds[0].start, Some(attempt));
    facts.osds[0].jobs.push(verification(0, at, 1, JobState::Succeeded(time(NOW))));
    assert_eq!(
        (condition(&status(&facts), ConditionType::Verified).0, begun(&facts)),
        (ConditionStatus::True, vec![])
    );
}

#[test]
fn verifications_obey_pauses_windows_limits_and_failure_domains() {
    let three = || vec![old(0), old(1), old(2)];
    let begun_with = |change: &dyn Fn(&mut serde_json::Value), osds: Vec<OsdFacts>| {
        let mut policy = weekly();
        policy["schedule"] = json!("0 3 1 1 *");
        change(&mut policy);
        begun(&facts(policy, osds))
    };
    assert_eq!(begun_with(&|_| (), three()), [0]);
    let two = |policy: &mut serde_json::Value| policy["maxParallel"] = json!(2);
    assert_eq!(begun_with(&two, three()), [0, 1]);
    let mut one_domain = three();
    one_domain[1].domain = one_domain[0].domain.clone();
    assert_eq!(begun_with(&two, one_domain), [0, 2]);
    let mut busy = three();
    busy[2].jobs = vec![verification(2, DUE, 1, JobState::Active)];
    assert_eq!(begun_with(&|_| (), busy), NONE);
    let mut paused = three();
    paused[0].is_paused = true;
    assert_eq!(begun_with(&|_| (), paused), [1]);
    let closed = |policy: &mut serde_json::Value| {
        policy["window"] = json!({"opens": "0 22 * * *", "duration": "1h"});
    };
    assert_eq!(begun_with(&closed, three()), NONE);
    let all_paused = Facts { is_paused: true, ..facts_of(three()) };
    assert_eq!(begun(&all_paused), NONE);
    assert_eq!(begun_with(&|policy| policy["verify"] = json!({"enabled": false}), three()), NONE);
    // 30 days by default.
    assert_eq!(begun_with(&|policy| policy["verify"] = json!({}), three()), NONE);
    assert_eq!(
        begun_with(&|policy| policy["verify"] = json!({}), vec![rotated(0, "2026-10-31T12:00:00Z")]),
        [0]
    );
}

#[test]
fn a_rotation_that_may_begin_is_the_verification_and_one_that_has_failed_is_not() {
    // Due on Sundays.
    let mut facts = facts(weekly(), vec![old(0), old(1)]);
    assert!(matches!(plan(&facts).osds[0].start.clone().unwrap().cause, Cause::Due(_)));
    // The rotation of the first one waits for its next attempt; that of the other one goes first.
    let failed = JobState::Failed(time("2026-11-30T11:30:00Z"));
    facts.osds[0].jobs = vec![job(0, Cause::Due(time("2026-11-29T03:00:00Z")), 1, failed)];
    let starts = |facts: &Facts| plan(facts).osds.iter().map(|osd| osd.start.clone()).collect::<Vec<_>>();
    assert!(matches!(&starts(&facts)[..], [None, Some(Attempt { cause: Cause::Due(_), .. })]));
    facts.osds.truncate(1);
    assert!(matches!(&starts(&facts)[..], [Some(Attempt { cause: Cause::Verify(_), number: 1 })]));
    // Its failure counts for itself.
    assert_eq!(status(&facts).failed_attempts, 1);
}

#[test]
fn the_job_of_a_verification_goes_once_a_later_one_has_ended_and_rotations_do_not_count() {
    let names = |jobs: &[JobFacts]| {
        let facts = facts_of(vec![OsdFacts { jobs: jobs.to_vec(), ..old(0) }]);
        plan(&facts).obsolete.into_iter().map(|job| job.name).collect::<Vec<_>>()
    };
    let first = verification(0, "2026-11-15T00:00:00Z", 1, JobState::Succeeded(time("2026-11-15T00:01:00Z")));
    let rotation = job(
        0,
        Cause::Due(time("2026-11-22T03:00:00Z")),
        1,
        JobState::Succeeded(time("2026-11-22T12:00:00Z")),
    );
    assert_eq!(names(&[first.clone(), rotation.clone()]), [""; 0]);
    let second = verification(0, DUE, 1, JobState::Succeeded(time(NOW)));
    assert_eq!(names(&[first.clone(), rotation, second]), [first.name]);
}
