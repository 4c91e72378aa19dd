//! The rules of alerts, evaluated by Prometheus' own engine on what its parser reads from real scrapes.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write as _,
    path::PathBuf,
    process::{Command, Stdio},
    sync::Arc,
};

use jiff::SignedDuration;
use kms_operator::{
    TokenView,
    api::{ConditionStatus, ConditionType, OsdKeyStatus},
    serve::Access,
};
use serde_json::{Value, json};

use crate::{
    dashboard::expressions,
    fixed::{Fixed, Parts, now},
    rules::rules,
    served::Served,
};

/// The seconds of a day.
const DAY: i64 = 86_400;
/// The media type that Prometheus asks for.
const OPEN_METRICS: &str = "accept: application/openmetrics-text;version=1.0.0\r\n";
/// The OSDs of a healthy cluster.
const HEALTHY: [u32; 2] = [0, 2];

/// A change of the first key's status.
type Change = fn(&mut OsdKeyStatus);

/// A cluster that is well but for one change.
fn source(change: impl FnOnce(&mut Parts)) -> Fixed {
    let source = Fixed::new();
    {
        let mut parts = source.parts();
        parts.cluster().keys.retain(|_, key| HEALTHY.contains(&key.osd));
        parts.cluster().faults.clear();
        change(&mut parts);
    }
    source
}

fn with_status(change: Change) -> Fixed {
    source(|parts| change(&mut parts.key(HEALTHY[0]).status))
}

fn with_token(change: impl FnOnce(&mut TokenView)) -> Fixed {
    source(|parts| change(parts.cluster().token.as_mut().unwrap()))
}

fn with_fault() -> Fixed {
    source(|parts| drop(parts.cluster().faults.insert("rook-ceph-osd-99".to_owned(), "odd".to_owned())))
}

fn set(status: &mut OsdKeyStatus, type_: ConditionType, holds: ConditionStatus, reason: &str) {
    let mut conditions = status.conditions.iter_mut();
    let condition = conditions.find(|condition| condition.type_ == type_).unwrap();
    (condition.status, condition.reason) = (holds, reason.to_owned());
}

/// What two replicas show, scraped over a real connection, for nine days before `at` and until it.
async fn scraped(source: Fixed, at: i64) -> Value {
    let source = Arc::new(source);
    let mut scrapes = Vec::new();
    for replica in ["a", "b"] {
        let served = Served::start(Arc::clone(&source) as Arc<_>, Access::Everyone).await;
        let answer = served.get("/metrics", OPEN_METRICS).await;
        assert_eq!(answer.status, 200);
        let media = answer.head.lines().find_map(|line| line.strip_prefix("content-type: ")).unwrap();
        scrapes.push(json!({
            "from": at - 9 * DAY, "until": at, "every": 240, "content_type": media, "text": answer.body,
            "labels": {"instance": replica, "namespace": "kms-operator"},
        }));
        // The second replica is a standby.
        source.parts().state.is_leader = false;
    }
    Value::from(scrapes)
}

/// The alerts that fire at the end of some scrapes, each with its labels.
fn firing(scrapes: &Value) -> BTreeMap<String, Vec<BTreeMap<String, String>>> {
    let program: PathBuf = kms_testkit::servers::setting("KMS_IT_GO_PROMQL").unwrap();
    let expressions: Vec<_> =
        expressions().iter().map(|text| text.replace("$__rate_interval", "5m")).collect();
    // JSON is YAML.
    let question =
        json!({"rules": rules()["spec"].to_string(), "expressions": expressions, "scrapes": scrapes});
    let mut child = Command::new(program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(question.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
#[ignore = "needs Prometheus' engine: cargo xtask it operator"]
async fn every_alert_fires_once_for_what_it_is_about_and_none_for_a_healthy_cluster() {
    use ConditionStatus::{False, True, Unknown};
    use ConditionType::{Escrowed, Ready, Verified};

    let at = now().as_second();
    assert_eq!(firing(&scraped(source(|_| ()), at).await), BTreeMap::new());
    // Of each change: the alerts that fire, besides "not ready" where it says so.
    let changes: [(&[&str], Change); 8] = [
        (&["KmsKeyNotReady", "KmsKeyOverdue"], |status| set(status, Ready, False, "TooOld")),
        (&["KmsKeyOverdue"], |status| set(status, Ready, True, "Due")),
        (&["KmsKeyOverdue"], |status| {
            let late = now() - SignedDuration::from_hours(26);
            status.next_rotation_at = Some(late.to_string());
        }),
        (&["KmsKeyNotReady", "KmsRotationFailing"], |status| {
            status.failed_attempts = 3;
            set(status, Ready, False, "RotationFailed");
        }),
        (&["KmsKeyNotVerified"], |status| set(status, Verified, False, "VerificationFailed")),
        (&["KmsHeaderDamaged"], |status| set(status, Verified, False, "HeaderDamaged")),
        (&["KmsVerificationIncomplete"], |status| set(status, Verified, Unknown, "KmsUnavailable")),
        (&["KmsKeyNotEscrowed"], |status| set(status, Escrowed, False, "Changed")),
    ];
    let mut seen = BTreeSet::new();
    for (expected, change) in changes {
        let found = firing(&scraped(with_status(change), at).await);
        assert_eq!(found.keys().collect::<Vec<_>>(), expected);
        for alerts in found.values() {
            // Two replicas show it, and it is one alert about one OSD of its namespace.
            let [labels] = alerts.as_slice() else { panic!("{alerts:?}") };
            assert_eq!((labels["namespace"].as_str(), labels["osd"].as_str()), ("rook-ceph", "0"));
        }
        seen.extend(found.into_keys());
    }
    let other: [(&str, Fixed, i64); 5] = [
        ("KmsEscrowFailing", source(|parts| parts.cluster().escrow.failed = 1), at),
        (
            "KmsTokenEnds",
            with_token(|token| token.expires = Some(now() + SignedDuration::from_hours(100))),
            at,
        ),
        ("KmsOperatorNoLeader", source(|parts| parts.state.is_leader = false), at),
        ("KmsOsdWithoutKeyObject", with_fault(), at),
        // The last reconcile was an hour before the last scrape.
        ("KmsOperatorNotReconciling", source(|_| ()), at + 3600),
    ];
    for (expected, source, at) in other {
        let found = firing(&scraped(source, at).await);
        assert_eq!(
            found.iter().map(|(name, all)| (name.as_str(), all.len())).collect::<Vec<_>>(),
            [(expected, 1)]
        );
        seen.extend(found.into_keys());
    }
    // A token that another program may renew is its business.
    let renewable = with_token(|token| {
        token.renewable = true;
        token.expires = Some(now());
    });
    assert_eq!(firing(&scraped(renewable, at).await), BTreeMap::new());
    // Without any scrape there is no leader either.
    assert_eq!(firing(&json!([])).into_keys().collect::<Vec<_>>(), ["KmsOperatorNoLeader"]);

    let rules = rules();
    let all = rules["spec"]["groups"][0]["rules"].as_array().unwrap();
    let all: BTreeSet<_> = all.iter().map(|alert| alert["alert"].as_str().unwrap().to_owned()).collect();
    assert_eq!(seen, all, "an alert that no change makes fire");
}
