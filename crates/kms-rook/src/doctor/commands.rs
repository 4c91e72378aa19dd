//! The commands that findings name.

use kms_core::KeyName;

/// Writes commands for one cluster, so that a reader can run them as they stand.
#[derive(Clone, Debug)]
pub struct Commands {
    kms: String,
    kubectl: String,
    cluster: String,
}

impl Commands {
    /// `kms` is the program with the options that name the KMS, `kubectl` the other program with those that name the
    /// namespace, and `cluster` the name of the CephCluster.
    pub fn new(kms: impl Into<String>, kubectl: impl Into<String>, cluster: impl Into<String>) -> Self {
        Self { kms: kms.into(), kubectl: kubectl.into(), cluster: cluster.into() }
    }

    /// A command of `kms`.
    pub fn kms(&self, rest: &str) -> String {
        format!("{} {rest}", self.kms)
    }

    /// A command of kubectl in the namespace of the cluster.
    pub fn kubectl(&self, rest: &str) -> String {
        format!("{} {rest}", self.kubectl)
    }

    pub(super) fn edit_cluster(&self) -> String {
        self.kubectl(&format!("edit cephcluster {}", self.cluster))
    }

    pub(super) fn show(&self, kind: &str, name: &str) -> String {
        self.kubectl(&format!("get {kind} {name} -o yaml"))
    }

    /// Shows what `kms` would do to the CronJobs.
    pub(super) fn apply_cron_jobs(&self) -> String {
        self.kms("cronjobs apply --dry-run")
    }

    pub(super) fn recover(&self, key: &KeyName) -> String {
        self.kms(&format!("recover {key} DEVICE"))
    }
}
