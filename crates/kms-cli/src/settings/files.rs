//! Settings from the files given with `-f`.

use kms_core::{Error, Result, SecretSource, SecuritySpec};
use kms_kube::{ClusterRef, DeviceSet};
use kms_source::Manifests;
use tracing::info;

use crate::{args::Global, input, settings::Settings};

/// The most that is read of an input. The parser has the same limit.
const MAX_INPUT_BYTES: usize = 8 * 1024 * 1024;

/// Settings and Secrets in YAML documents.
#[derive(Debug)]
pub(super) struct FileSettings {
    manifests: Manifests,
    security: SecuritySpec,
    cluster: Option<ClusterRef>,
    is_cluster_named: bool,
}

impl FileSettings {
    /// Takes the settings of documents. `named` is the CephCluster given with `--cluster`.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if the documents are about another CephCluster.
    pub(super) fn new(mut manifests: Manifests, named: Option<&ClusterRef>) -> Result<Self> {
        if let (Some(document), Some(named)) = (manifests.cluster(), named)
            && document != named
        {
            return Err(Error::config(format!(
                "the CephCluster given with -f is {}/{}, and --cluster names another one",
                document.kube_namespace, document.name
            )));
        }
        let cluster = named.or_else(|| manifests.cluster()).cloned();
        let security = manifests.take_security().unwrap_or_default();
        Ok(Self { manifests, security, cluster, is_cluster_named: named.is_some() })
    }
}

impl Settings for FileSettings {
    fn security(&self) -> &SecuritySpec {
        &self.security
    }

    fn cluster(&self) -> Option<&ClusterRef> {
        self.cluster.as_ref()
    }

    fn secrets(&self) -> Option<&dyn SecretSource> {
        Some(&self.manifests)
    }

    /// Files may be far away from any Kubernetes, so the user has to name the cluster.
    fn allows_kube_secrets(&self) -> bool {
        self.is_cluster_named
    }

    fn device_sets(&self) -> Option<&[DeviceSet]> {
        self.manifests.device_sets()
    }

    fn is_being_deleted(&self) -> bool {
        self.manifests.is_being_deleted()
    }

    fn missing_secret_hint(&self) -> &'static str {
        if self.is_cluster_named {
            ""
        } else {
            ": add it with -f, or say where Secrets are (--secrets-dir, --cluster)"
        }
    }
}

/// Reads the files given with `-f`, and keeps the objects of these further kinds.
pub(crate) fn read_manifests(global: &Global, kinds: &[&str]) -> Result<Manifests> {
    let mut inputs = Vec::new();
    for path in &global.files {
        inputs.push((input::name(path), input::read(path, MAX_INPUT_BYTES)?));
    }
    let inputs = inputs.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice()));
    let manifests = Manifests::parse_keeping(inputs, kinds)?;
    for ignored in manifests.ignored() {
        info!("ignored: {ignored}");
    }
    Ok(manifests)
}
