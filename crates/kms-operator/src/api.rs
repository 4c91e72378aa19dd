//! The custom resources: `OsdKey`, the state of one key, and `KeyPolicy`, what is wanted of all keys.
//!
//! Neither holds key material, and neither is needed to open a device: without the operator, and without its objects, every
//! OSD starts as before.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The group of both resources, which is also the prefix of the annotations that `kms` writes.
pub const GROUP: &str = "kms.ceph.rook.io";

/// The annotation of an `OsdKey` that asks for a rotation now, outside the schedule and the windows. Each new value asks
/// once: the operator records the value that it has acted upon in `status.rotateNow`.
pub const ROTATE_NOW: &str = "kms.ceph.rook.io/rotate-now";

/// The annotation of an `OsdKey` or a CephCluster that stops every action of the operator there while it is `true`.
pub const PAUSED: &str = "kms.ceph.rook.io/paused";

/// The annotation of a CephCluster that hands the rotation of its keys to the operator: only with `true` the operator acts
/// there.
pub const OPERATOR: &str = "kms.ceph.rook.io/operator";

/// What an `OsdKey` is about. The operator writes it; nothing reads it as a wish.
#[derive(Clone, CustomResource, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[kube(
    group = "kms.ceph.rook.io",
    version = "v1alpha1",
    kind = "OsdKey",
    plural = "osdkeys",
    namespaced,
    status = "OsdKeyStatus",
    derive = "PartialEq",
    doc = "The key of one encrypted OSD: when it was rotated, verified and escrowed. It holds no key material.",
    printcolumn = r#"{"name": "OSD", "type": "integer", "jsonPath": ".spec.osd"}"#,
    printcolumn = r#"{"name": "Provider", "type": "string", "jsonPath": ".status.provider"}"#,
    printcolumn = r#"{"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type=='Ready')].status"}"#,
    printcolumn = r#"{"name": "Reason", "type": "string", "jsonPath": ".status.conditions[?(@.type=='Ready')].reason"}"#,
    printcolumn = r#"{"name": "Key-Age", "type": "date", "jsonPath": ".status.rotatedAt"}"#,
    printcolumn = r#"{"name": "Next", "type": "string", "jsonPath": ".status.nextRotationAt"}"#,
    validation = Rule::new("self.metadata.name.size() <= 253").message("the name is that of the OSD's PVC"),
)]
#[serde(rename_all = "camelCase")]
pub struct OsdKeySpec {
    /// The number of the OSD.
    pub osd: u32,
    /// The name of the CephCluster in the same namespace.
    #[schemars(length(min = 1, max = 253))]
    pub cluster: String,
    /// The name of the OSD's Deployment.
    #[schemars(length(min = 1, max = 253))]
    pub deployment: String,
}

impl k8s_openapi::Resource for OsdKey {
    const API_VERSION: &'static str = "kms.ceph.rook.io/v1alpha1";
    const GROUP: &'static str = GROUP;
    const KIND: &'static str = "OsdKey";
    const VERSION: &'static str = "v1alpha1";
    const URL_PATH_SEGMENT: &'static str = "osdkeys";
    type Scope = k8s_openapi::NamespaceResourceScope;
}

/// What the operator last saw of a key.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct OsdKeyStatus {
    /// The KMS that holds the key, as in `KMS_PROVIDER`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// The node that the OSD runs on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The number of KEKs that this key has had, if the KMS counts them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_version: Option<u64>,
    /// When the KEK was last replaced, in RFC 3339.
    #[schemars(extend("format" = "date-time"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotated_at: Option<String>,
    /// When the KEK was last seen to open every device of the OSD, in RFC 3339.
    #[schemars(extend("format" = "date-time"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verified_at: Option<String>,
    /// When the current KEK was last saved in an escrow, in RFC 3339.
    #[schemars(extend("format" = "date-time"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub escrowed_at: Option<String>,
    /// When the next rotation may begin, in RFC 3339; absent if no rotation is planned.
    #[schemars(extend("format" = "date-time"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_rotation_at: Option<String>,
    /// The rotations that failed since the last one that succeeded.
    pub failed_attempts: u32,
    /// The value of the annotation `rotate-now` that the operator has acted upon.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotate_now: Option<String>,
    /// The Job that rotates the key now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// The states `Ready`, `Rotating`, `Verified` and `Escrowed`.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// One state, as Kubernetes has them.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Its name.
    #[serde(rename = "type")]
    pub type_: ConditionType,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// Why, in one word.
    #[schemars(length(min = 1, max = 1024))]
    pub reason: String,
    /// Why, in a sentence for people. Without secrets.
    #[schemars(length(max = 32768))]
    pub message: String,
    /// When `status` last changed, in RFC 3339.
    #[schemars(extend("format" = "date-time"))]
    pub last_transition_time: String,
    /// The generation of the `OsdKey` that it was computed from.
    pub observed_generation: i64,
}

/// The states of a key.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
#[non_exhaustive]
pub enum ConditionType {
    /// The key is as its policy wants it.
    Ready,
    /// A Job rotates the key.
    Rotating,
    /// The KEK was seen to open every device of the OSD, and no Job has seen the contrary since.
    Verified,
    /// The current KEK is in an escrow.
    Escrowed,
}

/// Whether a state holds.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[non_exhaustive]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not.
    False,
    /// That is not known.
    Unknown,
}

/// What is wanted of the keys of all CephClusters, or of those in some namespaces.
///
/// A setting that is absent comes from `security.keyRotation` of the CephCluster, or has the default that is named.
#[derive(Clone, CustomResource, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[kube(
    group = "kms.ceph.rook.io",
    version = "v1alpha1",
    kind = "KeyPolicy",
    plural = "keypolicies",
    derive = "PartialEq",
    doc = "When keys of encrypted OSDs are rotated, by how many Jobs at a time, and how often they are verified and escrowed.",
    printcolumn = r#"{"name": "Schedule", "type": "string", "jsonPath": ".spec.schedule"}"#,
    printcolumn = r#"{"name": "Time-Zone", "type": "string", "jsonPath": ".spec.window.timeZone"}"#,
    printcolumn = r#"{"name": "Parallel", "type": "integer", "jsonPath": ".spec.maxParallel"}"#,
    printcolumn = r#"{"name": "Paused", "type": "boolean", "jsonPath": ".spec.paused"}"#
)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct KeyPolicySpec {
    /// The namespaces it holds for; all of them if empty.
    #[schemars(length(max = 1000))]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,
    /// Stops every action of the operator. What is running is not stopped.
    pub paused: bool,
    /// When a rotation becomes due, as a cron schedule; absent for `security.keyRotation.schedule` of the CephCluster.
    #[schemars(length(max = 512))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    /// When rotations may begin; absent for always.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<Window>,
    /// A key that is older is due whatever the schedule says, such as `2160h`. `Ready` becomes false then.
    #[schemars(regex(pattern = r"^([0-9]+(\.[0-9]+)?(h|m|s))+$"), length(max = 32))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<String>,
    /// The Jobs that run at a time in a cluster; one by default. There is never more than one in a failure domain.
    #[schemars(range(min = 1, max = 100))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_parallel: Option<u32>,
    /// The label of nodes that names the failure domain; `topology.kubernetes.io/zone` by default, then the node itself.
    #[schemars(length(max = 317))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure_domain: Option<String>,
    /// How often the KEK of today is tried on the devices of an OSD.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verify: Option<Verify>,
    /// How many Jobs may run at a time for a KMS, over all clusters of the operator. The least number of all policies counts,
    /// also of those that hold for other namespaces.
    #[schemars(
        length(max = 16),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["provider"])
    )]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<ProviderLimit>,
    /// When all KEKs are saved in an escrow, and for whom; absent for never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub escrow: Option<Escrow>,
}

/// How many Jobs may run at a time for a KMS.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ProviderLimit {
    /// The KMS, as in `KMS_PROVIDER`; `kubernetes` for keys in Secrets.
    #[schemars(length(min = 1, max = 64))]
    pub provider: String,
    /// The Jobs that run at a time: rotations, verifications and escrows.
    #[schemars(range(min = 1, max = 1000))]
    pub max_parallel: u32,
}

/// When all KEKs of a cluster are saved, and for whom. Only the identities of the recipients decrypt the archives.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Escrow {
    /// The recipients, as `age-keygen -y` prints them: `age1…`.
    #[schemars(length(min = 1, max = 64), inner(regex(pattern = r"^age1[0-9a-z]+$"), length(max = 2048)))]
    pub recipients: Vec<String>,
    /// When an escrow becomes due, as a cron schedule in UTC. A newer escrow, also one made by hand, counts.
    #[schemars(length(min = 1, max = 512))]
    pub schedule: String,
    /// The PersistentVolumeClaim in the namespace of the cluster where the archives go, each in a folder of its own. Nothing
    /// removes old ones.
    #[schemars(length(min = 1, max = 253))]
    pub claim: String,
    /// The account of the Job, which may read the keys and annotate the CephCluster; `rook-kms-escrow` by default.
    #[schemars(length(min = 1, max = 253))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<String>,
}

/// How often the KEK of today is tried on the devices of an OSD. A rotation counts too: it ends with that proof.
///
/// Verifications begin in the window only, and count in `maxParallel` and in failure domains as rotations do.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Verify {
    /// Whether Jobs verify keys; true by default.
    pub enabled: bool,
    /// A proof that is older is made again: an hour or longer, such as `168h`; 30 days by default.
    #[schemars(
        regex(pattern = r"^([0-9]+(\.[0-9]+)?(h|m|s))+$"),
        length(max = 32),
        extend("x-kubernetes-validations" = [
            {"rule": "duration(self) >= duration('1h')", "message": "a verification takes a Job, so maxAge is an hour or longer"}
        ])
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<String>,
}

impl Default for Verify {
    fn default() -> Self {
        Self { enabled: true, max_age: None }
    }
}

/// When rotations may begin.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Window {
    /// When it opens, as a cron schedule of five fields.
    #[schemars(length(min = 1, max = 512))]
    pub opens: String,
    /// How long it stays open, such as `4h`.
    #[schemars(regex(pattern = r"^([0-9]+(\.[0-9]+)?(h|m|s))+$"), length(max = 32))]
    pub duration: String,
    /// The time zone of `opens`, as in the tz database; UTC by default.
    #[schemars(length(max = 64))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
}
