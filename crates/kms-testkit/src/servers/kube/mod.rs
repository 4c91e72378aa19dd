//! A real Kubernetes API server with its etcd.
//!
//! There is no controller manager: nothing is garbage-collected, namespaces that are deleted stay, and no service
//! account or token Secret appears by itself.
//! So each test works in a [namespace](KubeNamespace) of its own, and all tests of a run can share one server.

mod jwt;
mod kube_namespace;

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rcgen::KeyPair;
use serde_json::{Value, json};

pub use self::kube_namespace::KubeNamespace;
use crate::servers::{
    http::{Http, Reply},
    pki::{Pki, write_private},
    port,
    process::{Launch, Process, Scratch, Stop},
    wait,
};

/// The token of the administrator, from the server's own static list.
pub const ADMIN_TOKEN: &str = "admintoken";

/// The definition of a CephCluster.
const CEPH_CLUSTER: &str = include_str!("cephcluster.yaml");

/// The number of attempts with other ports.
const ATTEMPTS: usize = 5;

/// A running API server: our own, or one that several tests share.
#[derive(Debug)]
pub struct Kube {
    // The API server goes first; without its etcd it would only log errors. The folder goes last.
    children: Vec<Process>,
    http: Http,
    ca: String,
    took: Duration,
    /// The programs, and the URL of etcd; `None` for an attached server.
    origin: Option<(PathBuf, String)>,
    folder: Scratch,
}

impl Kube {
    /// Returns the server that xtask shares among all tests of a run, or starts one with the programs that xtask names.
    ///
    /// # Errors
    ///
    /// If xtask names neither, or the server does not come up.
    pub async fn for_tests() -> Result<Self> {
        if let Some(folder) = crate::servers::optional_setting(crate::servers::KUBE) {
            return Self::attach(&folder);
        }
        Self::start(&crate::servers::setting(crate::servers::KUBE_BIN)?).await
    }

    /// Starts `etcd` and `kube-apiserver` of the folder `programs`.
    ///
    /// # Errors
    ///
    /// If there are no such programs, or they end or are not ready in time.
    pub async fn start(programs: &Path) -> Result<Self> {
        Self::start_in(programs, Scratch::new()?).await
    }

    /// Starts the server with its files in `folder`, so that others can [attach](Self::attach).
    ///
    /// # Errors
    ///
    /// If there are no such programs, or they end or are not ready in time.
    pub async fn start_in(programs: &Path, folder: Scratch) -> Result<Self> {
        let begin = Instant::now();
        let path = folder.path();
        let pki = Pki::new()?;
        pki.write(&path.join("pki"))?;
        fs::write(path.join("ca.crt"), &pki.ca.cert).context("write the CA")?;
        let key = KeyPair::generate()?;
        write_private(&path.join("sa.key"), &key.serialize_pem())?;
        fs::write(path.join("sa.pub"), key.public_key_pem()).context("write the public key")?;
        let admin = format!("{ADMIN_TOKEN},admin,admin-uid,\"system:masters\"\n");
        write_private(&path.join("tokens.csv"), &admin)?;
        let (etcd, store) = start_etcd(programs, path).await?;
        let (apiserver, http) = start_apiserver(programs, path, &store, &pki.ca.cert, None).await?;
        fs::write(path.join("url"), http.base()).context("write the URL")?;
        let mut kube = Self {
            children: vec![apiserver, etcd],
            http,
            ca: pki.ca.cert,
            took: Duration::ZERO,
            origin: Some((programs.to_owned(), store)),
            folder,
        };
        kube.write_kubeconfig(&path_of(&kube.folder, "kubeconfig"), "default", ADMIN_TOKEN)?;
        kube.define_ceph_cluster().await?;
        kube.took = begin.elapsed();
        Ok(kube)
    }

    /// Uses the server whose folder this is, as [`start_in`](Self::start_in) wrote it; dropping it stops nothing.
    ///
    /// # Errors
    ///
    /// If the folder does not hold these files.
    pub fn attach(folder: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = folder.join(name);
            fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
        };
        let (url, ca) = (read("url")?, read("ca.crt")?);
        let http = admin_client(&url, &ca)?;
        let origin = None;
        Ok(Self {
            children: Vec::new(),
            http,
            ca,
            took: Duration::ZERO,
            origin,
            folder: Scratch::kept(folder)?,
        })
    }

    /// Kills the API server, removes the history of all objects from etcd, and starts the API server again at its address. A
    /// watch that goes on from before gets the status 410.
    ///
    /// # Errors
    ///
    /// If the server is one that tests share, or does not come up.
    pub async fn restart_without_history(&mut self) -> Result<()> {
        let (programs, store) = self.origin.clone().context("a server of this test alone")?;
        self.children.remove(0).kill();
        let etcd = reqwest_plain(&store)?;
        let status = etcd.send("POST", "/v3/maintenance/status", &json!({})).await?.ok()?;
        let revision = status["header"]["revision"].clone();
        etcd.send("POST", "/v3/kv/compaction", &json!({"revision": revision, "physical": true}))
            .await?
            .ok()?;
        let port = self.url().rsplit(':').next().and_then(|port| port.parse().ok());
        let (process, http) = start_apiserver(&programs, self.folder.path(), &store, &self.ca, port).await?;
        self.children.insert(0, process);
        self.http = http;
        Ok(())
    }

    /// Its URL, with an address that is in its certificate.
    #[must_use]
    pub fn url(&self) -> &str {
        self.http.base()
    }

    /// Its CA as PEM.
    #[must_use]
    pub fn ca(&self) -> &str {
        &self.ca
    }

    /// The administrator's kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        path_of(&self.folder, "kubeconfig")
    }

    /// The folder of its files.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The administrator's client.
    #[must_use]
    pub fn http(&self) -> &Http {
        &self.http
    }

    /// The time until it was ready; zero for an attached server.
    #[must_use]
    pub fn took(&self) -> Duration {
        self.took
    }

    /// A client with another token.
    ///
    /// # Errors
    ///
    /// If the token cannot be sent in a header.
    pub fn client(&self, token: &str) -> Result<Http> {
        self.http.clone().with_header("authorization", &format!("Bearer {token}"))
    }

    /// Sends one request as the administrator; `path` begins with `/api/` or `/apis/`.
    ///
    /// # Errors
    ///
    /// If there is no response.
    pub async fn request(&self, method: &str, path: &str, body: Value) -> Result<Reply> {
        self.http.send(method, path, &body).await
    }

    /// Sends one request that must succeed, and returns the body.
    ///
    /// # Errors
    ///
    /// If the request fails.
    pub async fn call(&self, method: &str, path: &str, body: Value) -> Result<Value> {
        self.request(method, path, body).await?.ok().with_context(|| format!("{method} {path}"))
    }

    /// Creates a namespace whose name begins with `prefix` and is unique.
    ///
    /// # Errors
    ///
    /// If the server refuses.
    pub async fn create_namespace(&self, prefix: &str) -> Result<KubeNamespace> {
        let name = crate::servers::unique(prefix);
        self.call("POST", "/api/v1/namespaces", json!({"metadata": {"name": name}})).await?;
        Ok(KubeNamespace::new(self.http.clone(), name))
    }

    /// Lets a service account review tokens, as OpenBao's Kubernetes auth needs it; returns a token of the account.
    ///
    /// # Errors
    ///
    /// If the server refuses.
    pub async fn create_reviewer(&self, place: &KubeNamespace) -> Result<String> {
        place.create_service_account("vault-auth").await?;
        let binding = json!({
            "metadata": {"name": format!("{}-vault-auth", place.name())},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:auth-delegator"},
            "subjects": [{"kind": "ServiceAccount", "name": "vault-auth", "namespace": place.name()}],
        });
        self.call("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding).await?;
        place.create_token("vault-auth", &[]).await
    }

    /// A token of a service account that expires in `seconds` (which may lie in the past), signed with the server's own
    /// key: the server itself issues no token for less than ten minutes.
    ///
    /// # Errors
    ///
    /// If there is no such account.
    pub async fn mint(&self, place: &KubeNamespace, service_account: &str, seconds: i64) -> Result<String> {
        let path = format!("/api/v1/namespaces/{}/serviceaccounts/{service_account}", place.name());
        let uid = self.request("GET", &path, Value::Null).await?.text("/metadata/uid")?;
        let key = fs::read_to_string(path_of(&self.folder, "sa.key")).context("read the signing key")?;
        jwt::mint(&KeyPair::from_pem(&key)?, place.name(), service_account, &uid, seconds)
    }

    /// Writes a kubeconfig for a token, with `kube_namespace` as the default one.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn write_kubeconfig(&self, path: &Path, kube_namespace: &str, token: &str) -> Result<()> {
        let ca = path_of(&self.folder, "ca.crt");
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {"server": self.url(), "certificate-authority": ca}}],
            "users": [{"name": "test", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": kube_namespace}}],
            "current-context": "test",
        });
        // JSON is YAML.
        write_private(path, &config.to_string())
    }

    /// Lets it outlive this process, and returns the process ids, the API server's first. Its folder must be kept.
    #[must_use]
    pub fn detach(self) -> Vec<u32> {
        self.children.into_iter().map(Process::detach).collect()
    }

    async fn define_ceph_cluster(&self) -> Result<()> {
        let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
        let definition = Some(("application/yaml", CEPH_CLUSTER.to_owned()));
        self.http.send_as("POST", path, definition).await?.ok().context("define CephCluster")?;
        wait::until("CephClusters to be served", wait::START, async || {
            let reply = self.request("GET", "/apis/ceph.rook.io/v1/cephclusters", Value::Null).await?;
            Ok((reply.status == 200).then_some(()))
        })
        .await
    }
}

fn path_of(folder: &Scratch, name: &str) -> PathBuf {
    folder.path().join(name)
}

fn admin_client(url: &str, ca: &str) -> Result<Http> {
    Http::new(url, ca, None)?.with_header("authorization", &format!("Bearer {ADMIN_TOKEN}"))
}

/// Starts etcd; returns its URL as well.
async fn start_etcd(programs: &Path, folder: &Path) -> Result<(Process, String)> {
    let data = folder.join("etcd");
    let mut attempt = 1;
    loop {
        let (client, peer) = (url("http", port::free()?), url("http", port::free()?));
        let mut process = Launch::new("etcd", programs.join("etcd"), folder)
            .arg("--data-dir")
            .arg(&data)
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            // This data need not survive a power cut.
            .arg("--unsafe-no-fsync")
            .stop(Stop::Kill)
            .start()?;
        let http = reqwest_plain(&client)?;
        match ready(&mut process, &http, "/health").await {
            Ok(()) => return Ok((process, client)),
            Err(_) if attempt < ATTEMPTS && process.log().contains("address already in use") => attempt += 1,
            Err(error) => return Err(error),
        }
        drop(process);
        fs::remove_dir_all(&data).context("empty etcd's data folder")?;
    }
}

/// A client without TLS; the CA does not matter then.
fn reqwest_plain(base: &str) -> Result<Http> {
    Http::new(base, "", None)
}

/// Starts the API server, at this port if one is given.
async fn start_apiserver(
    programs: &Path,
    folder: &Path,
    store: &str,
    ca: &str,
    port: Option<u16>,
) -> Result<(Process, Http)> {
    let file = |flag: &str, name: &str| format!("--{flag}={}", folder.join(name).display());
    let mut attempt = 1;
    loop {
        // The API server does not take port 0.
        let port = match port {
            Some(port) => port,
            None => port::free()?,
        };
        let mut process = Launch::new("kube-apiserver", programs.join("kube-apiserver"), folder)
            .args([format!("--etcd-servers={store}"), format!("--secure-port={port}")])
            .args([
                file("cert-dir", "certs"),
                file("client-ca-file", "ca.crt"),
                file("token-auth-file", "tokens.csv"),
            ])
            .args([file("tls-cert-file", "pki/server.crt"), file("tls-private-key-file", "pki/server.key")])
            .args([
                file("service-account-key-file", "sa.pub"),
                file("service-account-signing-key-file", "sa.key"),
            ])
            .args([
                "--bind-address=127.0.0.1",
                "--authorization-mode=RBAC",
                "--service-cluster-ip-range=10.0.0.0/24",
            ])
            .arg(format!("--service-account-issuer={}", jwt::ISSUER))
            // As in every cluster with OSDs.
            .arg("--allow-privileged=true")
            // This plugin refuses pods whose service account has no token Secret, and no controller creates those here.
            .arg("--disable-admission-plugins=ServiceAccount")
            // An orderly shutdown takes seconds and saves nothing.
            .stop(Stop::Kill)
            .start()?;
        let http = admin_client(&url("https", port), ca)?;
        match ready(&mut process, &http, "/readyz").await {
            Ok(()) => return Ok((process, http)),
            Err(_) if attempt < ATTEMPTS && process.log().contains("address already in use") => attempt += 1,
            Err(error) => return Err(error),
        }
    }
}

fn url(scheme: &str, port: u16) -> String {
    format!("{scheme}://{}:{port}", Ipv4Addr::LOCALHOST)
}

/// Waits until `path` returns 200, or the process ends.
async fn ready(process: &mut Process, http: &Http, path: &str) -> Result<()> {
    let result = wait::until(path, wait::START, async || {
        if let Some(status) = process.exited()? {
            bail!("it ended with {status}");
        }
        Ok(http.send("GET", path, &Value::Null).await.is_ok_and(|reply| reply.status == 200).then_some(()))
    })
    .await;
    result.with_context(|| process.last_words())
}
