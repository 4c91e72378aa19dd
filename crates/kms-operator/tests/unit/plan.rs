//! The planner, on facts that are written down.

use std::time::Duration;

use kms_kube::CephCluster;
use kms_rook::client::LastRotation;
use serde_json::{Value, json};

use super::*;
use crate::{
    api::{ConditionStatus, ConditionType, KeyPolicySpec},
    escrow::EscrowFacts,
    facts::Obstacle,
    job::{JobState, wait},
    rules::Rules,
};

/// A Monday. The schedule of the tests makes keys due on Sundays at 03:00.
pub(crate) const NOW: &str = "2026-11-30T12:00:00Z";
const DUE: &str = "2026-11-29T03:00:00Z";
pub(crate) const NONE: [u32; 0] = [];

pub(crate) fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// The rules of a policy. Nothing is verified unless it says so.
fn rules(mut policy: Value) -> Rules {
    if policy["verify"].is_null() {
        policy["verify"] = json!({"enabled": false});
    }
    let cluster: CephCluster =
        serde_json::from_value(json!({"spec": {"security": {"keyRotation": {"schedule": "0 3 * * 0"}}}}))
            .unwrap();
    let spec: KeyPolicySpec = serde_json::from_value(policy).unwrap();
    Rules::of(&cluster, Some(&("p".to_owned(), spec))).unwrap()
}

pub(crate) fn facts(policy: Value, osds: Vec<OsdFacts>) -> Facts {
    Facts {
        now: time(NOW),
        provider: Some("vault".to_owned()),
        rules: Ok(rules(policy)),
        is_paused: false,
        limit: None,
        elsewhere: Some(0),
        escrow: EscrowFacts::default(),
        osds,
    }
}

/// An OSD on a node of its own that was created long ago.
pub(crate) fn osd(id: u32) -> OsdFacts {
    OsdFacts {
        id,
        key: format!("set1-data-{id}").parse().unwrap(),
        created: Some(time("2026-01-01T00:00:00Z")),
        last: None,
        node: Some(format!("node-{id}")),
        domain: Some(format!("node {id}")),
        is_paused: false,
        asked: None,
        generation: 1,
        status: OsdKeyStatus::default(),
        jobs: Vec::new(),
        lost_claim: None,
    }
}

pub(crate) fn rotated(id: u32, at: &str) -> OsdFacts {
    let annotations = [("kms.ceph.rook.io/key-rotated-at".to_owned(), at.to_owned())].into();
    OsdFacts { last: LastRotation::of(&annotations), ..osd(id) }
}

pub(crate) fn job(osd: u32, cause: Cause, number: u32, state: JobState) -> JobFacts {
    let attempt = Attempt { cause, number };
    JobFacts { name: attempt.job_name(osd), uid: None, osd, attempt, state, failure: None }
}

fn due_job(osd: u32, due: &str, number: u32, state: JobState) -> JobFacts {
    job(osd, Cause::Due(time(due)), number, state)
}

/// The OSDs whose rotation or verification begins.
pub(crate) fn begun(facts: &Facts) -> Vec<u32> {
    let plan = plan(facts);
    facts
        .osds
        .iter()
        .zip(&plan.osds)
        .filter(|(_, plan)| plan.start.is_some())
        .map(|(osd, _)| osd.id)
        .collect()
}

fn ready(facts: &Facts) -> (ConditionStatus, String, String) {
    let plan = plan(facts);
    let conditions = &plan.osds[0].status.conditions;
    let ready = conditions.iter().find(|condition| condition.type_ == ConditionType::Ready).unwrap();
    (ready.status, ready.reason.clone(), ready.message.clone())
}

#[test]
fn a_key_is_due_once_in_each_period_and_counts_from_its_creation() {
    for (made, expected) in [
        (osd(0), Some(DUE)),
        (rotated(0, "2026-11-29T02:59:59Z"), Some(DUE)),
        (rotated(0, "2026-11-29T03:00:00Z"), None),
        (rotated(0, "2026-11-29T03:00:01Z"), None),
        // The clock of the node was ahead.
        (rotated(0, "2026-12-24T00:00:00Z"), None),
        (rotated(0, "not a time"), Some(DUE)),
        (OsdFacts { created: Some(time("2026-11-29T04:00:00Z")), ..osd(0) }, None),
        (OsdFacts { created: None, ..osd(0) }, Some(DUE)),
    ] {
        let facts = facts(json!({}), vec![made]);
        let plan = plan(&facts);
        let start = plan.osds[0].start.clone();
        let expected = expected.map(|due| Attempt { cause: Cause::Due(time(due)), number: 1 });
        assert_eq!(start, expected, "{facts:?}");
        let next = if start.is_some() { DUE } else { "2026-12-06T03:00:00Z" };
        assert_eq!(plan.osds[0].status.next_rotation_at.as_deref(), Some(next));
        assert_eq!(plan.next, Some(time("2026-12-06T03:00:00Z")));
    }
}

#[test]
fn each_osd_has_a_minute_of_its_own_with_a_named_schedule() {
    let facts = facts(json!({"schedule": "@weekly"}), vec![osd(0), osd(1)]);
    let plan = plan(&facts);
    let due: Vec<_> = plan.osds.iter().map(|osd| osd.status.next_rotation_at.clone().unwrap()).collect();
    assert!(due[0] != due[1] && due.iter().all(|due| due.starts_with("2026-11-29T")), "{due:?}");
}

#[test]
fn a_job_that_succeeded_counts_even_if_nothing_is_recorded() {
    let mut one = osd(0);
    one.jobs = vec![due_job(0, DUE, 1, JobState::Succeeded(time("2026-11-29T03:05:00Z")))];
    let facts = facts(json!({}), vec![one]);
    assert_eq!(begun(&facts), NONE);
    let status = &plan(&facts).osds[0].status;
    assert_eq!(status.rotated_at.as_deref(), Some("2026-11-29T03:05:00Z"));
    assert_eq!(status.verified_at, status.rotated_at);
}

#[test]
fn a_key_that_is_too_old_is_due_whatever_the_schedule_says() {
    let of = |at: &str| facts(json!({"maxAge": "24h"}), vec![rotated(0, at)]);
    let old = of("2026-11-29T11:00:00Z");
    let start = plan(&old).osds[0].start.clone().unwrap();
    assert_eq!(start.cause, Cause::Due(time("2026-11-30T11:00:00Z")));
    assert_eq!((ready(&old).0, ready(&old).1.as_str()), (ConditionStatus::False, "TooOld"));
    let young = of("2026-11-29T13:00:00Z");
    assert_eq!(begun(&young), NONE);
    assert_eq!(plan(&young).next, Some(time("2026-11-30T13:00:00Z")));
    assert_eq!((ready(&young).0, ready(&young).1.as_str()), (ConditionStatus::True, "UpToDate"));
}

#[test]
fn no_more_than_the_policy_allows_begin_and_one_in_each_failure_domain() {
    let osds = || {
        let domains = ["a", "a", "b", "b", "c"];
        let in_domain = |(id, domain): (u32, &str)| OsdFacts { domain: Some(domain.to_owned()), ..osd(id) };
        (0..).zip(domains).map(in_domain).collect::<Vec<_>>()
    };
    assert_eq!(begun(&facts(json!({}), osds())), [0]);
    assert_eq!(begun(&facts(json!({"maxParallel": 2}), osds())), [0, 2]);
    assert_eq!(begun(&facts(json!({"maxParallel": 9}), osds())), [0, 2, 4]);
    // One of them runs.
    let mut running = osds();
    running[3].jobs = vec![due_job(3, DUE, 1, JobState::Active)];
    assert_eq!(begun(&facts(json!({}), running.clone())), NONE);
    assert_eq!(begun(&facts(json!({"maxParallel": 2}), running.clone())), [0]);
    assert_eq!(begun(&facts(json!({"maxParallel": 9}), running)), [0, 4]);
    // The one that is due the longest comes first; an OSD without a node does not begin, and takes no place.
    let mut mixed = vec![osd(0), osd(1), osd(2)];
    mixed[0].domain = None;
    mixed[1] = rotated(1, "2026-11-22T04:00:00Z");
    assert_eq!(begun(&facts(json!({}), mixed.clone())), [1]);
    assert_eq!(ready(&facts(json!({}), mixed)).1, "NoNode");
}

#[test]
fn nothing_begins_for_an_osd_whose_claim_is_gone() {
    let mut facts = facts(json!({"verify": {}}), vec![osd(0)]);
    assert_eq!(begun(&facts), [0]);
    facts.osds[0].lost_claim = Some("set1-data-0".to_owned());
    facts.osds[0].asked = Some("now".to_owned());
    assert_eq!(begun(&facts), NONE);
    let (status, reason, message) = ready(&facts);
    assert_eq!((status, reason.as_str()), (ConditionStatus::False, "NoClaim"));
    assert!(message.contains("set1-data-0"), "{message}");
}

#[test]
fn rotations_begin_in_windows_only() {
    let window = json!({"window": {"opens": "0 22 * * *", "duration": "6h"}});
    let mut facts = facts(window, vec![osd(0)]);
    assert_eq!(begun(&facts), NONE);
    assert_eq!(plan(&facts).next, Some(time("2026-11-30T22:00:00Z")));
    let (status, reason, message) = ready(&facts);
    assert_eq!((status, reason.as_str()), (ConditionStatus::True, "Due"));
    assert_eq!(
        message,
        "a rotation is due since 2026-11-29T03:00:00Z, and may begin at 2026-11-30T22:00:00Z"
    );
    facts.now = time("2026-11-30T22:00:00Z");
    assert_eq!(begun(&facts), [0]);
    assert_eq!(plan(&facts).osds[0].status.next_rotation_at.as_deref(), Some("2026-11-30T22:00:00Z"));
    facts.now = time("2026-12-01T04:00:00Z");
    assert_eq!(begun(&facts), NONE);
    // A key that is not due yet becomes due while no window is open.
    facts.osds = vec![rotated(0, "2026-11-29T03:00:01Z")];
    assert_eq!(plan(&facts).osds[0].status.next_rotation_at.as_deref(), Some("2026-12-06T03:00:00Z"));
    facts.rules = Ok(rules(json!({"window": {"opens": "0 22 * * *", "duration": "1h"}})));
    assert_eq!(plan(&facts).osds[0].status.next_rotation_at.as_deref(), Some("2026-12-06T22:00:00Z"));
}

#[test]
fn a_failure_is_tried_again_after_an_hour_and_then_ever_later() {
    let hours = [1, 2, 4, 8, 16, 24, 24].map(|hours| Duration::from_secs(hours * 3600));
    assert_eq!([1, 2, 3, 4, 5, 6, 400].map(wait), hours);
    let mut one = osd(0);
    one.jobs = vec![
        due_job(0, DUE, 1, JobState::Failed(time("2026-11-30T08:00:00Z"))),
        due_job(0, DUE, 2, JobState::Failed(time("2026-11-30T10:30:00Z"))),
    ];
    let mut facts = facts(json!({}), vec![one]);
    assert_eq!(begun(&facts), NONE);
    let status = plan(&facts).osds[0].status.clone();
    assert_eq!(
        (status.failed_attempts, status.next_rotation_at.as_deref()),
        (2, Some("2026-11-30T12:30:00Z"))
    );
    let (status, reason, message) = ready(&facts);
    assert_eq!((status, reason.as_str()), (ConditionStatus::False, "RotationFailed"));
    assert!(message.ends_with("the next one may begin at 2026-11-30T12:30:00Z"), "{message}");
    facts.now = time("2026-11-30T12:30:00Z");
    assert_eq!(plan(&facts).osds[0].start, Some(Attempt { cause: Cause::Due(time(DUE)), number: 3 }));
    // The number goes on in the next period, and so does the wait.
    facts.now = time("2026-12-06T03:00:00Z");
    let next = Attempt { cause: Cause::Due(time("2026-12-06T03:00:00Z")), number: 3 };
    assert_eq!(plan(&facts).osds[0].start, Some(next));
    // A rotation by hand ends it.
    facts.osds[0].last = rotated(0, "2026-11-30T11:00:00Z").last;
    facts.now = time("2026-11-30T12:30:00Z");
    assert_eq!((begun(&facts), plan(&facts).osds[0].status.failed_attempts), (Vec::new(), 0));
}

#[test]
fn a_new_value_of_rotate_now_asks_once() {
    let asked =
        |value: &str| OsdFacts { asked: Some(value.to_owned()), ..rotated(0, "2026-11-29T04:00:00Z") };
    let closed = json!({"window": {"opens": "0 22 * * *", "duration": "1h"}});
    let mut facts = facts(closed, vec![asked("1"), osd(1)]);
    let attempt = Attempt { cause: Cause::Asked("1".to_owned()), number: 1 };
    assert_eq!(plan(&facts).osds[0].start, Some(attempt.clone()));
    assert_eq!(plan(&facts).osds[0].status.rotate_now, None);
    // Its Job answers it, also after it has failed.
    facts.osds[0].jobs =
        vec![job(0, attempt.cause.clone(), 1, JobState::Failed(time("2026-11-30T11:00:00Z")))];
    let status = plan(&facts).osds[0].status.clone();
    assert_eq!((begun(&facts), status.rotate_now.as_deref()), (Vec::new(), Some("1")));
    // So does the status, once the Job is gone.
    facts.osds[0] = OsdFacts { status, ..asked("1") };
    assert_eq!(begun(&facts), NONE);
    facts.osds[0].asked = Some("2".to_owned());
    assert_eq!(begun(&facts), [0]);
    assert_eq!(plan(&facts).osds[0].status.rotate_now.as_deref(), Some("1"));
    facts.osds[0].asked = None;
    assert_eq!(begun(&facts), NONE);
}

#[test]
fn nothing_begins_where_the_operator_is_paused_or_may_not_rotate() {
    let due = || facts(json!({}), vec![OsdFacts { asked: Some("1".to_owned()), ..osd(0) }]);
    assert_eq!(begun(&due()), [0]);
    let paused = Facts { is_paused: true, ..due() };
    assert_eq!((begun(&paused), ready(&paused).1.as_str()), (Vec::new(), "Paused"));
    let mut one_paused = due();
    one_paused.osds[0].is_paused = true;
    assert_eq!((begun(&one_paused), ready(&one_paused).1.as_str()), (Vec::new(), "Paused"));
    for (obstacle, expected) in [
        (Obstacle::RookRotates("why".to_owned()), "RookRotates"),
        (Obstacle::Invalid("why".to_owned()), "Invalid"),
    ] {
        let facts = Facts { rules: Err(obstacle), ..due() };
        assert_eq!(begun(&facts), NONE);
        assert_eq!(ready(&facts), (ConditionStatus::False, expected.to_owned(), "why".to_owned()));
        assert_eq!(plan(&facts).osds[0].status.next_rotation_at, None);
    }
}

#[test]
fn ended_jobs_stay_until_a_later_due_time_has_one() {
    let before = "2026-11-22T03:00:00Z";
    let names = |osd: &OsdFacts| {
        plan(&facts(json!({}), vec![osd.clone()]))
            .obsolete
            .into_iter()
            .map(|job| job.name)
            .collect::<Vec<_>>()
    };
    let failed = due_job(0, before, 1, JobState::Failed(time("2026-11-22T03:10:00Z")));
    let succeeded = due_job(0, before, 2, JobState::Succeeded(time("2026-11-22T04:10:00Z")));
    let mut one = osd(0);
    one.jobs = vec![failed.clone(), succeeded.clone()];
    assert_eq!(names(&one), Vec::<String>::new());
    one.jobs.push(due_job(0, DUE, 1, JobState::Active));
    assert_eq!(names(&one), Vec::<String>::new());
    one.jobs[2].state = JobState::Succeeded(time("2026-11-29T03:10:00Z"));
    assert_eq!(names(&one), [failed.name, succeeded.name]);
    // One that was asked for stays until the status has its value.
    let asked = job(0, Cause::Asked("1".to_owned()), 1, JobState::Succeeded(time("2026-11-23T03:10:00Z")));
    one.jobs = vec![asked.clone(), one.jobs.remove(2)];
    assert_eq!(names(&one), Vec::<String>::new());
    one.status.rotate_now = Some("1".to_owned());
    assert_eq!(names(&one), [asked.name]);
}

#[test]
fn a_transition_time_stays_while_the_status_is_the_same_and_the_plan_is_stable() {
    let mut facts = facts(json!({}), vec![rotated(0, "2026-11-29T04:00:00Z")]);
    let first = plan(&facts).osds[0].status.clone();
    assert!(first.conditions.iter().all(|condition| condition.last_transition_time == NOW));
    facts.osds[0].status = first.clone();
    facts.now = time("2026-11-30T13:00:00Z");
    assert_eq!(plan(&facts).osds[0].status, first);
    facts.osds[0].jobs = vec![due_job(0, DUE, 1, JobState::Active)];
    let later = plan(&facts).osds[0].status.clone();
    let times: Vec<_> = later
        .conditions
        .iter()
        .map(|condition| (condition.type_, condition.last_transition_time.as_str()))
        .collect();
    assert_eq!(times[0], (ConditionType::Ready, NOW));
    assert_eq!(times[1], (ConditionType::Rotating, "2026-11-30T13:00:00Z"));
    assert_eq!(later.job.as_deref(), Some("rook-kms-rotate-0-20261129030000-1"));
}

/// Two replicas that decide from the same facts, or from facts of which some are missing, never create two Jobs of different
/// names for one period, unless an attempt has failed.
#[test]
fn replicas_with_older_facts_create_the_same_name() {
    let ended = JobState::Succeeded(time("2026-11-29T03:10:00Z"));
    let histories = [vec![], vec![due_job(0, DUE, 1, JobState::Active)], vec![due_job(0, DUE, 1, ended)]];
    let mut names = BTreeSet::new();
    for history in histories {
        let facts = facts(json!({}), vec![OsdFacts { jobs: history, ..osd(0) }]);
        names.extend(plan(&facts).osds[0].start.as_ref().map(|attempt| attempt.job_name(0)));
    }
    assert_eq!(names.into_iter().collect::<Vec<_>>(), ["rook-kms-rotate-0-20261129030000-1"]);
}

#[test]
fn a_key_is_escrowed_unless_it_is_newer_than_the_escrow() {
    let keys = vec![rotated(0, "2026-11-20T00:00:00Z"), rotated(1, "2026-11-26T00:00:00Z"), osd(2)];
    let states = |escrow: Option<&str>| {
        let escrow = EscrowFacts { made: escrow.map(time), ..EscrowFacts::default() };
        let facts = Facts { escrow, ..facts(json!({}), keys.clone()) };
        let shown = plan(&facts).osds.into_iter().map(|osd| {
            let all = osd.status.conditions.into_iter();
            let state = all.filter(|state| state.type_ == ConditionType::Escrowed).map(|state| state.reason);
            (state.collect::<String>(), osd.status.escrowed_at.is_some())
        });
        shown.collect::<Vec<_>>()
    };
    let of = |states: [(&str, bool); 3]| states.map(|(reason, saved)| (reason.to_owned(), saved));
    assert_eq!(states(None), of([("NotRecorded", false); 3]));
    let middle = of([("Saved", true), ("ChangedSince", false), ("Saved", true)]);
    assert_eq!(states(Some("2026-11-25T00:00:00Z")), middle);
    // A rotation in the second of the escrow's beginning came before the KEK was read.
    assert_eq!(states(Some("2026-11-26T00:00:00Z")), of([("Saved", true); 3]));
}
