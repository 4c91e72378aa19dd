//! The rules of alerts, as a PrometheusRule.

use kms_operator::metrics::{
    CONDITION, ESCROW_FAILED, FAILED_ATTEMPTS, LAST_RECONCILE, LEADER, NEXT_ROTATION, TOKEN_EXPIRES,
    WITHOUT_KEY,
};
use serde_json::{Value, json};

/// Where the pages of runbooks are.
const SOURCES: &str = "https://github.com/rook-kms/rook-kms/blob/main";
/// The labels of a key: every replica exports every key, and an alert is about a key, not about a replica.
pub(crate) const KEY: &str = "namespace, cluster, osd, key";
/// The words for a key in descriptions.
const OSD: &str = "OSD {{ $labels.osd }} of {{ $labels.namespace }}/{{ $labels.cluster }}";

/// An alert.
struct Alert {
    name: &'static str,
    expr: String,
    /// How long the expression has to hold.
    lasts: &'static str,
    severity: &'static str,
    /// The page of `docs/doctor/` and the number of the check there that says what to do.
    runbook: (&'static str, u16),
    summary: String,
    description: &'static str,
}

/// A condition of each key, with more labels that it has to have.
fn of_condition(name: &str, labels: &str) -> String {
    format!("max by ({KEY}) ({}{{condition=\"{name}\"{labels}}})", CONDITION.name)
}

fn alerts() -> Vec<Alert> {
    vec![
        Alert {
            name: "KmsKeyOverdue",
            expr: format!(
                "max by ({KEY}) ({}) < time() - 86400 or {} == 0",
                NEXT_ROTATION.name,
                of_condition("Ready", ", reason=\"TooOld\""),
            ),
            lasts: "1h",
            severity: "warning",
            runbook: ("inventory", 805),
            summary: format!("The key of {OSD} is overdue"),
            description: "It is older than its policy allows, or its rotation could have begun more than a day ago and has \
                          not: see the Events of the OSD's Deployment, and whether a KeyPolicy or the object is paused.",
        },
        // A window of each week lets a rotation wait for up to seven days.
        Alert {
            name: "KmsKeyOverdue",
            expr: format!("{} == 1", of_condition("Ready", ", reason=\"Due\"")),
            lasts: "8d",
            severity: "warning",
            runbook: ("inventory", 805),
            summary: format!("The key of {OSD} is overdue"),
            description: "Its rotation has been due for more than eight days: see whether the window of its KeyPolicy is too \
                          short for all OSDs, and maxParallel.",
        },
        Alert {
            name: "KmsKeyNotReady",
            expr: format!("{} == 0", of_condition("Ready", "")),
            lasts: "6h",
            severity: "warning",
            runbook: ("osds", 704),
            summary: format!("The key of {OSD} is not as its policy wants it"),
            description: "The condition Ready of the OsdKey is false: its reason and its message say why, such as a failed \
                          rotation, a policy that cannot be used, or Rook, which rotates the key itself.",
        },
        Alert {
            name: "KmsRotationFailing",
            expr: format!("max by ({KEY}) ({}) >= 3", FAILED_ATTEMPTS.name),
            lasts: "0m",
            severity: "warning",
            runbook: ("osds", 704),
            summary: format!("The rotation of the key of {OSD} fails"),
            description: "{{ $value }} attempts have failed since the last one that succeeded. The OSD starts with the KEK \
                          that the KMS has. The Events of its Deployment and the log of the Job say why; the next attempt \
                          continues where the last one stopped.",
        },
        Alert {
            name: "KmsKeyNotVerified",
            expr: format!("{} == 0", of_condition("Verified", ", reason!=\"HeaderDamaged\"")),
            lasts: "15m",
            severity: "critical",
            runbook: ("devices", 1004),
            summary: format!("The KEK of {OSD} does not open its devices"),
            description: "A Job has seen that the KEK in the KMS does not open a device, or that the KMS has no such KEK: the \
                          OSD does not start again. Do not restart it: run kms verify on its node.",
        },
        Alert {
            name: "KmsHeaderDamaged",
            expr: format!("{} == 0", of_condition("Verified", ", reason=\"HeaderDamaged\"")),
            lasts: "15m",
            severity: "critical",
            runbook: ("devices", 1003),
            summary: format!("A device of {OSD} has no LUKS header that can be used"),
            description: "A Job has seen that the header was overwritten or is damaged: the OSD does not start again, and no KEK \
                          opens the device. Do not restart the OSD, and write nothing to the device: kms escrow restore \
                          --header puts a header back that an escrow has.",
        },
        Alert {
            name: "KmsVerificationIncomplete",
            expr: format!("{} == -1", of_condition("Verified", ", reason!=\"NotVerified\"")),
            lasts: "6h",
            severity: "warning",
            runbook: ("connection", 305),
            summary: format!("Whether the KEK of {OSD} opens its devices cannot be tried"),
            description: "The verifications of six hours could not be made, from which nothing follows about the KEK. The \
                          condition Verified of the OsdKey and the log of the Job say why, such as a KMS that is away or \
                          refuses the login, or a device that is in use.",
        },
        Alert {
            name: "KmsKeyNotEscrowed",
            expr: format!("{} == 0", of_condition("Escrowed", "")),
            lasts: "1d",
            severity: "warning",
            runbook: ("escrow", 903),
            summary: format!("The current KEK of {OSD} is in no escrow"),
            description: "The KEK has changed since the last escrow: make a new one by kms escrow create.",
        },
        Alert {
            name: "KmsEscrowFailing",
            expr: format!("max by (namespace, cluster) ({}) >= 1", ESCROW_FAILED.name),
            lasts: "1h",
            severity: "warning",
            runbook: ("escrow", 903),
            summary: "The escrow of the keys of {{ $labels.namespace }}/{{ $labels.cluster }} fails"
                .to_owned(),
            description: "{{ $value }} attempts have failed since the last escrow. The log of the Job says why: see its \
                          account's rights to the keys, and the room in its PersistentVolumeClaim.",
        },
        Alert {
            name: "KmsTokenEnds",
            expr: format!(
                "max by (namespace, cluster) ({}{{renewable=\"false\"}}) < time() + 604800",
                TOKEN_EXPIRES.name
            ),
            lasts: "0m",
            severity: "warning",
            runbook: ("login", 402),
            summary:
                "The token of the KMS for {{ $labels.namespace }}/{{ $labels.cluster }} ends within a week"
                    .to_owned(),
            description: "It cannot be renewed, and without it no OSD of the cluster gets its KEK: put a new token into its \
                          Secret. The next rotation, verification or escrow shows the new one.",
        },
        Alert {
            name: "KmsOperatorNoLeader",
            expr: format!("(max({}) or vector(0)) == 0", LEADER.name),
            lasts: "5m",
            severity: "warning",
            runbook: ("kubernetes", 106),
            summary: "No replica of the operator leads".to_owned(),
            description: "No key is rotated, and the conditions of OsdKeys are not updated. No OSD needs the operator to \
                          start. See whether its pods run, and whether they reach the API server and their Lease.",
        },
        Alert {
            name: "KmsOperatorNotReconciling",
            expr: format!(
                "time() - {} > 1800 and {leader} == 1 and on (instance) count by (instance) ({failed}) > 0",
                LAST_RECONCILE.name,
                leader = LEADER.name,
                failed = FAILED_ATTEMPTS.name,
            ),
            lasts: "10m",
            severity: "warning",
            runbook: ("kubernetes", 107),
            summary: "The operator at {{ $labels.instance }} leads and reconciles nothing".to_owned(),
            description: "It has ended no reconcile for {{ $value | humanizeDuration }}. See its log; its probe /livez \
                          should have restarted it.",
        },
        Alert {
            name: "KmsOsdWithoutKeyObject",
            expr: format!("max by (namespace, deployment) ({}) == 1", WITHOUT_KEY.name),
            lasts: "30m",
            severity: "warning",
            runbook: ("osds", 702),
            summary: "The Deployment {{ $labels.namespace }}/{{ $labels.deployment }} has no OsdKey"
                .to_owned(),
            description: "The OSD is encrypted, and the operator keeps its key neither rotated nor watched. It makes no \
                          OsdKey of a Deployment that it cannot understand: kms doctor says why.",
        },
    ]
}

/// The page and the anchor of each alert's runbook.
pub(crate) fn runbooks() -> Vec<(&'static str, String)> {
    alerts().into_iter().map(|Alert { runbook: (page, code), .. }| (page, anchor(code))).collect()
}

fn anchor(code: u16) -> String {
    format!("kms{code:04}")
}

/// The object. `tests/install` says where it is.
pub(crate) fn rules() -> Value {
    let rule = |alert: Alert| {
        let Alert { name, expr, lasts, severity, runbook: (page, code), summary, description } = alert;
        json!({
            "alert": name,
            "expr": expr,
            "for": lasts,
            "labels": {"severity": severity},
            "annotations": {
                "summary": summary,
                "description": description,
                "runbook_url": format!("{SOURCES}/docs/doctor/{page}.md#{}", anchor(code)),
            },
        })
    };
    json!({
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "spec": {"groups": [{"name": "kms-operator", "rules": alerts().into_iter().map(rule).collect::<Vec<_>>()}]},
    })
}
