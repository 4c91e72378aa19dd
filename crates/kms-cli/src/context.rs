//! Which KMS is meant: from options and environment to a provider.

use std::{path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use kms_core::{Error, ErrorKind, KmsProvider, Result, SecretData, SecretSource, SecuritySpec};
use kms_dispatch::{Options, Provider, connect, keys::is_setting};
use kms_kube::ClusterRef;
use kms_source::{Directory, Manifests, PodEnvironment};
use tracing::{info, warn};

#[cfg(feature = "k8s-secret")]
use kms_core::config::Problems;

#[cfg(feature = "k8s-secret")]
use crate::kubernetes::Kubernetes;
#[cfg(feature = "k8s-secret")]
use crate::output::chain;
use crate::{
    cli::{ClusterName, Global},
    environment::Environment,
    input,
};

/// The most that is read of an input given with `-f`; what is allowed for its content is checked again where it is
/// parsed.
const MAX_INPUT_BYTES: usize = 8 * 1024 * 1024;

/// What is odd about storing a key then.
const BEING_DELETED: &str = "the CephCluster is being deleted: where its keys are Secrets, they go with it";

/// Where the `security` block comes from.
#[derive(Debug)]
enum Origin {
    #[cfg_attr(
        not(feature = "k8s-secret"),
        expect(dead_code, reason = "there is no Kubernetes to read it from")
    )]
    Cluster(SecuritySpec),
    Manifests(Box<Manifests>),
    Pod(PodEnvironment),
}

/// A `security` block, and everything that is needed to connect to the KMS that it names.
#[derive(Debug)]
pub(crate) struct Context {
    origin: Origin,
    /// Secrets that were given beside a block from Kubernetes.
    manifests: Option<Manifests>,
    directory: Option<Directory>,
    cluster: Option<ClusterRef>,
    /// The device sets of the cluster, and whether each is encrypted, if it says something of its storage.
    device_sets: Option<Vec<(String, bool)>>,
    /// Whether the cluster is being deleted.
    deleting: bool,
    /// The namespace whose Secrets may be read from Kubernetes, if any may.
    kube_secrets: Option<String>,
    #[cfg(feature = "k8s-secret")]
    kubernetes: Kubernetes,
    /// Whether the user has led us to the Kubernetes of the cluster, and the cluster is known.
    #[cfg(feature = "k8s-secret")]
    has_kubernetes: bool,
    options: Options,
}

impl Context {
    /// Finds the block: in what `-f` gives, in the cluster that `--cluster` names, in the environment.
    pub(crate) async fn new(global: &Global, environment: &Environment) -> Result<Self> {
        let manifests = if global.files.is_empty() { None } else { Some(read_manifests(global)?) };
        match (manifests, &global.cluster) {
            (Some(manifests), named) if manifests.security().is_some() => {
                let cluster = agreed(manifests.cluster(), named.as_ref())?;
                // Secrets from somewhere else than the files only if the user has named the cluster.
                let kube_secrets = named.as_ref().map(|named| named.kube_namespace.clone());
                Ok(Self::with(
                    global,
                    environment,
                    Origin::Manifests(Box::new(manifests)),
                    cluster,
                    kube_secrets,
                ))
            }
            (manifests, Some(named)) => {
                let mut context = Self::from_cluster(global, environment, named, global.timeout).await?;
                context.manifests = manifests;
                Ok(context)
            }
            (Some(_), None) => Err(Error::config(
                "the files given with -f have no CephCluster and no security block: add one, or name the CephCluster \
                 with --cluster",
            )),
            (None, None) => Self::from_pod(global, environment),
        }
    }

    /// Reads the CephCluster from Kubernetes. `patience` is how long to try, for it and for each Secret.
    #[cfg(feature = "k8s-secret")]
    pub(crate) async fn from_cluster(
        global: &Global,
        environment: &Environment,
        named: &ClusterName,
        patience: Option<Duration>,
    ) -> Result<Self> {
        let kubernetes = Kubernetes::new(global, patience);
        let info = kubernetes.cluster(named).await?;
        let kube_secrets = Some(named.kube_namespace.clone());
        let mut context = Self::with(
            global,
            environment,
            Origin::Cluster(info.spec.security),
            info.reference,
            kube_secrets,
        );
        context.kubernetes = kubernetes;
        context.device_sets =
            info.spec.device_sets.map(|sets| sets.into_iter().map(|set| (set.name, set.encrypted)).collect());
        context.deleting = info.deleting;
        Ok(context)
    }

    /// Reads the CephCluster from Kubernetes.
    #[cfg(not(feature = "k8s-secret"))]
    #[expect(clippy::unused_async, reason = "the other one awaits")]
    pub(crate) async fn from_cluster(
        _global: &Global,
        _environment: &Environment,
        _named: &ClusterName,
        _patience: Option<Duration>,
    ) -> Result<Self> {
        Err(Error::new(ErrorKind::Disabled, "this build cannot read from Kubernetes")
            .context("feature", Provider::KubernetesSecret.feature()))
    }

    /// Takes the environment, as Rook sets it in its pods.
    pub(crate) fn from_pod(global: &Global, environment: &Environment) -> Result<Self> {
        let pod = pod(environment);
        for name in pod.passed_over() {
            warn!("{name} in the environment is no setting of the provider, and has no effect");
        }
        let kube_namespace = environment.get("POD_NAMESPACE");
        if !has_kms(&pod) && kube_namespace.is_none() {
            return Err(Error::config(
                "nothing says which KMS to use: give a CephCluster with -f or --cluster, or set KMS_PROVIDER and its \
                 settings as Rook does in its pods",
            ));
        }
        // ROOK_CLUSTER_ID is not taken for the uid of the cluster: see `connect_to_write`.
        let name = environment.get("ROOK_CLUSTER_NAME").unwrap_or_default();
        let cluster = kube_namespace.map(|kube_namespace| ClusterRef::new(kube_namespace, name));
        let kube_secrets = kube_namespace.map(str::to_owned);
        Ok(Self::with(global, environment, Origin::Pod(pod), cluster, kube_secrets))
    }

    fn with(
        global: &Global,
        environment: &Environment,
        origin: Origin,
        cluster: Option<ClusterRef>,
        kube_secrets: Option<String>,
    ) -> Self {
        let mut options =
            Options::default().with_allow_http(global.allow_http).with_environment(settings(environment));
        if let Some(path) = &global.kubeconfig {
            options = options.with_kubeconfig(path);
        }
        if let Some(context) = &global.context {
            options = options.with_kube_context(context);
        }
        if let Some(timeout) = global.timeout {
            options = options.with_deadline(timeout);
        }
        let directory = |security: &SecuritySpec| {
            global.secrets_dir.as_ref().map(|dir| Directory::new(dir).with_rook_mounts_of(security))
        };
        let (device_sets, deleting) = match &origin {
            Origin::Manifests(manifests) => {
                let sets = manifests.device_sets();
                let sets =
                    sets.map(|sets| sets.iter().map(|set| (set.name.clone(), set.encrypted)).collect());
                (sets, manifests.is_being_deleted())
            }
            Origin::Cluster(_) | Origin::Pod(_) => (None, false),
        };
        Self {
            directory: directory(security_of(&origin)),
            origin,
            device_sets,
            deleting,
            manifests: None,
            #[cfg(feature = "k8s-secret")]
            has_kubernetes: cluster.is_some()
                && (kube_secrets.is_some() || global.kubeconfig.is_some() || global.context.is_some()),
            cluster,
            kube_secrets,
            #[cfg(feature = "k8s-secret")]
            kubernetes: Kubernetes::new(global, global.timeout),
            options,
        }
    }

    /// The `security` block.
    pub(crate) fn security(&self) -> &SecuritySpec {
        security_of(&self.origin)
    }

    /// The namespace of the cluster, if it is known.
    pub(crate) fn kube_namespace(&self) -> Option<&str> {
        self.cluster.as_ref().map(|cluster| cluster.kube_namespace.as_str())
    }

    /// What is odd about the configuration, though nothing fails because of it.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let Some(sets) = &self.device_sets else { return Vec::new() };
        if self.security().kms.connection_details.is_empty() {
            return Vec::new();
        }
        let plain: Vec<&str> =
            sets.iter().filter(|(_, encrypted)| !encrypted).map(|(name, _)| name.as_str()).collect();
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

    /// Connects to the KMS.
    pub(crate) async fn connect(&self) -> Result<Arc<dyn KmsProvider>> {
        self.connect_as(self.cluster.clone()).await
    }

    /// Connects to the KMS to store a key. Where that makes a Secret, the Secret is to belong to the CephCluster.
    ///
    /// Its uid is asked for in Kubernetes, and not taken from a file or from the environment, which may be older than
    /// the cluster: a Secret whose owner does not exist is deleted by Kubernetes, with the key in it.
    #[cfg(feature = "k8s-secret")]
    pub(crate) async fn connect_to_write(&self) -> Result<Arc<dyn KmsProvider>> {
        if self.deleting {
            warn!("{BEING_DELETED}");
        }
        let mut cluster = self.cluster.clone();
        if let Some(known) = &mut cluster
            && known.uid.is_none()
            && self.writes_secrets(Provider::of(self.security())?)
        {
            self.check_block()?;
            known.uid = self.uid_of(known).await?;
        }
        self.connect_as(cluster).await
    }

    /// Whether a key of this provider has a Secret. With KMIP that is so where Kubernetes is at hand.
    #[cfg(feature = "k8s-secret")]
    fn writes_secrets(&self, provider: Provider) -> bool {
        match provider {
            Provider::KubernetesSecret => true,
            Provider::Kmip => provider.is_compiled() && self.has_kubernetes,
            _ => false,
        }
    }

    /// The uid of a cluster, if there is one of that name and we may read it. A Secret without an owner is kept when
    /// the cluster is deleted, which loses nothing.
    #[cfg(feature = "k8s-secret")]
    async fn uid_of(&self, cluster: &ClusterRef) -> Result<Option<String>> {
        let ClusterRef { kube_namespace, name, .. } = cluster;
        let why = if name.is_empty() {
            "its name is not known (ROOK_CLUSTER_NAME)".to_owned()
        } else {
            let named = ClusterName { kube_namespace: kube_namespace.clone(), name: name.clone() };
            match self.kubernetes.cluster(&named).await {
                Ok(info) => {
                    if info.deleting && !self.deleting {
                        warn!("{BEING_DELETED}");
                    }
                    return Ok(info.reference.and_then(|reference| reference.uid));
                }
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => {
                    chain(&error)
                }
                Err(error) => return Err(error),
            }
        };
        warn!("the Secret will not belong to the CephCluster, and stay when that is deleted: {why}");
        Ok(None)
    }

    /// Connects to the KMS to store a key.
    #[cfg(not(feature = "k8s-secret"))]
    pub(crate) async fn connect_to_write(&self) -> Result<Arc<dyn KmsProvider>> {
        if self.deleting {
            warn!("{BEING_DELETED}");
        }
        self.connect().await
    }

    /// What is wrong with the block itself. It is to be told before Kubernetes is connected to: a name that is
    /// misspelt may be all that makes us want to.
    #[cfg(feature = "k8s-secret")]
    fn check_block(&self) -> Result<()> {
        let mut problems = Problems::new();
        self.security().check(&mut problems);
        problems.into_result()
    }

    async fn connect_as(&self, cluster: Option<ClusterRef>) -> Result<Arc<dyn KmsProvider>> {
        let mut options = self.options.clone();
        if let Some(cluster) = cluster {
            options = options.with_cluster(cluster);
        }
        #[cfg(feature = "k8s-secret")]
        if Provider::of(self.security()).is_ok_and(|provider| self.writes_secrets(provider)) {
            self.check_block()?;
            options = options.with_kube_connection(self.kubernetes.connection().await?.clone());
        }
        #[cfg(feature = "k8s-secret")]
        let kubernetes = self.kube_secrets.as_ref().map(|namespace| self.kubernetes.secrets(namespace));
        let mut sources: Vec<&dyn SecretSource> = Vec::new();
        match &self.origin {
            Origin::Cluster(_) => {}
            Origin::Manifests(manifests) => sources.push(&**manifests),
            Origin::Pod(pod) => sources.push(pod),
        }
        if let Some(manifests) = &self.manifests {
            sources.push(manifests);
        }
        if let Some(directory) = &self.directory {
            sources.push(directory);
        }
        #[cfg(feature = "k8s-secret")]
        if let Some(kubernetes) = &kubernetes {
            sources.push(kubernetes);
        }
        let hint = match (&self.origin, &self.kube_secrets) {
            (Origin::Manifests(_), None) => {
                ": add it with -f, or say where Secrets are (--secrets-dir, --cluster)"
            }
            _ => "",
        };
        let chain = Chain { sources, hint };
        let kms = connect(self.security(), &chain, options).await?;
        info!(provider = kms.provider(), "ready");
        Ok(kms)
    }
}

fn security_of(origin: &Origin) -> &SecuritySpec {
    static NONE: std::sync::LazyLock<SecuritySpec> = std::sync::LazyLock::new(SecuritySpec::default);
    match origin {
        Origin::Cluster(security) => security,
        Origin::Manifests(manifests) => manifests.security().unwrap_or(&NONE),
        Origin::Pod(pod) => pod.security(),
    }
}

/// The KMS part of the environment.
pub(crate) fn pod(environment: &Environment) -> PodEnvironment {
    PodEnvironment::new(environment.pairs(), Path::new("/"), is_setting)
}

/// Whether the environment says anything of a KMS.
pub(crate) fn has_kms(pod: &PodEnvironment) -> bool {
    !pod.security().kms.connection_details.is_empty()
}

/// What providers may want of the environment: their settings, and proxies.
fn settings(environment: &Environment) -> impl Iterator<Item = (&str, &str)> {
    environment.pairs().filter(|(name, _)| {
        ["AZURE_", "KMIP_", "VAULT_"].iter().any(|prefix| name.starts_with(prefix)) || {
            let name = name.to_ascii_uppercase();
            name.ends_with("_PROXY")
        }
    })
}

fn read_manifests(global: &Global) -> Result<Manifests> {
    read_manifests_keeping(global, &[])
}

/// What `-f` gives, with the objects of other kinds that are wanted.
pub(crate) fn read_manifests_keeping(global: &Global, kinds: &[&str]) -> Result<Manifests> {
    let mut inputs = Vec::new();
    for path in &global.files {
        inputs.push((input::name(path), input::read(path, MAX_INPUT_BYTES)?));
    }
    let inputs = inputs.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice()));
    let manifests = Manifests::parse_keeping(inputs, kinds)?;
    for ignored in manifests.ignored() {
        info!("passed over: {ignored}");
    }
    Ok(manifests)
}

/// The cluster of a document and the one of the command line, if they are the same.
fn agreed(document: Option<&ClusterRef>, named: Option<&ClusterName>) -> Result<Option<ClusterRef>> {
    let Some(named) = named else { return Ok(document.cloned()) };
    match document {
        Some(document) if document.kube_namespace != named.kube_namespace || document.name != named.name => {
            Err(Error::config(format!(
                "the CephCluster given with -f is {}/{}, and --cluster names another one",
                document.kube_namespace, document.name
            )))
        }
        _ => Ok(Some(ClusterRef::new(&named.kube_namespace, &named.name))),
    }
}

/// Several places for Secrets: the first one that has a Secret gives it.
#[derive(Debug)]
struct Chain<'a> {
    sources: Vec<&'a dyn SecretSource>,
    hint: &'static str,
}

#[async_trait]
impl SecretSource for Chain<'_> {
    async fn secret(&self, name: &str) -> Result<SecretData> {
        let mut absent: Vec<String> = Vec::new();
        for source in &self.sources {
            match source.secret(name).await {
                Err(error) if error.kind() == ErrorKind::NotFound => absent.push(error.message().to_owned()),
                other => return other,
            }
        }
        if absent.is_empty() {
            absent.push(format!("Secret {name:?} is named, and there is nowhere to look for it"));
        }
        Err(Error::new(ErrorKind::NotFound, format!("{}{}", absent.join("; "), self.hint)))
    }
}
