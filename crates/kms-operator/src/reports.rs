//! What Jobs report by the termination messages of their pods: their requests to a KMS, how long their token lives, and why
//! they failed.
//!
//! The operator sends no such request, so it counts those of its Jobs. A message is text that a pod has written: what is not a
//! report is skipped.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use jiff::Timestamp;
use kms_core::ErrorKind;
use kube::{ResourceExt as _, api::DynamicObject};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};
use serde::Deserialize;
use serde_json::Value;

use crate::{clock::whole_seconds, view::TokenView};

/// The longest word of a report.
const LONGEST: usize = 32;
/// The most counts of a report.
const MOST: usize = 64;

/// The report of a pod that has ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Report {
    /// The UID of the pod.
    uid: String,
    /// The UID of its Job.
    pub(crate) job: Option<String>,
    ended: Timestamp,
    counts: Vec<Count>,
    token: Option<TokenView>,
    /// Why the Job failed; `None` if it did not, or if that is not known.
    pub(crate) failure: Option<Failure>,
}

/// Why a Job failed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Failure {
    /// The kind of the error.
    pub(crate) kind: ErrorKind,
    /// Whether a request to the KMS failed.
    pub(crate) is_of_kms: bool,
    /// What was seen that keeps the OSD from starting, if anything was.
    pub(crate) refutation: Option<Refutation>,
}

/// What a Job has seen that keeps an OSD from starting.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Refutation {
    /// A device has no LUKS header that can be used.
    Header,
    /// The KEK does not open a device, or the KMS has no such KEK.
    Kek,
}

impl Refutation {
    /// All of them.
    pub(crate) const ALL: [Self; 2] = [Self::Header, Self::Kek];

    /// The reason of the conditions that it makes false.
    pub(crate) const fn reason(self) -> &'static str {
        match self {
            Self::Header => "HeaderDamaged",
            Self::Kek => "VerificationFailed",
        }
    }
}

/// A line of the message.
#[derive(Deserialize)]
struct Line {
    requests: Vec<Count>,
    token: Option<LineToken>,
    error: Option<LineError>,
}

/// The token of a line.
#[derive(Deserialize)]
struct LineToken {
    provider: String,
    expires: Option<Timestamp>,
    renewable: bool,
}

/// The error of a line.
#[derive(Deserialize)]
struct LineError {
    kind: String,
    provider: Option<String>,
    opens: Option<bool>,
    header: Option<bool>,
}

impl LineError {
    /// `None` for a kind that is not known.
    fn failure(&self) -> Option<Failure> {
        let Self { kind, provider, opens, header } = self;
        let kind = ErrorKind::ALL.into_iter().find(|known| known.as_str() == kind)?;
        let refutation = match (opens, header) {
            (_, Some(false)) => Some(Refutation::Header),
            (Some(false), _) => Some(Refutation::Kek),
            _ => None,
        };
        Some(Failure { kind, is_of_kms: provider.is_some(), refutation })
    }
}

/// The tries of one kind.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
struct Count {
    provider: String,
    operation: String,
    outcome: String,
    count: u64,
}

impl Report {
    /// Reads a pod; `None` if it has not ended, or says nothing.
    pub(crate) fn of(pod: &DynamicObject) -> Option<Self> {
        let ended = pod.data.pointer("/status/containerStatuses/0/state/terminated")?;
        let text = |name: &str| ended.get(name).and_then(Value::as_str);
        // The last line: words of an error may stand before it.
        let line: Line = serde_json::from_str(text("message")?.lines().last()?).ok()?;
        let is_word = |word: &str| {
            (1..=LONGEST).contains(&word.len())
                && word
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte))
        };
        let counts = line.requests.into_iter().take(MOST);
        let counts = counts.filter(|Count { provider, operation, outcome, .. }| {
            [provider, operation, outcome].into_iter().all(|word| is_word(word))
        });
        let owners = pod.owner_references().iter();
        Some(Self {
            uid: pod.uid()?,
            job: owners.filter(|owner| owner.kind == "Job").map(|owner| owner.uid.clone()).next(),
            ended: text("finishedAt")?.parse().ok()?,
            counts: counts.collect(),
            token: line
                .token
                .filter(|token| is_word(&token.provider))
                .map(|LineToken { provider, expires, renewable }| TokenView { provider, expires, renewable }),
            failure: line.error.and_then(|error| error.failure()),
        })
    }
}

/// What the Job that ended last has learnt of the token of the settings.
pub(crate) fn token<'a>(reports: impl IntoIterator<Item = &'a Report>) -> Option<TokenView> {
    let told = reports.into_iter().filter_map(|report| Some((report.ended, report.token.as_ref()?)));
    told.max_by_key(|(ended, _)| *ended).map(|(_, token)| token.clone())
}

/// The labels of a series.
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub(crate) struct Tried {
    pub(crate) namespace: String,
    pub(crate) provider: String,
    pub(crate) operation: String,
    pub(crate) outcome: String,
}

/// The requests of all Jobs that have ended since this replica began. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Requests {
    pub(crate) family: Family<Tried, Counter>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// When this replica began to count. A pod that ended before was counted by the process before it.
    since: Option<Timestamp>,
    /// The pods that were counted and are still there, by namespace.
    counted: BTreeMap<String, BTreeSet<String>>,
}

impl Requests {
    /// Counts the reports of a namespace that were not counted yet. `reports` are those of all pods that are there now.
    pub(crate) fn count(
        &self,
        kube_namespace: &str,
        reports: impl IntoIterator<Item = Report>,
        now: Timestamp,
    ) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // Times of the kubelet are whole seconds.
        let since = *state.since.get_or_insert_with(|| whole_seconds(now));
        let before = state.counted.remove(kube_namespace).unwrap_or_default();
        let mut counted = BTreeSet::new();
        for Report { uid, ended, counts, .. } in reports {
            if ended >= since && !before.contains(&uid) {
                for Count { provider, operation, outcome, count } in counts {
                    let namespace = kube_namespace.to_owned();
                    let tried = Tried { namespace, provider, operation, outcome };
                    self.family.get_or_create(&tried).inc_by(count);
                }
            }
            counted.insert(uid);
        }
        state.counted.insert(kube_namespace.to_owned(), counted);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: &str = "2026-11-30T12:00:00Z";

    fn pod(uid: &str, ended: &str, message: &str) -> Option<Report> {
        let terminated = json!({"exitCode": 0, "finishedAt": ended, "message": message});
        let owner = json!({"apiVersion": "batch/v1", "kind": "Job", "name": "job", "uid": "of-job"});
        let pod = json!({
            "metadata": {"name": uid, "uid": uid, "ownerReferences": [owner]},
            "status": {"containerStatuses": [{"state": {"terminated": terminated}}]},
        });
        Report::of(&serde_json::from_value(pod).unwrap())
    }

    fn counts(outcome: &str, count: u64) -> String {
        let counts = json!([{"provider": "vault", "operation": "get", "outcome": outcome, "count": count}]);
        format!("it failed: why\n{}\n", json!({"requests": counts}))
    }

    /// The count of gets with this outcome.
    fn seen(requests: &Requests, outcome: &str) -> u64 {
        let [namespace, provider, operation, outcome] =
            ["rook-ceph", "vault", "get", outcome].map(str::to_owned);
        requests.family.get_or_create(&Tried { namespace, provider, operation, outcome }).get()
    }

    #[test]
    fn each_pod_counts_once_and_those_before_this_process_do_not() {
        let requests = Requests::default();
        let count = |pods: &[Option<Report>]| {
            requests.count("rook-ceph", pods.iter().flatten().cloned(), NOW.parse().unwrap());
        };
        let before = pod("a", "2026-11-30T11:59:59Z", &counts("done", 100));
        let first = pod("b", NOW, &counts("done", 3));
        count(&[before.clone(), first.clone()]);
        count(&[before, first.clone(), pod("c", "2026-11-30T12:05:00Z", &counts("timeout", 1))]);
        assert_eq!((seen(&requests, "done"), seen(&requests, "timeout")), (3, 1));
        // A pod that is gone is forgotten.
        count(&[first]);
        assert_eq!(requests.state.lock().unwrap().counted["rook-ceph"].len(), 1);
        assert_eq!((seen(&requests, "done"), seen(&requests, "timeout")), (3, 1));
    }

    #[test]
    fn a_failure_is_of_a_known_kind_and_says_what_was_seen_of_the_kek() {
        let failure = |error: Value| {
            let report = pod("a", NOW, &json!({"requests": [], "error": error}).to_string()).unwrap();
            assert_eq!(report.job.as_deref(), Some("of-job"));
            report.failure
        };
        let of = |kind, is_of_kms, refutation| Some(Failure { kind, is_of_kms, refutation });
        for (error, expected) in [
            (json!({"kind": "unavailable", "provider": "vault"}), of(ErrorKind::Unavailable, true, None)),
            (json!({"kind": "conflict"}), of(ErrorKind::Conflict, false, None)),
            (
                json!({"kind": "conflict", "opens": false}),
                of(ErrorKind::Conflict, false, Some(Refutation::Kek)),
            ),
            (json!({"kind": "conflict", "opens": true}), of(ErrorKind::Conflict, false, None)),
            (
                json!({"kind": "config-invalid", "opens": false, "header": false}),
                of(ErrorKind::ConfigInvalid, false, Some(Refutation::Header)),
            ),
            (json!({"kind": "canary", "opens": false}), None),
            (Value::Null, None),
        ] {
            assert_eq!(failure(error.clone()), expected, "{error}");
        }
    }

    #[test]
    fn the_token_is_that_of_the_job_that_ended_last() {
        let told = |uid: &str, ended: &str, token: Value| {
            pod(uid, ended, &json!({"requests": [], "token": token}).to_string()).unwrap()
        };
        let expires = "2026-12-30T12:00:00Z";
        let reports = [
            told("a", NOW, json!({"provider": "vault", "expires": expires, "renewable": false})),
            told("b", "2026-11-30T11:00:00Z", json!({"provider": "vault", "renewable": true})),
            told("c", "2026-11-30T13:00:00Z", Value::Null),
            told("d", "2026-11-30T13:00:00Z", json!({"provider": "an\"other", "renewable": true})),
        ];
        let found = token(&reports).unwrap();
        assert_eq!((found.provider.as_str(), found.renewable), ("vault", false));
        assert_eq!(found.expires, Some(expires.parse().unwrap()));
        assert_eq!(token(&reports[1..]).unwrap().expires, None);
        assert_eq!(token(&reports[2..]), None);
    }

    #[test]
    fn a_message_that_is_no_report_counts_nothing() {
        for message in ["", "it failed", "{}", "{\"requests\": 1}"] {
            assert_eq!(pod("a", NOW, message), None, "{message}");
        }
        assert_eq!(pod("a", "soon", &counts("done", 1)), None);
        for odd in ["", "a\"} 1\nother{b=\"", "DONE", &"a".repeat(33)] {
            assert_eq!(pod("a", NOW, &counts(odd, 1)).unwrap().counts, [], "{odd}");
        }
        let running =
            json!({"metadata": {"uid": "a"}, "status": {"containerStatuses": [{"state": {"running": {}}}]}});
        assert_eq!(Report::of(&serde_json::from_value(running).unwrap()), None);
    }
}
