//! Provisions while cargo compiles: runs `cargo xtask provision` as a separate process.

use std::{
    fs::File,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use kms_testkit::servers::process::{self, Stop};
use xshell::Shell;

use crate::run::servers_dir;

/// Install and build the servers, clients and tools that live tests need, without running a test
#[derive(Args, Debug)]
pub(crate) struct Provision {}

impl Provision {
    pub(crate) fn run(self, sh: &Shell) -> Result<()> {
        super::bao(sh)?;
        super::pykmip(sh)?;
        super::jsonschema(sh)?;
        super::kmip_go(sh)?;
        super::cryptsetup(sh)?;
        super::chromedriver(sh)?;
        super::azure_clients(sh)?;
        super::ibm_clients(sh)?;
        if let Err(error) = super::vm(sh) {
            eprintln!("no virtual machine on this machine: {error:#}");
        } else if let Err(error) = super::debian::kept(sh) {
            eprintln!("no image on this machine: {error:#}");
        }
        super::kube(sh)?;
        // Most of Prometheus is compiled the first time.
        super::go_promql(sh)?;
        // After the API server, with whose build it shares libraries.
        super::go_install(sh)?;
        Ok(())
    }
}

/// A running `cargo xtask provision`. Dropping it, or the end of this process, stops it.
#[derive(Debug)]
pub(crate) struct Background {
    child: Child,
    log: PathBuf,
    reaped: bool,
}

impl Drop for Background {
    fn drop(&mut self) {
        if !self.reaped {
            process::stop_pid(self.child.id());
            process::release(self.child.id());
        }
    }
}

impl Background {
    /// Starts provisioning. The output goes to a log file.
    pub(crate) fn start(sh: &Shell) -> Result<Self> {
        let log = servers_dir().join("provision.log");
        sh.create_dir(servers_dir())?;
        let out = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let error = out.try_clone().context("duplicate the log file")?;
        let mut command = Command::new(std::env::current_exe().context("find this program")?);
        command.arg("provision").stdin(Stdio::null()).stdout(out).stderr(error);
        let child = process::spawn("cargo xtask provision", &mut command, Stop::Gently)?;
        eprintln!("in the background: servers are installed and built, see {}", log.display());
        Ok(Self { child, log, reaped: false })
    }

    /// Waits until provisioning is complete.
    ///
    /// # Errors
    ///
    /// If provisioning failed; the message contains the log.
    pub(crate) fn wait(mut self) -> Result<()> {
        let status = self.child.wait();
        process::release(self.child.id());
        self.reaped = true;
        let status = status.context("wait for cargo xtask provision")?;
        if !status.success() {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            bail!("cargo xtask provision: {status}\n{log}");
        }
        Ok(())
    }
}
