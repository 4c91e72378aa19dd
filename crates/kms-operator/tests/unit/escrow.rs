//! Escrows, on facts that are written down.

use serde_json::{Value, json};

use super::*;
use crate::{
    api::{ConditionStatus, ConditionType},
    facts::Facts,
    plan::{
        plan,
        tests::{NOW, facts, rotated, time},
    },
};

/// A Sunday at 02:00, before [`NOW`], which is a Monday.
const DUE: &str = "2026-11-29T02:00:00Z";

fn policy(change: Value) -> Escrow {
    let mut escrow = json!({"recipients": ["age1a"], "schedule": "0 2 * * 0", "claim": "archives"});
    escrow.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    serde_json::from_value(escrow).unwrap()
}

/// A cluster whose escrows are due on Sundays. The last one was made at this time.
fn of(made: Option<&str>, jobs: Vec<EscrowJob>) -> EscrowFacts {
    let rules = EscrowRules::of(&policy(json!({}))).unwrap();
    EscrowFacts { rules: Some(Ok(rules)), made: made.map(time), drilled: None, jobs }
}

fn job(due: &str, number: u32, state: JobState) -> EscrowJob {
    let attempt = EscrowAttempt { due: time(due), number };
    EscrowJob { name: attempt.job_name(), uid: None, attempt, state }
}

#[test]
fn an_escrow_is_due_once_in_each_period_also_if_it_was_made_by_hand() {
    let first = EscrowAttempt { due: time(DUE), number: 1 };
    let start = |facts: &EscrowFacts| facts.plan(time(NOW)).start;
    assert_eq!(start(&of(None, Vec::new())), Some(first));
    assert_eq!(start(&of(Some("2026-11-29T01:59:59Z"), Vec::new())), Some(first));
    assert_eq!(first.job_name(), "rook-kms-escrow-20261129020000-1");
    for (made, jobs) in [
        (Some(DUE), Vec::new()),
        (None, vec![job(DUE, 1, JobState::Active)]),
        (None, vec![job(DUE, 1, JobState::Succeeded(time("2026-11-29T02:03:00Z")))]),
    ] {
        assert_eq!(start(&of(made, jobs)), None);
    }
    assert_eq!(of(Some(DUE), Vec::new()).plan(time(NOW)).next, Some(time("2026-12-06T02:00:00Z")));
    // Without a policy there is none.
    assert_eq!(start(&EscrowFacts::default()), None);
}

#[test]
fn an_escrow_that_fails_is_tried_again_and_is_shown_where_a_key_is_in_none() {
    let failed = vec![job(DUE, 1, JobState::Failed(time("2026-11-30T11:30:00Z")))];
    let escrow = of(Some("2026-11-25T00:00:00Z"), failed);
    let waiting = escrow.plan(time(NOW));
    assert_eq!((waiting.start, waiting.next), (None, Some(time("2026-11-30T12:30:00Z"))));
    let again = escrow.plan(time("2026-11-30T12:30:00Z")).start;
    assert_eq!(again, Some(EscrowAttempt { due: time(DUE), number: 2 }));
    let keys = vec![rotated(0, "2026-11-20T00:00:00Z"), rotated(1, "2026-11-26T00:00:00Z")];
    let facts = Facts { escrow, ..facts(json!({}), keys) };
    let shown: Vec<_> = plan(&facts)
        .osds
        .iter()
        .map(|osd| {
            let all = &osd.status.conditions;
            let found = all.iter().find(|one| one.type_ == ConditionType::Escrowed).unwrap();
            (found.status, found.reason.clone())
        })
        .collect();
    // The first key is in the older escrow.
    let expected = [(ConditionStatus::True, "Saved"), (ConditionStatus::False, "EscrowFailed")];
    assert_eq!(shown, expected.map(|(status, reason)| (status, reason.to_owned())));
    assert!(waiting.problem().unwrap().contains("the last of 1 attempts"));
}

#[test]
fn a_pause_and_the_limit_of_the_kms_hold_an_escrow_back_and_it_takes_a_place() {
    let due = |limit, elsewhere| Facts {
        escrow: of(None, Vec::new()),
        limit,
        elsewhere,
        ..facts(json!({"maxParallel": 9}), vec![rotated(0, "2026-11-20T00:00:00Z")])
    };
    let begun = |facts: &Facts| {
        let plan = plan(facts);
        (plan.escrow.start.is_some(), plan.osds[0].start.is_some())
    };
    assert_eq!(begun(&due(None, None)), (true, true));
    assert_eq!(begun(&due(Some(2), Some(0))), (true, true));
    assert_eq!(begun(&due(Some(2), Some(1))), (true, false));
    assert_eq!(begun(&due(Some(2), Some(2))), (false, false));
    // What runs elsewhere is not known yet.
    assert_eq!(begun(&due(Some(2), None)), (false, false));
    assert_eq!(begun(&Facts { is_paused: true, ..due(None, None) }), (false, false));
    let mut running = due(Some(2), Some(0));
    running.escrow.jobs = vec![job(DUE, 1, JobState::Active)];
    assert_eq!((running.room(), begun(&running)), (1, (false, true)));
}

#[test]
fn a_policy_that_is_not_valid_says_so() {
    for (change, expected) in [
        (json!({"recipients": []}), "escrow.recipients"),
        (json!({"recipients": ["age1a\nage1b"]}), "escrow.recipients"),
        (json!({"recipients": ["AGE-SECRET-KEY-1"]}), "escrow.recipients"),
        (json!({"schedule": "often"}), "escrow.schedule"),
        (json!({"claim": ""}), "escrow.claim"),
    ] {
        let error = EscrowRules::of(&policy(change)).unwrap_err();
        // A secret key that was pasted is not quoted.
        assert!(error.to_string().contains(expected) && !error.to_string().contains("SECRET"), "{error}");
    }
}

#[test]
fn old_jobs_go_once_a_later_one_has_ended() {
    let old = job("2026-11-22T02:00:00Z", 1, JobState::Succeeded(time("2026-11-22T02:03:00Z")));
    let new = job(DUE, 1, JobState::Succeeded(time("2026-11-29T02:03:00Z")));
    let obsolete = |jobs: Vec<EscrowJob>| of(None, jobs).plan(time(NOW)).obsolete;
    assert_eq!(obsolete(vec![old.clone()]), []);
    assert_eq!(obsolete(vec![old.clone(), job(DUE, 1, JobState::Active)]), []);
    assert_eq!(obsolete(vec![old.clone(), new]), [old]);
}
