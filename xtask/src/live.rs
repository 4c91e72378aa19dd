//! What live tests are given: programs, one shared API server, and a folder for everything temporary.

use std::ffi::OsString;

use anyhow::{Context as _, Result};
use kms_testkit::servers::{self, Kube, Scratch, process};
use xshell::{Cmd, Shell};

use crate::{
    provision,
    run::{block_on, clock, servers_dir},
};

/// The surroundings of one run of live tests. On drop everything that the tests left running is stopped.
#[derive(Debug)]
pub(crate) struct Live {
    env: Vec<(&'static str, OsString)>,
    ids: std::path::PathBuf,
    // Fields are dropped in this order: the API server has its files in the folder.
    _kube: Kube,
    _folder: Scratch,
}

impl Live {
    /// Provisions the servers and, where tests run it, the program `kms`, and starts an API server.
    pub(crate) fn start(sh: &Shell, with_kms: bool) -> Result<Self> {
        let programs = provision::kube(sh)?;
        let mut env = vec![
            (servers::BAO, provision::bao(sh)?.into_os_string()),
            (servers::KUBE_BIN, programs.clone().into_os_string()),
        ];
        if with_kms {
            env.push((servers::KMS, provision::kms(sh)?.into_os_string()));
        }
        let folder = Scratch::at(servers_dir().join(format!("run-{}", std::process::id())))?;
        let (ids, temp) = (folder.path().join("pids"), folder.path().join("tmp"));
        for path in [&ids, &temp] {
            sh.create_dir(path)?;
        }
        process::sweep_on_exit(&ids);
        env.push((servers::PIDS, ids.clone().into_os_string()));
        // What a test that was killed left behind goes with the folder.
        env.push(("TMPDIR", temp.into_os_string()));
        let place = folder.path().join("kube");
        let kube =
            block_on(Kube::start_in(&programs, Scratch::kept(&place)?))?.context("start the API server")?;
        eprintln!("kube-apiserver is ready after {}", clock(kube.took()));
        env.push((servers::KUBE, place.into_os_string()));
        Ok(Self { env, ids, _kube: kube, _folder: folder })
    }

    /// The command with the settings that tests read.
    pub(crate) fn apply<'a>(&self, cmd: Cmd<'a>) -> Cmd<'a> {
        cmd.envs(self.env.iter().map(|(name, value)| (name, value)))
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        match process::sweep(&self.ids) {
            Ok(0) => (),
            Ok(count) => eprintln!("stopped {count} servers that tests left running"),
            Err(error) => eprintln!("could not look for servers that tests left running: {error:#}"),
        }
    }
}
