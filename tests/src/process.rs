//! A replica of the operator as a process of its own.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use kms_testkit::servers;

use crate::operator::Scene;

/// The replica, which ends with its owner.
#[derive(Debug)]
pub struct Process(Child);

impl Process {
    /// Starts one with a short Lease.
    #[must_use]
    pub fn start(scene: &Scene, identity: &str) -> Self {
        Self(command(scene, identity).stderr(Stdio::null()).spawn().expect("the program"))
    }

    /// Starts the same on a host whose clock is wrong by this, such as `+1h`; what passes is right. It logs into this file, as
    /// JSON.
    #[must_use]
    pub fn start_at_another_time(scene: &Scene, identity: &str, shift: &str, log: &Path) -> Self {
        let library: PathBuf = servers::setting(servers::FAKETIME).expect("run under cargo xtask test");
        let log = std::fs::File::create(log).expect("a file");
        let mut command = command(scene, identity);
        command
            .args(["-v", "--log-format", "json"])
            .env("LD_PRELOAD", library)
            .env("FAKETIME", shift)
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("DONT_FAKE_MONOTONIC", "1");
        Self(command.stderr(log).spawn().expect("the program"))
    }

    /// Sends SIGTERM, and returns the exit code.
    #[must_use]
    pub fn terminate(mut self) -> Option<i32> {
        let sent = Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status().expect("kill");
        assert!(sent.success());
        self.0.wait().expect("an end").code()
    }
}

fn command(scene: &Scene, identity: &str) -> Command {
    let kms: PathBuf = servers::setting(servers::KMS).expect("run under cargo xtask test");
    let config = scene.cluster.kubeconfig(&scene.token);
    let mut command = Command::new(kms);
    command.args(["--kubeconfig", &config, "operator", "--lease-duration", "1s", "--identity", identity]);
    command
}

impl Drop for Process {
    fn drop(&mut self) {
        // SIGKILL; it may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
