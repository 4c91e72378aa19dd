//! OpenBao: one server over TLS ([`OpenBao`]) or a cluster of three ([`Raft`]).
//!
//! Every variant has the mounts `rook/` (KV v1) and `rookv2/` (KV v2), and the policies `rook` (the rights of Rook's
//! documentation) and `admin` (all rights).

mod admin;
mod audit;
mod config;
mod raft;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

pub use self::{
    admin::{Admin, TokenSpec},
    audit::{Request, Requests},
    raft::Raft,
};
use crate::servers::{
    http::Http,
    pki::{Pki, write_private},
    port,
    process::{Launch, Process, Scratch},
    relay::Relay,
    wait,
};

/// The rights that Rook's documentation grants, on both mounts.
pub const ROOK_POLICY: &str = config::ROOK_POLICY;

/// The kind of server to start.
#[derive(Clone, Debug)]
#[expect(
    clippy::exhaustive_structs,
    reason = "tests fill in what they need and take the rest from the default"
)]
pub struct OpenBaoConfig {
    /// The `bao` program. Default: the program that xtask names.
    pub bao: Option<PathBuf>,
    /// Initialised and unsealed by calls, so that it can be sealed and unsealed again.
    pub sealable: bool,
    /// Connections without a certificate of our CA are refused.
    pub client_certificates: bool,
    /// Its server certificate: a name of [`Pki::all`].
    pub certificate: &'static str,
    /// The newest version of TLS that it speaks (`tls12`).
    pub tls_max: Option<&'static str>,
    /// The folder of its files, which is kept. Default: a scratch folder that is removed with the server.
    pub folder: Option<PathBuf>,
}

impl Default for OpenBaoConfig {
    /// Self-initialising, TLS, no client certificates asked for.
    fn default() -> Self {
        Self {
            bao: None,
            sealable: false,
            client_certificates: false,
            certificate: "server",
            tls_max: None,
            folder: None,
        }
    }
}

impl OpenBaoConfig {
    /// A server that demands client certificates and can be sealed and unsealed.
    #[must_use]
    pub fn mutual_tls() -> Self {
        Self { sealable: true, client_certificates: true, ..Self::default() }
    }

    fn program(bao: Option<&PathBuf>) -> Result<PathBuf> {
        bao.map_or_else(|| crate::servers::setting(crate::servers::BAO), |path| Ok(path.clone()))
    }
}

/// A running OpenBao with its data in memory.
#[derive(Debug)]
pub struct OpenBao {
    // Dropped in this order: the server writes to the folder until it has ended.
    process: Process,
    admin: Admin,
    pki: Arc<Pki>,
    port: u16,
    unseal_key: Option<String>,
    took: Duration,
    config: OpenBaoConfig,
    folder: Scratch,
}

/// The number of attempts with other ports.
const ATTEMPTS: usize = 5;

impl OpenBao {
    /// Starts a server and waits until it is ready.
    ///
    /// # Errors
    ///
    /// If there is no program, or it ends or is not ready in time; the end of its log is in the message.
    pub async fn start(config: OpenBaoConfig) -> Result<Self> {
        let begin = Instant::now();
        let pki = Arc::new(Pki::new()?);
        let folder = config.folder.clone().map_or_else(Scratch::new, Scratch::kept)?;
        pki.write(&folder.path().join("pki"))?;
        let base_config = &config;
        let (process, http, port) = listening(async || {
            let (port, cluster_port) = (port::free()?, port::free()?);
            let process = launch(base_config, folder.path(), port, cluster_port)?;
            let identity = base_config.client_certificates.then_some(&pki.client1);
            let http = Http::new(format!("https://127.0.0.1:{port}"), trusted(&pki, base_config), identity)?;
            Ok((process, http, port))
        })
        .await?;
        let (admin, unseal_key) = if config.sealable {
            let (root, key) = initialise(&http, folder.path()).await?;
            let admin = Admin::new(http, &root)?;
            config::apply(&admin).await?;
            (admin, Some(key))
        } else {
            (Admin::login(http, "admin", "pw").await?, None)
        };
        Ok(Self { process, admin, pki, port, unseal_key, took: begin.elapsed(), config, folder })
    }

    /// Its URL, with an address that is in its certificate.
    #[must_use]
    pub fn url(&self) -> &str {
        self.admin.http().base()
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its address.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// The certificates.
    #[must_use]
    pub fn pki(&self) -> &Pki {
        &self.pki
    }

    /// The folder of its files; the certificates are in `pki` below it.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A certificate or key file: `ca.crt`, `client1.key` …
    #[must_use]
    pub fn pki_file(&self, name: &str) -> PathBuf {
        self.folder.path().join("pki").join(name)
    }

    /// The admin, logged in.
    #[must_use]
    pub fn admin(&self) -> &Admin {
        &self.admin
    }

    /// The time until it was ready.
    #[must_use]
    pub fn took(&self) -> Duration {
        self.took
    }

    /// Its output.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Counts the requests from now on.
    ///
    /// # Errors
    ///
    /// If the audit file cannot be read.
    pub fn requests(&self) -> Result<Requests> {
        Requests::from_now_on(vec![self.folder.path().join("audit.log")])
    }

    /// Starts a relay in front of the server.
    ///
    /// # Errors
    ///
    /// If there is no free port.
    pub async fn relay(&self) -> Result<Relay> {
        Ok(Relay::start(self.addr()).await?)
    }

    /// Seals it.
    ///
    /// # Errors
    ///
    /// If it is not sealable, since nothing could unseal it again, or if it refuses.
    pub async fn seal(&self) -> Result<()> {
        if self.unseal_key.is_none() {
            bail!("a self-initialised server cannot be unsealed again: start it with `sealable`");
        }
        self.admin.call("PUT", "sys/seal", Value::Null).await?;
        self.wait_for_health(503).await
    }

    /// Unseals it again.
    ///
    /// # Errors
    ///
    /// If it is not sealable or refuses.
    pub async fn unseal(&self) -> Result<()> {
        let key = self.unseal_key.as_ref().context("this server has no unseal key")?;
        self.admin.call("PUT", "sys/unseal", json!({"key": key})).await?;
        self.wait_for_health(200).await
    }

    /// Kills it, like a crash; connections are refused from now on.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Kills it and starts it again on the same port: empty, so that all tokens are invalid.
    ///
    /// # Errors
    ///
    /// If it is sealable, or does not come back.
    pub async fn restart(&mut self) -> Result<()> {
        if self.config.sealable {
            bail!("only a self-initialised server is ready again after a restart");
        }
        self.process.kill();
        self.process = launch(&self.config, self.folder.path(), self.port, port::free()?)?;
        ready(&mut self.process, self.admin.http(), &[200]).await?;
        self.admin = Admin::login(self.admin.http().clone(), "admin", "pw").await?;
        Ok(())
    }

    /// Lets it outlive this process, and returns its process id. Its folder must be kept.
    #[must_use]
    pub fn detach(self) -> u32 {
        self.process.detach()
    }

    async fn wait_for_health(&self, status: u16) -> Result<()> {
        wait::until(&format!("health {status}"), wait::START, async || {
            Ok((self.admin.health().await? == status).then_some(()))
        })
        .await
    }
}

/// The CA that clients of this server trust.
fn trusted<'a>(pki: &'a Pki, config: &OpenBaoConfig) -> &'a str {
    if config.certificate == "bad-server" { &pki.bad_ca.cert } else { &pki.ca.cert }
}

fn launch(config: &OpenBaoConfig, folder: &Path, port: u16, cluster_port: u16) -> Result<Process> {
    let path = folder.join("server.hcl");
    std::fs::write(&path, config::single(config, folder, port, cluster_port))
        .context("write the configuration")?;
    serve("openbao", &OpenBaoConfig::program(config.bao.as_ref())?, folder, &path)
}

/// Starts `bao server`.
fn serve(name: &str, bao: &Path, folder: &Path, config: &Path) -> Result<Process> {
    Launch::new(name, bao, folder)
        .arg("server")
        .arg(format!("-config={}", config.display()))
        // Without autopilot a node that joins votes at once, with it 13 s later.
        .env("BAO_RAFT_AUTOPILOT_DISABLE", "true")
        .start()
}

/// Calls `start` with new ports until the server answers.
async fn listening(
    mut start: impl AsyncFnMut() -> Result<(Process, Http, u16)>,
) -> Result<(Process, Http, u16)> {
    let mut attempt = 1;
    loop {
        let (mut process, http, port) = start().await?;
        match ready(&mut process, &http, &[200, 501]).await {
            Ok(()) => return Ok((process, http, port)),
            Err(_) if attempt < ATTEMPTS && process.log().contains("address already in use") => attempt += 1,
            Err(error) => return Err(error),
        }
    }
}

/// Waits until `sys/health` returns one of `statuses`, or the process ends.
async fn ready(process: &mut Process, http: &Http, statuses: &[u16]) -> Result<()> {
    let result = wait::until("OpenBao", wait::START, async || {
        if let Some(status) = process.exited()? {
            bail!("OpenBao ended with {status}");
        }
        // The server does not respond until it listens.
        let reply = http.send("GET", "/v1/sys/health", &Value::Null).await;
        Ok(reply.ok().filter(|reply| statuses.contains(&reply.status)).map(|_| ()))
    })
    .await;
    result.with_context(|| process.last_words())
}

/// Initialises and unseals; returns the root token and the unseal key.
async fn initialise(http: &Http, folder: &Path) -> Result<(String, String)> {
    let shares = json!({"secret_shares": 1, "secret_threshold": 1});
    let reply = http.send("PUT", "/v1/sys/init", &shares).await?;
    let (root, key) = (reply.clone().text("/root_token")?, reply.clone().text("/keys_base64/0")?);
    write_private(&folder.join("init.json"), &reply.body.to_string())?;
    http.send("PUT", "/v1/sys/unseal", &json!({"key": key})).await?.ok()?;
    wait::until("the unsealed server", wait::START, async || {
        let reply = http.send("GET", "/v1/sys/health", &Value::Null).await?;
        Ok((reply.status == 200).then_some(()))
    })
    .await?;
    Ok((root, key))
}
