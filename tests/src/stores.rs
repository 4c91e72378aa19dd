//! Every provider with its server, and the documents with which `kms` connects to it.

use std::{
    any::Any,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use kms_core::{Guarantee, KmsProvider};
use kms_dispatch::{Options, connect};
use kms_source::Manifests;
use kms_testkit::{
    fake::{
        azure::Azure,
        ibmkp::{API_KEY, IbmKp},
    },
    servers::{Kube, OpenBao, OpenBaoConfig, Pki, PyKmip, pykmip::Flavour},
};
use serde_json::json;

use crate::Kms;

/// Longer than an interrupted update of Key Protect blocks the next update.
const INTERRUPTED_FOR: Duration = Duration::from_secs(180);

/// The providers. Every sweep covers all of them, so add new providers here.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Which {
    /// Azure Key Vault, by a double.
    Azure,
    /// Key Protect, by a double.
    IbmKeyProtect,
    /// Secrets on a real kube-apiserver.
    KubernetesSecret,
    /// A real PyKMIP, with identifiers in Secrets on a real kube-apiserver.
    Kmip,
    /// KV version 1 on a real OpenBao.
    VaultV1,
    /// KV version 2 on a real OpenBao.
    VaultV2,
}

impl Which {
    /// All providers.
    pub const ALL: [Self; 6] =
        [Self::Azure, Self::IbmKeyProtect, Self::KubernetesSecret, Self::Kmip, Self::VaultV1, Self::VaultV2];

    /// The class of the provider. [`Store::class`] is what the provider says itself.
    #[must_use]
    pub fn class(self) -> Class {
        match self {
            Self::KubernetesSecret | Self::Kmip | Self::VaultV2 => Class::CompareAndSet,
            Self::Azure | Self::IbmKeyProtect | Self::VaultV1 => Class::CheckThenAct,
        }
    }
}

/// The classes of providers: what the server offers against two writers at the same moment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "a server has compare-and-set or lacks it")]
pub enum Class {
    /// The server writes only if the version is still the expected one.
    CompareAndSet,
    /// A client can only read before it writes.
    CheckThenAct,
}

impl Class {
    /// Both classes.
    pub const ALL: [Self; 2] = [Self::CompareAndSet, Self::CheckThenAct];
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CompareAndSet => "compare-and-set",
            Self::CheckThenAct => "check-then-act",
        })
    }
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Azure => "azure",
            Self::IbmKeyProtect => "ibmkeyprotect",
            Self::KubernetesSecret => "k8s-secret",
            Self::Kmip => "kmip",
            Self::VaultV1 => "vault-v1",
            Self::VaultV2 => "vault-v2",
        })
    }
}

/// A running server and its clients.
pub struct Store {
    /// The provider.
    pub which: Which,
    /// The program, set up to use it.
    pub kms: Kms,
    /// A client in this process.
    pub provider: Arc<dyn KmsProvider>,
    servers: Vec<Box<dyn Any + Send + Sync>>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("which", &self.which).finish_non_exhaustive()
    }
}

impl Store {
    /// Starts the server.
    ///
    /// # Errors
    ///
    /// If the server does not start.
    pub async fn start(which: Which) -> Result<Self> {
        let (kms, servers) = match which {
            Which::VaultV1 => vault("rook").await?,
            Which::VaultV2 => vault("rookv2").await?,
            Which::IbmKeyProtect => ibm().await?,
            Which::Azure => azure().await?,
            Which::KubernetesSecret => kubernetes("", json!({}), &[]).await?,
            Which::Kmip => kmip().await?,
        };
        let provider = provider(&arguments(&kms)).await?;
        Ok(Self { which, kms, provider, servers })
    }

    /// Connects to a KMIP server that the caller keeps, with identifiers in Secrets or without an index. Waits a second
    /// at most for a response.
    ///
    /// # Errors
    ///
    /// If the API server does not start.
    pub async fn on_kmip(endpoint: &str, pki: &Pki, with_index: bool) -> Result<Self> {
        let settings = json!({"KMS_PROVIDER": "kmip", "KMIP_ENDPOINT": endpoint, "READ_TIMEOUT": "1s"});
        let (kms, servers) = kmip_at(settings, pki, with_index).await?;
        let provider = provider(&arguments(&kms)).await?;
        Ok(Self { which: Which::Kmip, kms, provider, servers })
    }

    /// Its server of this type, such as the double. `None` if it has no such server.
    pub fn server<T: 'static>(&self) -> Option<&T> {
        self.servers.iter().find_map(|server| server.downcast_ref())
    }

    /// The class that the provider's own capability shows. Known only after the first read or write.
    pub fn class(&self) -> Class {
        match self.provider.capability().update {
            Guarantee::Atomic => Class::CompareAndSet,
            _ => Class::CheckThenAct,
        }
    }
}

/// The arguments of `kms` with full paths, for a process in another folder.
pub fn arguments(kms: &Kms) -> Vec<String> {
    let full = |argument: &String| {
        let path = kms.folder().join(argument);
        if !argument.starts_with('-') && path.is_file() {
            path.display().to_string()
        } else {
            argument.clone()
        }
    };
    kms.globals().iter().map(full).collect()
}

/// Connects with the arguments that `kms` takes: `-f FILE`, `--kubeconfig FILE`.
///
/// # Errors
///
/// If there are other arguments, and those of connecting.
pub async fn provider(arguments: &[String]) -> Result<Arc<dyn KmsProvider>> {
    let mut options = Options::default();
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let file = PathBuf::from(arguments.next().context("an argument has no value")?);
        match argument.as_str() {
            "-f" => {
                let text = std::fs::read(&file).with_context(|| format!("read {}", file.display()))?;
                files.push((file.display().to_string(), text));
            }
            "--kubeconfig" => options = options.with_kubeconfig(file),
            other => bail!("{other} is not known here"),
        }
    }
    let manifests = Manifests::parse(files.iter().map(|(name, text)| (name.as_str(), text.as_slice())))?;
    if let Some(cluster) = manifests.cluster().and_then(|cluster| cluster.reference.clone()) {
        options = options.with_cluster(cluster);
    }
    let security = manifests.security().context("there is no security block")?;
    Ok(connect(security, &manifests, options).await?)
}

type Started = (Kms, Vec<Box<dyn Any + Send + Sync>>);

fn cluster(kube_namespace: &str, details: serde_json::Value, token_secret: &str) -> String {
    let kms = if token_secret.is_empty() {
        json!({})
    } else {
        json!({"connectionDetails": details, "tokenSecretName": token_secret})
    };
    json!({
        "apiVersion": "ceph.rook.io/v1", "kind": "CephCluster",
        "metadata": {"name": "rook-ceph", "namespace": kube_namespace},
        "spec": {"security": {"kms": kms}},
    })
    .to_string()
}

fn details(pairs: impl IntoIterator<Item = (String, String)>, more: &[(&str, &str)]) -> serde_json::Value {
    let more = more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    json!(pairs.into_iter().chain(more).collect::<std::collections::BTreeMap<_, _>>())
}

/// A Secret without a namespace, so that it fits any cluster.
fn secret(name: &str, entries: &[(&str, &str)]) -> String {
    json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name},
        "stringData": entries.iter().copied().collect::<std::collections::BTreeMap<_, _>>(),
    })
    .to_string()
}

async fn vault(mount: &str) -> Result<Started> {
    let server = OpenBao::start(OpenBaoConfig::default()).await?;
    let token = server.admin().rook_token().await?;
    let details = details(
        [],
        &[
            ("KMS_PROVIDER", "vault"),
            ("VAULT_ADDR", server.url()),
            ("VAULT_BACKEND_PATH", mount),
            ("VAULT_CACERT", "ca"),
        ],
    );
    let kms = Kms::new()
        .document("cluster.yaml", &cluster("rook-ceph", details, "token"))
        .document("token.yaml", &secret("token", &[("token", &token)]))
        .document("ca.yaml", &secret("ca", &[("cert", &server.pki().ca.cert)]));
    Ok((kms, vec![Box::new(server)]))
}

async fn ibm() -> Result<Started> {
    let double = IbmKp::start().await?;
    // An interrupted update blocks the next one for two minutes, counted from the timestamps of the keys.
    double.back(INTERRUPTED_FOR);
    let details = details(double.details(), &[("IBM_KP_CACERT", "ca")]);
    let kms = Kms::new()
        .document("cluster.yaml", &cluster("rook-ceph", details, "token"))
        .document("token.yaml", &secret("token", &[("IBM_KP_SERVICE_API_KEY", API_KEY)]))
        .document("ca.yaml", &secret("ca", &[("cert", double.ca())]));
    Ok((kms, vec![Box::new(double)]))
}

async fn azure() -> Result<Started> {
    let double = Azure::start().await?;
    let more = [("AZURE_CACERT", "ca"), ("AZURE_CERT_SECRET_NAME", "certificate")];
    let details = details(double.details(), &more);
    let kms = Kms::new()
        .document("cluster.yaml", &cluster("rook-ceph", details, "certificate"))
        .document("certificate.yaml", &secret("certificate", &[("CLIENT_CERT", double.service_principal())]))
        .document("ca.yaml", &secret("ca", &[("cert", double.ca())]));
    Ok((kms, vec![Box::new(double)]))
}

async fn kmip() -> Result<Started> {
    let server = PyKmip::start(Flavour::Tls13).await?;
    let settings = json!({"KMS_PROVIDER": "kmip", "KMIP_ENDPOINT": server.endpoint()});
    let (kms, mut servers) = kmip_at(settings, server.pki(), true).await?;
    servers.push(Box::new(server));
    Ok((kms, servers))
}

/// The documents for a KMIP server, with identifiers in Secrets or without an index.
async fn kmip_at(settings: serde_json::Value, pki: &Pki, with_index: bool) -> Result<Started> {
    let credentials = secret(
        "token",
        &[("CA_CERT", &pki.ca.cert), ("CLIENT_CERT", &pki.client1.cert), ("CLIENT_KEY", &pki.client1.key)],
    );
    if with_index {
        return kubernetes("token", settings, &[("token.yaml", &credentials)]).await;
    }
    let kms = Kms::new()
        .document("cluster.yaml", &cluster("rook-ceph", settings, "token"))
        .document("token.yaml", &credentials);
    Ok((kms, Vec::new()))
}

/// Creates a namespace on the API server, with a CephCluster that has these settings.
async fn kubernetes(
    token_secret: &str,
    details: serde_json::Value,
    documents: &[(&str, &str)],
) -> Result<Started> {
    let kube = Kube::for_tests().await?;
    let place = kube.create_namespace("rook-ceph").await?;
    let mut kms = Kms::new().document("cluster.yaml", &cluster(place.name(), details, token_secret));
    for (name, text) in documents {
        kms = kms.document(name, text);
    }
    kube.write_kubeconfig(&kms.folder().join("kubeconfig"), place.name(), "admintoken")?;
    Ok((kms.global(&["--kubeconfig", "kubeconfig"]), vec![Box::new(kube), Box::new(place)]))
}

/// The folder of a store's documents.
pub fn folder(store: &Store) -> &Path {
    store.kms.folder()
}
