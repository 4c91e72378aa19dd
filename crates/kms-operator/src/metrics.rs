//! What Prometheus scrapes.
//!
//! The gauges of keys are computed from the objects at each scrape: a key that is gone has no series. Times are times and
//! not ages, as in the file of `kms rotate --metrics-file`; a metric that both have means the same in both.
//!
//! The operator sends no request to a KMS. Its Jobs do, and report how many.

use std::{fmt, sync::Arc, time::Duration};

use jiff::Timestamp;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _, MetricEncoder, prometheus_text, text},
    metrics::{
        MetricType,
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::Histogram,
    },
    registry::Registry,
};

use crate::{
    api::{ConditionStatus, ConditionType, OsdKeyStatus},
    reports::Requests,
    source::{Source, time},
    view::{ClusterView, EscrowView, KeyView, TokenView},
};

/// A metric: its name and its meaning. The name of a histogram lacks the ending that its series have.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Metric {
    /// The name.
    pub name: &'static str,
    /// The meaning, without the full stop.
    pub help: &'static str,
}

const fn metric(name: &'static str, help: &'static str) -> Metric {
    Metric { name, help }
}

/// When the KEK was last replaced.
pub const ROTATED: Metric =
    metric("kms_rotation_last_rotation_timestamp_seconds", "When the last new KEK was stored by a run");
/// When the KEK was last seen to open every device of the OSD.
pub const VERIFIED: Metric = metric(
    "kms_key_verified_timestamp_seconds",
    "When the KEK was last seen to open every device of the OSD",
);
/// When the current KEK was last saved in an escrow.
pub const ESCROWED: Metric =
    metric("kms_key_escrowed_timestamp_seconds", "When the current KEK was last saved in an escrow");
/// When the next rotation may begin.
pub const NEXT_ROTATION: Metric = metric(
    "kms_key_next_rotation_timestamp_seconds",
    "When the next rotation may begin; absent if no rotation is planned",
);
/// The number of KEKs that the key has had.
pub const GENERATION: Metric =
    metric("kms_kek_generation", "How many KEKs were stored under this name, where the KMS counts them");
/// The rotations that failed since the last one that succeeded.
pub const FAILED_ATTEMPTS: Metric =
    metric("kms_key_failed_attempts", "The rotations that failed since the last one that succeeded");
/// The conditions of the object.
pub const CONDITION: Metric = metric(
    "kms_key_condition",
    "A condition of the OsdKey with its reason: 1 if it holds, 0 if it does not, -1 if that is not known",
);
/// The Deployments of encrypted OSDs that cannot be understood, so that their keys have no object.
pub const WITHOUT_KEY: Metric =
    metric("kms_operator_osd_without_key", "1 for each Deployment of an encrypted OSD without an OsdKey");
/// When all keys of a cluster were last saved in an escrow.
pub const CLUSTER_ESCROWED: Metric = metric(
    "kms_escrow_last_timestamp_seconds",
    "When all keys of the CephCluster were last saved in an escrow, as it records that",
);
/// When a drill of an escrow last succeeded.
pub const CLUSTER_DRILLED: Metric = metric(
    "kms_escrow_last_drill_timestamp_seconds",
    "When a drill of an escrow of the CephCluster last succeeded, as it records that",
);
/// The escrows of the operator that failed since the last escrow.
pub const ESCROW_FAILED: Metric =
    metric("kms_escrow_failed_attempts", "The escrows of the operator that failed since the last escrow");
/// When the token of the KMS ends.
pub const TOKEN_EXPIRES: Metric = metric(
    "kms_token_expires_timestamp_seconds",
    "When the token of the KMS in the settings of the CephCluster ends, as the last Job has seen it; absent if it never ends",
);
/// The requests of the operator's Jobs to a KMS.
pub const REQUESTS: Metric = metric(
    "kms_requests",
    "The tries of operations on the KMS by rotations, verifications and escrows that have ended since this replica began",
);
/// Whether this replica leads.
pub const LEADER: Metric = metric("kms_operator_leader", "1 if this replica leads, 0 if it does not");
/// How long reconciles take.
pub const RECONCILES: Metric =
    metric("kms_operator_reconcile_duration_seconds", "How long reconciles took, by result: ok or error");
/// When the last reconcile ended.
pub const LAST_RECONCILE: Metric = metric(
    "kms_operator_last_reconcile_timestamp_seconds",
    "When this replica last ended a reconcile, by the clock of the API server; 0 before the first one",
);

/// All metrics.
pub const ALL: [Metric; 16] = [
    ROTATED,
    VERIFIED,
    ESCROWED,
    NEXT_ROTATION,
    GENERATION,
    FAILED_ATTEMPTS,
    CONDITION,
    WITHOUT_KEY,
    CLUSTER_ESCROWED,
    CLUSTER_DRILLED,
    ESCROW_FAILED,
    TOKEN_EXPIRES,
    REQUESTS,
    LEADER,
    RECONCILES,
    LAST_RECONCILE,
];

/// The upper ends of the buckets of reconciles, in seconds: a reconcile is a few requests to the API server.
const BUCKETS: [f64; 9] = [0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0, 60.0];

/// The label of the series of reconciles.
type ByResult = [(&'static str, &'static str); 1];

/// The form of a scrape.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Form {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// The older text format, for scrapers that do not ask for OpenMetrics.
    Prometheus,
}

impl Form {
    /// The media type.
    pub(crate) const fn media_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => prometheus_text::CONTENT_TYPE,
        }
    }
}

/// How many reconciles there were and how long they took. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Reconciles {
    took: Family<ByResult, Histogram, fn() -> Histogram>,
    last: Gauge,
}

impl Reconciles {
    pub(crate) fn new() -> Self {
        let took = Family::<ByResult, Histogram, fn() -> Histogram>::new_with_constructor(|| {
            Histogram::new(BUCKETS)
        });
        // Both series exist from the start, so that the first error is an increase.
        for result in ["ok", "error"] {
            drop(took.get_or_create(&[("result", result)]));
        }
        Self { took, last: Gauge::default() }
    }

    /// Counts a reconcile that has ended; `now` is the time of the API server.
    pub(crate) fn ended(&self, took: Duration, succeeded: bool, now: Option<Timestamp>) {
        let result = if succeeded { "ok" } else { "error" };
        self.took.get_or_create(&[("result", result)]).observe(took.as_secs_f64());
        if let Some(now) = now {
            self.last.set(now.as_second());
        }
    }
}

/// The metrics of one replica. Clones share them.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Registry>);

impl Metrics {
    /// The metrics of what a source knows, without reconciles.
    pub fn new(source: Arc<dyn Source>) -> Self {
        let reconciles = Reconciles::new();
        if let Some(now) = source.now() {
            reconciles.last.set(now.as_second());
        }
        Self::with(source, &reconciles, &Requests::default())
    }

    /// The metrics of what a source knows, of reconciles, and of the requests of Jobs.
    pub(crate) fn with(source: Arc<dyn Source>, reconciles: &Reconciles, requests: &Requests) -> Self {
        let mut registry = Registry::default();
        let Reconciles { took, last } = reconciles.clone();
        registry.register(RECONCILES.name, RECONCILES.help, took);
        registry.register(REQUESTS.name, REQUESTS.help, requests.family.clone());
        registry.register(LAST_RECONCILE.name, LAST_RECONCILE.help, last);
        registry.register_collector(Box::new(Keys(source)));
        Self(Arc::new(registry))
    }

    /// The text of a scrape.
    pub(crate) fn encode(&self, form: Form) -> Result<String, fmt::Error> {
        let mut scrape = String::new();
        match form {
            Form::OpenMetrics => text::encode(&mut scrape, &self.0)?,
            Form::Prometheus => prometheus_text::encode(&mut scrape, &self.0)?,
        }
        Ok(scrape)
    }
}

/// A gauge of a key: the metric, and its value from the status.
type KeyGauge = (Metric, fn(&OsdKeyStatus) -> Option<i64>);

/// The gauges that each key has.
const GAUGES: [KeyGauge; 6] = [
    (ROTATED, |status| seconds(status.rotated_at.as_ref())),
    (VERIFIED, |status| seconds(status.verified_at.as_ref())),
    (ESCROWED, |status| seconds(status.escrowed_at.as_ref())),
    (NEXT_ROTATION, |status| seconds(status.next_rotation_at.as_ref())),
    (GENERATION, |status| status.key_version.and_then(|version| i64::try_from(version).ok())),
    (FAILED_ATTEMPTS, |status| Some(status.failed_attempts.into())),
];

/// A gauge of a cluster: the metric, and its value.
type ClusterGauge = (Metric, fn(&EscrowView) -> Option<i64>);

/// The gauges that each cluster has.
const CLUSTER_GAUGES: [ClusterGauge; 3] = [
    (CLUSTER_ESCROWED, |escrow| escrow.made.map(Timestamp::as_second)),
    (CLUSTER_DRILLED, |escrow| escrow.drilled.map(Timestamp::as_second)),
    (ESCROW_FAILED, |escrow| Some(escrow.failed.into())),
];

fn seconds(text: Option<&String>) -> Option<i64> {
    time(text).map(|time| time.as_second())
}

/// The metrics that are computed at a scrape.
#[derive(Debug)]
struct Keys(Arc<dyn Source>);

impl Collector for Keys {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let clusters = self.0.clusters();
        let keys: Vec<Key<'_>> = clusters
            .iter()
            .flat_map(|(kube_namespace, cluster)| {
                cluster.keys.iter().map(move |(name, key)| Key { kube_namespace, cluster, name, key })
            })
            .collect();
        let mut family = |metric: Metric, encode: &dyn Fn(MetricEncoder<'_>) -> fmt::Result| {
            encode(encoder.encode_descriptor(metric.name, metric.help, None, MetricType::Gauge)?)
        };
        for (metric, value) in GAUGES {
            family(metric, &|mut encoder| {
                let valued = keys.iter().filter_map(|key| Some((key, value(&key.key.status)?)));
                valued.into_iter().try_for_each(|(key, value)| gauge(&mut encoder, &key.labels(), value))
            })?;
        }
        family(CONDITION, &|mut encoder| {
            keys.iter().try_for_each(|key| {
                key.key.status.conditions.iter().try_for_each(|condition| {
                    let of_condition = [("condition", name(condition.type_)), ("reason", &condition.reason)];
                    gauge(&mut encoder, &(key.labels(), of_condition), value(condition.status))
                })
            })
        })?;
        family(WITHOUT_KEY, &|mut encoder| {
            let faults = clusters.iter().flat_map(|(kube_namespace, cluster)| {
                cluster.faults.keys().map(move |name| (kube_namespace, name))
            });
            faults.into_iter().try_for_each(|(kube_namespace, name)| {
                let labels = [("namespace", kube_namespace.as_str()), ("deployment", name.as_str())];
                gauge(&mut encoder, &labels, 1)
            })
        })?;
        for (metric, value) in CLUSTER_GAUGES {
            family(metric, &|mut encoder| {
                clusters.iter().try_for_each(|(kube_namespace, cluster)| {
                    let labels = [("namespace", kube_namespace.as_str()), ("cluster", cluster.name.as_str())];
                    let value = value(&cluster.escrow);
                    value.map_or(Ok(()), |value| gauge(&mut encoder, &labels, value))
                })
            })?;
        }
        family(TOKEN_EXPIRES, &|mut encoder| {
            clusters.iter().try_for_each(|(kube_namespace, cluster)| {
                let Some(TokenView { provider, expires: Some(expires), renewable }) = &cluster.token else {
                    return Ok(());
                };
                let labels = [
                    ("namespace", kube_namespace.as_str()),
                    ("cluster", cluster.name.as_str()),
                    ("provider", provider.as_str()),
                    ("renewable", if *renewable { "true" } else { "false" }),
                ];
                gauge(&mut encoder, &labels, expires.as_second())
            })
        })?;
        family(LEADER, &|encoder| ConstGauge::new(i64::from(self.0.state().is_leader)).encode(encoder))
    }
}

/// A key, and where it is.
struct Key<'a> {
    kube_namespace: &'a str,
    cluster: &'a ClusterView,
    name: &'a str,
    key: &'a KeyView,
}

impl Key<'_> {
    fn labels(&self) -> [(&'static str, String); 4] {
        let Self { kube_namespace, cluster, name, key } = self;
        [
            ("namespace", (*kube_namespace).to_owned()),
            ("cluster", cluster.name.clone()),
            ("osd", key.osd.to_string()),
            ("key", (*name).to_owned()),
        ]
    }
}

fn gauge(
    encoder: &mut MetricEncoder<'_>,
    labels: &impl prometheus_client::encoding::EncodeLabelSet,
    value: i64,
) -> fmt::Result {
    ConstGauge::new(value).encode(encoder.encode_family(labels)?)
}

/// The name of a condition, as in the object.
const fn name(condition: ConditionType) -> &'static str {
    match condition {
        ConditionType::Ready => "Ready",
        ConditionType::Rotating => "Rotating",
        ConditionType::Verified => "Verified",
        ConditionType::Escrowed => "Escrowed",
    }
}

const fn value(status: ConditionStatus) -> i64 {
    match status {
        ConditionStatus::True => 1,
        ConditionStatus::False => 0,
        ConditionStatus::Unknown => -1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{reports::Tried, test_data::Fixed};

    #[test]
    fn every_metric_is_scraped_and_a_key_that_is_gone_has_no_series() {
        let source = Arc::new(Fixed::new());
        let reconciles = Reconciles::new();
        let requests = Requests::default();
        // Without a Job that has reported there is no series.
        let [namespace, provider, operation, outcome] = ["a", "vault", "get", "done"].map(str::to_owned);
        requests.family.get_or_create(&Tried { namespace, provider, operation, outcome }).inc_by(7);
        let metrics = Metrics::with(Arc::clone(&source) as Arc<dyn Source>, &reconciles, &requests);
        reconciles.ended(Duration::from_millis(20), true, source.now());
        for form in [Form::OpenMetrics, Form::Prometheus] {
            let text = metrics.encode(form).unwrap();
            for metric in ALL {
                // The older form has the name of the series.
                let lines = ["", "_total"].map(|ending| format!("# TYPE {}{ending} ", metric.name));
                assert!(lines.iter().any(|line| text.contains(line)), "{} is not in\n{text}", metric.name);
            }
            let labels = r#"namespace="rook-ceph",cluster="rook-ceph",osd="3",key="set1-data-3abcde""#;
            for line in [
                format!("kms_rotation_last_rotation_timestamp_seconds{{{labels}}} 1793491200"),
                format!("kms_key_failed_attempts{{{labels}}} 2"),
                format!(r#"kms_key_condition{{{labels},condition="Ready",reason="RotationFailed"}} 0"#),
                format!(r#"kms_key_condition{{{labels},condition="Escrowed",reason="Unknown"}} -1"#),
                r#"kms_operator_osd_without_key{namespace="rook-ceph",deployment="rook-ceph-osd-99"} 1"#
                    .to_owned(),
                r#"kms_escrow_last_drill_timestamp_seconds{namespace="rook-ceph",cluster="rook-ceph"} 1795780800"#.to_owned(),
                r#"kms_escrow_failed_attempts{namespace="rook-ceph",cluster="rook-ceph"} 0"#.to_owned(),
                r#"kms_token_expires_timestamp_seconds{namespace="rook-ceph",cluster="rook-ceph",provider="vault",renewable="false"} 1798632000"#.to_owned(),
                r#"kms_requests_total{namespace="a",provider="vault",operation="get",outcome="done"} 7"#.to_owned(),
                "kms_operator_leader 1".to_owned(),
                "kms_operator_last_reconcile_timestamp_seconds 1796040000".to_owned(),
                r#"kms_operator_reconcile_duration_seconds_count{result="ok"} 1"#.to_owned(),
                r#"kms_operator_reconcile_duration_seconds_count{result="error"} 0"#.to_owned(),
            ] {
                assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
            }
        }
        source.parts().cluster().keys.retain(|_, key| key.osd != 3);
        let text = metrics.encode(Form::OpenMetrics).unwrap();
        assert!(!text.contains(r#"osd="3""#) && text.contains(r#"osd="2""#), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn a_name_with_quotes_stays_one_label() {
        let source = Arc::new(Fixed::new());
        source.parts().cluster().name = "a\"} 1\nother{b=\"".to_owned();
        let text = Metrics::new(source).encode(Form::OpenMetrics).unwrap();
        assert!(text.contains(r#"cluster="a\"} 1\nother{b=\"""#), "{text}");
    }
}
