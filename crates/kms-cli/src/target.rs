//! The target of a call: the KMS that the settings name, and how to connect to it.

use std::sync::Arc;

use async_trait::async_trait;
#[cfg(feature = "k8s-secret")]
use kms_core::SecretString;
use kms_core::{
    Error, ErrorKind, KeyName, KmsProvider, Result, SecretData, SecretSource, SecuritySpec, config::Problems,
};
use kms_dispatch::{Options, Provider, Registry, connect};
use kms_escrow::About;
use kms_kube::ClusterRef;
use kms_source::Directory;
use tracing::{info, warn};

use crate::{
    args::Global,
    environment::{Environment, is_about_proxies},
    job_report,
    kubernetes::{Kubernetes, Record},
    output::chain,
    rook::Rook,
    settings::{self, Settings},
};

/// The settings that say where the keys are. Every provider refuses an address with a user or a password.
const PLACE: [&str; 8] = [
    "VAULT_ADDR",
    "VAULT_NAMESPACE",
    "VAULT_BACKEND_PATH",
    "IBM_KP_BASE_URL",
    "IBM_KP_SERVICE_INSTANCE_ID",
    "IBM_KP_KEY_RING",
    "AZURE_VAULT_URL",
    "KMIP_ENDPOINT",
];

/// Why kms connects to Kubernetes for keys.
const NO_KMS: &str = "the settings name no KMS (KMS_PROVIDER), so the keys are Kubernetes Secrets";

/// The warning before kms stores a key for a CephCluster that is being deleted.
const BEING_DELETED: &str =
    "the CephCluster is being deleted: if its keys are Kubernetes Secrets, they are deleted with it";

/// The settings of a KMS, with everything that connecting requires.
#[derive(Debug)]
pub(crate) struct Target {
    settings: Box<dyn Settings>,
    /// The folder where Secrets are mounted.
    directory: Option<Directory>,
    kubernetes: Kubernetes,
    /// Whether the user has named the Kubernetes of the cluster, and the cluster is known.
    has_kubernetes: bool,
    registry: Registry,
    options: Options,
}

impl Target {
    /// Finds the settings in the sources that the user has named.
    pub(crate) async fn find(
        global: &Global,
        environment: &Environment,
        registry: &Registry,
    ) -> Result<Self> {
        let kubernetes = Kubernetes::new(global, global.timeout);
        let settings = settings::find(global, environment, registry, &kubernetes).await?;
        Ok(Self::new(settings, kubernetes, global, environment, registry))
    }

    /// Uses settings that have already been found.
    pub(crate) fn new(
        settings: Box<dyn Settings>,
        kubernetes: Kubernetes,
        global: &Global,
        environment: &Environment,
        registry: &Registry,
    ) -> Self {
        let mut options = Options::default()
            .with_registry(registry.clone())
            .with_allow_http(global.allow_http)
            .with_token_lookup(environment.get(job_report::FILE).is_some())
            .with_environment(variables_of_providers(environment));
        if let Some(path) = &global.kubeconfig {
            options = options.with_kubeconfig(path);
        }
        if let Some(context) = &global.context {
            options = options.with_kube_context(context);
        }
        if let Some(timeout) = global.timeout {
            options = options.with_deadline(timeout);
        }
        let directory = global.secrets_dir.as_ref();
        let names_kubernetes =
            settings.allows_kube_secrets() || global.kubeconfig.is_some() || global.context.is_some();
        Self {
            directory: directory.map(|path| Directory::new(path).with_rook_mounts_of(settings.security())),
            has_kubernetes: settings.cluster().is_some() && names_kubernetes,
            kubernetes,
            registry: registry.clone(),
            options,
            settings,
        }
    }

    /// The `security` block.
    pub(crate) fn security(&self) -> &SecuritySpec {
        self.settings.security()
    }

    /// The provider that the `security` block names.
    pub(crate) fn provider(&self) -> Result<Provider> {
        self.registry.provider_of(self.security())
    }

    /// The provider and the cluster, for an escrow.
    pub(crate) fn about(&self) -> Result<About> {
        Ok(About::new(
            self.provider()?.as_str(),
            self.cluster_name(),
            self.settings.fsid().map(ToOwned::to_owned),
        ))
    }

    /// The settings of the provider that are set and are no credentials, by their names. Of a registered provider it is not
    /// known which settings are credentials, so there are none.
    pub(crate) fn public_settings(&self, provider: Provider) -> Vec<(&'static str, &str)> {
        let details = &self.security().kms.connection_details;
        let known = provider.settings().unwrap_or_default();
        let public = known.iter().filter(|setting| !setting.is_secret).filter_map(|setting| {
            let is_set = |(name, value): &(&str, &str)| setting.is_named(name) && !value.trim().is_empty();
            let (_, value) = details.iter().find(is_set)?;
            Some((setting.name, value.trim()))
        });
        public.collect()
    }

    /// Where the keys are, in words: the provider, the settings that name the place, and the namespace and the API server of
    /// keys in Secrets.
    pub(crate) fn place(&self) -> String {
        let Ok(provider) = self.provider() else { return "the KMS".to_owned() };
        let settings = self.public_settings(provider).into_iter().filter(|(name, _)| PLACE.contains(name));
        let mut place: Vec<String> = settings.map(|(name, value)| format!("{name} {value}")).collect();
        if matches!(provider, Provider::KubernetesSecret) {
            place.extend(self.kube_namespace().map(|name| format!("namespace {name}")));
            place.extend(self.kubernetes.server().map(|server| format!("API server {server}")));
        }
        match place.is_empty() {
            true => provider.to_string(),
            false => format!("{provider} ({})", place.join(", ")),
        }
    }

    /// Adds where the keys are to an error that says that the KMS does not have a key: the settings often name another place
    /// than the one that has it.
    pub(crate) fn locate(&self, error: Error) -> Error {
        let is_about_key =
            error.failed_provider().is_some() && error.contexts().any(|(name, _)| name == "key");
        if error.kind() == ErrorKind::NotFound && is_about_key {
            error.context("looked in", self.place())
        } else {
            error
        }
    }

    /// The connection to the Kubernetes of the cluster, which is made at its first use.
    #[cfg(feature = "k8s-secret")]
    pub(crate) fn kubernetes(&self) -> &Kubernetes {
        &self.kubernetes
    }

    /// The namespace of the cluster, if it is known.
    pub(crate) fn kube_namespace(&self) -> Option<&str> {
        self.settings.cluster().map(|cluster| cluster.kube_namespace.as_str())
    }

    /// `NAMESPACE/NAME` of the CephCluster, if both are known.
    pub(crate) fn cluster_name(&self) -> Option<String> {
        let cluster = self.settings.cluster().filter(|cluster| !cluster.name.is_empty())?;
        Some(format!("{}/{}", cluster.kube_namespace, cluster.name))
    }

    /// Whether the user has named the Kubernetes of the cluster, and the cluster is known.
    pub(crate) fn has_kubernetes(&self) -> bool {
        self.has_kubernetes
    }

    /// Whether the settings say that Rook rotates keys.
    pub(crate) fn rotates(&self) -> bool {
        self.settings.key_rotation() == Some(true)
    }

    /// The Rook cluster of the OSDs, as far as it is known.
    pub(crate) fn rook(&self, global: &Global) -> Rook {
        let rook = Rook::new(self.settings.key_rotation());
        match self.settings.cluster() {
            Some(cluster) if self.has_kubernetes && !cluster.name.is_empty() => rook.at(global, cluster),
            _ => rook,
        }
    }

    /// Warnings about unusual settings that are not errors.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let Some(sets) = self.settings.device_sets() else { return Vec::new() };
        if self.security().kms.connection_details.is_empty() {
            return Vec::new();
        }
        let plain: Vec<&str> =
            sets.iter().filter(|set| !set.encrypted).map(|set| set.name.as_str()).collect();
        if plain.len() == sets.len() {
            vec![
                "the KMS is not used: no entry of storageClassDeviceSets is encrypted, and OSDs on hosts keep their \
                 keys in the monitors of Ceph"
                    .to_owned(),
            ]
        } else if plain.is_empty() {
            Vec::new()
        } else {
            vec![format!("the OSDs of these device sets are not encrypted: {}", plain.join(", "))]
        }
    }

    /// Whether the CephCluster is being deleted.
    #[cfg(feature = "k8s-secret")]
    pub(crate) fn is_being_deleted(&self) -> bool {
        self.settings.is_being_deleted()
    }

    /// Finds the objects in a namespace of Kubernetes that use a key. Empty if there are none.
    pub(crate) async fn uses_in_cluster(&self, kube_namespace: &str, key: &KeyName) -> Result<Vec<String>> {
        self.kubernetes.uses(kube_namespace, key).await
    }

    /// Records at the CephCluster when an escrow of all keys was made or a drill has succeeded, if the user has named its
    /// Kubernetes. That is done already, so a failure is a warning.
    pub(crate) async fn record(&self, record: Record, at: &str) {
        let Some(cluster) = self.settings.cluster().filter(|cluster| !cluster.name.is_empty()) else {
            return;
        };
        if self.has_kubernetes
            && let Err(error) = self.kubernetes.record(cluster, record, at).await
        {
            let what = match record {
                Record::Drill => "drill",
                Record::Escrow => "escrow",
            };
            warn!(
                "the {what} is not recorded at the CephCluster, where the operator looks: {}",
                chain(&error)
            );
        }
    }

    /// Connects to the KMS.
    pub(crate) async fn connect(&self) -> Result<Arc<dyn KmsProvider>> {
        self.connect_for(self.settings.cluster().cloned()).await
    }

    /// Connects to the KMS as the pods of a service account do, with a token of the account. Only for a KMS in which each
    /// account logs in by itself.
    #[cfg(feature = "k8s-secret")]
    pub(crate) async fn connect_as_account(&self, token: SecretString) -> Result<Arc<dyn KmsProvider>> {
        let options = self.options.clone().with_account_token(token);
        self.connect_with(options, self.settings.cluster().cloned()).await
    }

    /// Connects to the KMS to store a key. If the provider creates a Secret for the key, the CephCluster owns the Secret.
    ///
    /// The uid of the owner comes from Kubernetes, never from a file or the environment, which may be older than the
    /// cluster: Kubernetes deletes a Secret whose owner does not exist, and with it the key.
    pub(crate) async fn connect_to_write(&self) -> Result<Arc<dyn KmsProvider>> {
        if self.settings.is_being_deleted() {
            warn!("{BEING_DELETED}");
        }
        let mut cluster = self.settings.cluster().cloned();
        if let Some(known) = &mut cluster
            && known.uid.is_none()
            && self.writes_secrets(self.provider()?)
        {
            self.check_block()?;
            known.uid = self.uid_of(known).await?;
        }
        self.connect_for(cluster).await
    }

    /// Whether the provider creates a Secret for a key. KMIP does so if it can reach Kubernetes.
    fn writes_secrets(&self, provider: Provider) -> bool {
        match provider {
            Provider::KubernetesSecret => provider.is_compiled(),
            Provider::Kmip => Kubernetes::IS_COMPILED && provider.is_compiled() && self.has_kubernetes,
            _ => false,
        }
    }

    /// The uid of a cluster. `None` if the cluster does not exist or kms may not read it: a Secret without an owner
    /// survives the deletion of the cluster, so no key is lost.
    async fn uid_of(&self, cluster: &ClusterRef) -> Result<Option<String>> {
        let why = if cluster.name.is_empty() {
            "its name is not known (ROOK_CLUSTER_NAME)".to_owned()
        } else {
            match self.kubernetes.cluster(cluster).await {
                Ok(live) => {
                    if live.deleting && !self.settings.is_being_deleted() {
                        warn!("{BEING_DELETED}");
                    }
                    return Ok(live.reference.and_then(|reference| reference.uid));
                }
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => {
                    chain(&error)
                }
                Err(error) => return Err(error),
            }
        };
        warn!(
            "the CephCluster will not own the Secret, so the Secret stays when the CephCluster is deleted: {why}"
        );
        Ok(None)
    }

    /// Checks the block itself before kms contacts Kubernetes: a misspelt name may be the only reason for that contact.
    fn check_block(&self) -> Result<()> {
        let mut problems = Problems::new();
        self.security().check(&mut problems);
        problems.into_result()
    }

    async fn connect_for(&self, cluster: Option<ClusterRef>) -> Result<Arc<dyn KmsProvider>> {
        self.connect_with(self.options.clone(), cluster).await
    }

    async fn connect_with(
        &self,
        mut options: Options,
        cluster: Option<ClusterRef>,
    ) -> Result<Arc<dyn KmsProvider>> {
        let kube_secrets = cluster
            .as_ref()
            .filter(|_| self.settings.allows_kube_secrets())
            .and_then(|cluster| self.kubernetes.secrets(&cluster.kube_namespace));
        if let Some(cluster) = cluster {
            options = options.with_cluster(cluster);
        }
        if self.provider().is_ok_and(|provider| self.writes_secrets(provider)) {
            self.check_block()?;
            options = self.kubernetes.add_connection(options).await.map_err(|error| {
                // People who have forgotten the settings of their KMS do not expect Kubernetes.
                match self.security().kms.connection_details.is_empty() {
                    true => error.context("why Kubernetes", NO_KMS),
                    false => error,
                }
            })?;
        }
        let directory = self.directory.as_ref().map(|directory| directory as &dyn SecretSource);
        let kube_secrets = kube_secrets.as_ref().map(|secrets| secrets as &dyn SecretSource);
        let sources = [self.settings.secrets(), directory, kube_secrets];
        let secrets = FirstSource {
            sources: sources.into_iter().flatten().collect(),
            hint: self.settings.missing_secret_hint(),
        };
        let kms = connect(self.security(), &secrets, options).await?;
        info!(provider = kms.provider(), "ready");
        Ok(kms)
    }
}

/// The name of a provider for people: its value of `KMS_PROVIDER`. Kubernetes Secrets have none.
pub(crate) const fn provider_name(kms_provider: &str) -> &str {
    if kms_provider.is_empty() { Provider::KubernetesSecret.feature() } else { kms_provider }
}

/// The variables that a provider may use: its settings, and those that choose a proxy.
fn variables_of_providers(environment: &Environment) -> impl Iterator<Item = (&str, &str)> {
    environment.pairs().filter(|(name, _)| {
        ["AZURE_", "KMIP_", "VAULT_"].iter().any(|prefix| name.starts_with(prefix)) || is_about_proxies(name)
    })
}

/// Several sources of Secrets. Returns each Secret from the first source that has it.
#[derive(Debug)]
struct FirstSource<'a> {
    sources: Vec<&'a dyn SecretSource>,
    hint: &'static str,
}

#[async_trait]
impl SecretSource for FirstSource<'_> {
    async fn secret(&self, name: &str) -> Result<SecretData> {
        let mut absent: Vec<String> = Vec::new();
        for source in &self.sources {
            match source.secret(name).await {
                Err(error) if error.kind() == ErrorKind::NotFound => absent.push(error.message().to_owned()),
                other => return other,
            }
        }
        if absent.is_empty() {
            absent.push(format!("Secret {name:?} is needed, and no source of Secrets is given"));
        }
        Err(Error::new(ErrorKind::NotFound, format!("{}{}", absent.join("; "), self.hint)))
    }
}
