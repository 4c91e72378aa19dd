//! The model of a CephCluster (rook-behaviour §1.1).

use std::collections::BTreeMap;

use kms_core::{SecuritySpec, config::nearest};
use serde::{Deserialize, de::IgnoredAny};

use crate::{
    cluster_ref::ClusterRef,
    lenient::{valid_or_absent, valid_or_default},
};

/// A CephCluster, as far as it concerns the keys of its OSDs.
#[derive(Debug, Default, Deserialize)]
#[non_exhaustive]
#[serde(from = "Document")]
pub struct CephCluster {
    /// Its name; `None` if the document lacks the name or the namespace.
    ///
    /// A cluster that was deserialized never has a uid, since a manifest may be older than the cluster of that name.
    pub reference: Option<ClusterRef>,
    /// Whether the cluster is being deleted.
    pub deleting: bool,
    /// The id of the Ceph cluster that Rook has noted in `status.ceph.fsid`.
    pub fsid: Option<String>,
    /// Its annotations, which hold options of `kms` that Rook does not know.
    pub annotations: BTreeMap<String, String>,
    /// Its `spec`; the default if the document has none.
    pub spec: CephClusterSpec,
}

/// `spec` of a CephCluster, as far as it concerns the keys of its OSDs.
#[derive(Debug, Default, Deserialize)]
#[non_exhaustive]
#[serde(from = "SpecDocument")]
pub struct CephClusterSpec {
    /// The `security` block; the default if there is none, which means Kubernetes Secrets.
    pub security: SecuritySpec,
    /// The device sets; `None` if the spec has no `storage`.
    pub device_sets: Option<Vec<DeviceSet>>,
    /// The labels that Rook adds to key rotation jobs: `labels.keyrotation`, then `labels.all`, which wins.
    pub job_labels: BTreeMap<String, String>,
    /// The annotations that Rook adds to key rotation jobs, chosen like the labels.
    pub job_annotations: BTreeMap<String, String>,
    /// The selector of Ceph's public network; `None` unless Multus provides the networks.
    pub public_network: Option<String>,
    /// When the images of Rook's pods are pulled; `None` for the default.
    pub image_pull_policy: Option<String>,
    /// The field that looks like a misspelling of `security`, if `security` is absent.
    misspelt_security: Option<String>,
}

/// One entry of `spec.storage.storageClassDeviceSets`.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct DeviceSet {
    /// Its name.
    pub name: String,
    /// Whether its OSDs are encrypted, and so have keys in the KMS.
    pub encrypted: bool,
}

impl CephClusterSpec {
    /// A spec with this `security` block and nothing else.
    pub fn new(security: SecuritySpec) -> Self {
        Self { security, ..Self::default() }
    }

    /// Checks that no field looks like a misspelling of `security`.
    ///
    /// Without a `security` block the keys are Kubernetes Secrets, so a misspelt block must not be taken for an absent
    /// one. Where Rook's custom resource definitions are installed, the API server drops such a field.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` with the name of the field.
    pub fn check_spelling(&self) -> kms_core::Result<()> {
        match &self.misspelt_security {
            Some(field) => Err(kms_core::Error::config(did_you_mean("spec", field, SECURITY))),
            None => Ok(()),
        }
    }
}

/// Finds the field that looks like a misspelling of `known`; `None` if `known` itself is among the fields.
pub fn misspelt<'a>(known: &'static str, fields: impl Iterator<Item = &'a str> + Clone) -> Option<&'a str> {
    if fields.clone().any(|field| field == known) {
        return None;
    }
    let mut fields = fields;
    fields.find(|field| nearest(field, [known]).is_some())
}

/// The message for a field that [`misspelt`] found in a block.
pub fn did_you_mean(block: &str, field: &str, known: &str) -> String {
    format!("{block}.{field} is not known; did you mean {known}?")
}

const SECURITY: &str = "security";

/// A CephCluster document, as serde reads it.
#[derive(Deserialize)]
pub(crate) struct Document {
    #[serde(default)]
    metadata: Option<Metadata>,
    #[serde(default)]
    spec: Option<CephClusterSpec>,
    #[serde(default, deserialize_with = "valid_or_default")]
    status: Option<Status>,
}

#[derive(Default, Deserialize)]
struct Status {
    #[serde(default, deserialize_with = "valid_or_default")]
    ceph: Option<CephStatus>,
}

#[derive(Default, Deserialize)]
struct CephStatus {
    #[serde(default, deserialize_with = "valid_or_absent")]
    fsid: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    #[serde(default, deserialize_with = "valid_or_absent")]
    name: Option<String>,
    #[serde(default, deserialize_with = "valid_or_absent")]
    namespace: Option<String>,
    #[cfg(feature = "client")]
    #[serde(default, deserialize_with = "valid_or_absent")]
    uid: Option<String>,
    #[serde(default)]
    deletion_timestamp: Option<IgnoredAny>,
    #[serde(default, deserialize_with = "valid_or_absent")]
    annotations: Option<Entries>,
}

impl Document {
    /// The uid of the cluster, for a document from the API server.
    #[cfg(feature = "client")]
    pub(crate) fn uid(&self) -> Option<&str> {
        self.metadata.as_ref()?.uid.as_deref()
    }
}

impl From<Document> for CephCluster {
    fn from(document: Document) -> Self {
        let Document { metadata, spec, status } = document;
        let Metadata { name, namespace, deletion_timestamp, annotations, .. } = metadata.unwrap_or_default();
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        Self {
            reference: given(namespace)
                .zip(given(name))
                .map(|(namespace, name)| ClusterRef::new(namespace, name)),
            deleting: deletion_timestamp.is_some(),
            fsid: given(status.and_then(|status| status.ceph).and_then(|ceph| ceph.fsid)),
            annotations: annotations.map(valid_entries).unwrap_or_default(),
            spec: spec.unwrap_or_default(),
        }
    }
}

#[derive(Deserialize)]
#[serde(expecting = "a map")]
struct SpecDocument {
    #[serde(default)]
    security: Option<SecuritySpec>,
    #[serde(default, deserialize_with = "valid_or_default")]
    storage: Option<Storage>,
    #[serde(default, deserialize_with = "valid_or_absent")]
    labels: Option<JobEntries>,
    #[serde(default, deserialize_with = "valid_or_absent")]
    annotations: Option<JobEntries>,
    #[serde(default, deserialize_with = "valid_or_default")]
    network: Option<Network>,
    #[serde(default, rename = "cephVersion", deserialize_with = "valid_or_default")]
    ceph_version: Option<CephVersion>,
    /// The other fields, whose names are checked.
    #[serde(flatten)]
    other: BTreeMap<String, IgnoredAny>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Storage {
    #[serde(default, deserialize_with = "valid_or_absent")]
    storage_class_device_sets: Option<Vec<Valid<DeviceSetDocument>>>,
}

#[derive(Default, Deserialize)]
struct DeviceSetDocument {
    #[serde(default, deserialize_with = "valid_or_absent")]
    name: Option<String>,
    #[serde(default, deserialize_with = "valid_or_absent")]
    encrypted: Option<bool>,
}

#[derive(Default, Deserialize)]
struct Network {
    #[serde(default, deserialize_with = "valid_or_absent")]
    provider: Option<String>,
    #[serde(default, deserialize_with = "valid_or_default")]
    selectors: Option<BTreeMap<String, Valid<String>>>,
}

impl Network {
    fn public(self) -> Option<String> {
        let selector = self.selectors.unwrap_or_default().remove("public");
        selector.and_then(|Valid(selector)| selector).filter(|_| self.provider.as_deref() == Some("multus"))
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct CephVersion {
    #[serde(default, deserialize_with = "valid_or_absent")]
    image_pull_policy: Option<String>,
}

/// The entries of `spec.labels` or `spec.annotations` that Rook adds to a rotation job.
#[derive(Default, Deserialize)]
struct JobEntries {
    #[serde(default, deserialize_with = "valid_or_absent")]
    all: Option<Entries>,
    #[serde(default, deserialize_with = "valid_or_absent")]
    keyrotation: Option<Entries>,
}

/// Labels or annotations.
type Entries = BTreeMap<String, Valid<String>>;

/// The entries whose values are texts.
fn valid_entries(entries: impl IntoIterator<Item = (String, Valid<String>)>) -> BTreeMap<String, String> {
    entries.into_iter().filter_map(|(name, Valid(value))| Some((name, value?))).collect()
}

/// A value that is present; `None` if it has the wrong type.
#[derive(Deserialize)]
#[serde(bound = "T: Deserialize<'de>", transparent)]
struct Valid<T>(#[serde(deserialize_with = "valid_or_absent")] Option<T>);

impl JobEntries {
    fn merged(self) -> BTreeMap<String, String> {
        let Self { all, keyrotation } = self;
        valid_entries([keyrotation, all].into_iter().flatten().flatten())
    }
}

impl From<SpecDocument> for CephClusterSpec {
    fn from(document: SpecDocument) -> Self {
        let SpecDocument { security, storage, labels, annotations, network, ceph_version, other } = document;
        let fields = other.keys().map(String::as_str).chain(security.is_some().then_some(SECURITY));
        Self {
            misspelt_security: misspelt(SECURITY, fields).map(str::to_owned),
            security: security.unwrap_or_default(),
            device_sets: storage.map(|storage| {
                let sets = storage.storage_class_device_sets.unwrap_or_default();
                sets.into_iter().map(|Valid(set)| set.unwrap_or_default().into()).collect()
            }),
            job_labels: labels.unwrap_or_default().merged(),
            job_annotations: annotations.unwrap_or_default().merged(),
            public_network: network.and_then(Network::public),
            image_pull_policy: ceph_version
                .and_then(|version| version.image_pull_policy)
                .filter(|policy| !policy.is_empty()),
        }
    }
}

impl From<DeviceSetDocument> for DeviceSet {
    fn from(document: DeviceSetDocument) -> Self {
        let DeviceSetDocument { name, encrypted } = document;
        Self { name: name.unwrap_or_default(), encrypted: encrypted.unwrap_or(false) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> CephClusterSpec {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_misspelt_block_is_no_absent_one() {
        for field in ["securty", "Security"] {
            let error = spec(&format!(r#"{{"storage": {{}}, "{field}": {{"a": "canary"}}}}"#))
                .check_spelling()
                .unwrap_err();
            assert_eq!(error.to_string(), format!("spec.{field} is not known; did you mean security?"));
        }
        for text in
            ["{}", r#"{"cephVersion": {"image": "x"}, "mon": null}"#, r#"{"security": {}, "securty": 1}"#]
        {
            spec(text).check_spelling().unwrap();
        }
    }

    #[test]
    fn device_sets_are_read_as_far_as_they_are_there() {
        let sets = |text: &str| {
            let sets = spec(text).device_sets?;
            Some(sets.into_iter().map(|set| (set.name, set.encrypted)).collect::<Vec<_>>())
        };
        assert!(sets("{}").is_none());
        assert_eq!(sets(r#"{"storage": {"useAllNodes": true}}"#), Some(Vec::new()));
        let odd = r#"{"storage": {"storageClassDeviceSets": [{"name": 1, "encrypted": true}, "x"]}}"#;
        assert_eq!(sets(odd), Some(vec![(String::new(), true), (String::new(), false)]));
        for text in [r#"{"storage": null}"#, r#"{"storage": "x"}"#] {
            assert_eq!(sets(text), Some(Vec::new()), "{text}");
        }
        let two = sets(
            r#"{"storage": {"storageClassDeviceSets": [{"name": "a", "count": 3, "encrypted": true}, {"name": "b"}]}}"#,
        );
        assert_eq!(two, Some(vec![("a".to_owned(), true), ("b".to_owned(), false)]));
    }

    #[test]
    fn a_cluster_has_a_reference_if_it_has_name_and_namespace_and_never_a_uid() {
        let read = |metadata: &str| {
            serde_json::from_str::<CephCluster>(&format!(r#"{{"metadata": {metadata}}}"#)).unwrap()
        };
        let cluster = read(r#"{"name": "my", "namespace": "rook-ceph", "uid": "1-2"}"#);
        assert_eq!(cluster.reference, Some(ClusterRef::new("rook-ceph", "my")));
        assert!(!cluster.deleting);
        for metadata in [
            r#"{"name": "my"}"#,
            r#"{"name": "my", "namespace": ""}"#,
            r#"{"name": 1, "namespace": "a"}"#,
            "null",
        ] {
            assert_eq!(read(metadata).reference, None, "{metadata}");
        }
        assert!(read(r#"{"deletionTimestamp": "2026-01-01T00:00:00Z"}"#).deleting);
        assert!(!read(r#"{"deletionTimestamp": null}"#).deleting);
    }

    #[test]
    fn the_id_of_the_ceph_cluster_is_that_of_the_status() {
        let fsid = |status: &str| {
            serde_json::from_str::<CephCluster>(&format!(r#"{{"status": {status}}}"#)).unwrap().fsid
        };
        assert_eq!(
            fsid(r#"{"phase": "Ready", "ceph": {"fsid": "1-2", "health": "OK"}}"#),
            Some("1-2".to_owned())
        );
        for status in
            ["null", "{}", "1", r#"{"ceph": []}"#, r#"{"ceph": {"fsid": 1}}"#, r#"{"ceph": {"fsid": ""}}"#]
        {
            assert_eq!(fsid(status), None, "{status}");
        }
    }

    #[test]
    fn jobs_get_the_entries_for_key_rotation_and_for_all_which_win() {
        let spec = spec(
            r#"{"labels": {"all": {"a": "1", "b": "1", "n": 1}, "keyrotation": {"b": "2", "c": "4"}, "osd": {"d": "3"}},
                "annotations": {"keyrotation": "x", "all": {"d": "4"}}}"#,
        );
        let pairs = |map: &BTreeMap<String, String>| {
            map.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>()
        };
        assert_eq!(pairs(&spec.job_labels), ["a=1", "b=1", "c=4"]);
        assert_eq!(pairs(&spec.job_annotations), ["d=4"]);
    }
    #[test]
    fn the_public_network_counts_only_with_multus() {
        let network = |text: &str| spec(&format!(r#"{{"network": {text}}}"#)).public_network;
        let selectors = r#""selectors": {"public": "public-net", "cluster": "cluster-net"}"#;
        let multus = format!(r#"{{"provider": "multus", {selectors}}}"#);
        assert_eq!(network(&multus).as_deref(), Some("public-net"));
        for text in [
            r#"{"provider": "multus", "selectors": {"cluster": "x"}}"#,
            r#"{"provider": "multus", "selectors": null}"#,
            r#"{"provider": "multus", "selectors": {"public": 1}}"#,
            &format!(r#"{{"provider": "host", {selectors}}}"#),
            &format!("{{{selectors}}}"),
            "null",
            r#""multus""#,
        ] {
            assert_eq!(network(text), None, "{text}");
        }
    }
}
