//! PyKMIP: a KMIP server in Python.
//!
//! It speaks 1.0 to 2.0, shows objects only to the client that registered them, and keeps them in a file
//! that is removed with the server.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Arc,
};

use anyhow::{Context as _, Result, bail};
use tokio::net::TcpStream;

use crate::servers::{
    pki::Pki,
    port,
    process::{Launch, Process, Scratch, Stop},
    relay::Relay,
    wait,
};

/// Our launcher, for TLS 1.3.
const LAUNCHER: &str = include_str!("pykmip_launch.py");

/// The number of attempts with other ports.
const ATTEMPTS: usize = 5;

/// The variant of PyKMIP.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Flavour {
    /// The shipped server: TLS 1.2.
    Stock,
    /// With TLS 1.2 and 1.3, and a clock that goes eight times as fast as real time: a writer without an index waits for
    /// it.
    Fast,
    /// With TLS 1.2 and 1.3.
    Tls13,
}

/// A running PyKMIP with an empty database.
#[derive(Debug)]
pub struct PyKmip {
    // Dropped in this order: the server writes to the folder until it has ended.
    process: Process,
    pki: Arc<Pki>,
    port: u16,
    python: PathBuf,
    folder: Scratch,
}

impl PyKmip {
    /// Starts a server that shows the certificate `server` of its [`Pki`], and waits until it listens.
    ///
    /// # Errors
    ///
    /// If there is no Python for it, or it ends or does not listen in time; the end of its log is in the message.
    pub async fn start(flavour: Flavour) -> Result<Self> {
        Self::start_in(crate::servers::setting(crate::servers::PYKMIP)?, Scratch::new()?, flavour).await
    }

    /// Starts a server with this Python, and its files in `folder`.
    ///
    /// # Errors
    ///
    /// Errors of [`start`](Self::start).
    pub async fn start_in(python: PathBuf, folder: Scratch, flavour: Flavour) -> Result<Self> {
        let pki = Arc::new(Pki::new()?);
        pki.write(&folder.path().join("pki"))?;
        fs::create_dir_all(folder.path().join("policy")).context("create the folder of policies")?;
        fs::write(folder.path().join("launch.py"), LAUNCHER).context("write the launcher")?;
        let mut last = String::new();
        for _ in 0..ATTEMPTS {
            let port = port::free()?;
            let mut process = launch(&python, folder.path(), port, flavour)?;
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let listening = wait::until("PyKMIP to listen", wait::START, async || {
                if process.exited()?.is_some() {
                    return Ok(Some(false));
                }
                Ok(TcpStream::connect(address).await.is_ok().then_some(true))
            })
            .await?;
            if listening {
                return Ok(Self { process, pki, port, python, folder });
            }
            last = process.last_words();
        }
        bail!("PyKMIP does not start:\n{last}")
    }

    /// Host and port, with an address that is in its certificate.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The certificates.
    #[must_use]
    pub fn pki(&self) -> &Pki {
        &self.pki
    }

    /// The end of its log.
    #[must_use]
    pub fn last_words(&self) -> String {
        let log = fs::read_to_string(self.folder.path().join("server.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Lets the server outlive this process, and returns its process id. Its folder must be kept.
    #[must_use]
    pub fn detach(self) -> u32 {
        self.process.detach()
    }

    /// Kills it, like a crash.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts a relay in front of the server.
    ///
    /// # Errors
    ///
    /// If there is no free port.
    pub async fn relay(&self) -> Result<Relay> {
        Ok(Relay::start(SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))).await?)
    }

    /// Runs a Python script that uses PyKMIP's own client. Its first argument is the port, its second the folder
    /// with the certificates (`ca.crt`, `client1.crt`, `client1.key`).
    ///
    /// # Errors
    ///
    /// If it cannot be run or fails; its output is in the message.
    pub async fn client(&self, script: &str, args: &[&str]) -> Result<String> {
        let path = self.folder.path().join("client.py");
        fs::write(&path, script).context("write the script")?;
        let mut command = Command::new(&self.python);
        command
            .args(["-W", "ignore"])
            .arg(&path)
            .arg(self.port.to_string())
            .arg(self.folder.path().join("pki"))
            .args(args)
            .env_clear()
            .env("HOME", self.folder.path())
            .env("PYTHONDONTWRITEBYTECODE", "1");
        let run = move || command.output();
        let Output { status, stdout, stderr } =
            tokio::task::spawn_blocking(run).await?.context("run the script")?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if !status.success() {
            bail!("the script failed: {status}\n{}\n{}", text(&stdout), text(&stderr));
        }
        Ok(text(&stdout))
    }
}

fn launch(python: &Path, folder: &Path, port: u16, flavour: Flavour) -> Result<Process> {
    let at = |name: &str| folder.join(name).display().to_string();
    let config = format!(
        "[server]\nhostname=127.0.0.1\nport={port}\ncertificate_path={}\nkey_path={}\nca_path={}\n\
         auth_suite=TLS1.2\npolicy_path={}\nenable_tls_client_auth=True\nlogging_level=INFO\ndatabase_path={}\n",
        at("pki/server.crt"),
        at("pki/server.key"),
        at("pki/ca.crt"),
        at("policy"),
        at("kmip.db"),
    );
    fs::write(folder.join("pykmip.conf"), config).context("write the settings")?;
    // A database of an earlier attempt is of no use.
    let _ = fs::remove_file(folder.join("kmip.db"));
    let program = match flavour {
        Flavour::Fast | Flavour::Tls13 => folder.join("launch.py"),
        Flavour::Stock => python.with_file_name("pykmip-server"),
    };
    // SIGTERM takes it twelve seconds, and its helpers outlive it; the whole group is killed.
    Launch::new("pykmip", python, folder)
        .args(["-W", "ignore"])
        .arg(program)
        .arg("-f")
        .arg(at("pykmip.conf"))
        // A relative path makes it fail.
        .arg("-l")
        .arg(at("server.log"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("PACE", if flavour == Flavour::Fast { "8" } else { "1" })
        .stop(Stop::Kill)
        .start()
}
