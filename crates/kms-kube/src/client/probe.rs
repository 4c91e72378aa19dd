//! Probes the API server: a connection, its version, the account.

use kms_core::{ErrorKind, Probe};

use super::{
    connect::Connection,
    error::{Cause, Failure},
    rights::{account, server_version},
};

const STEPS: [&str; 3] = ["dns", "tcp", "tls"];
const CONNECT: &str = "connect";
const LOGIN: &str = "login";

impl Connection {
    /// Runs the steps `dns`, `tcp`, `tls`, `connect`, `clock` and `login`, and then those of `later`, which the caller runs.
    /// Returns the name of the account in words; `None` if a step failed.
    pub async fn probe_server(&self, later: &[&'static str], probe: &mut Probe) -> Option<String> {
        let [dns, tcp, tls] = STEPS;
        probe.plan(&[&[dns, tcp, tls, CONNECT, LOGIN], later].concat());
        self.probe(STEPS, probe).await?;
        match server_version(self).await {
            Ok(version) => probe.pass(CONNECT, format!("Kubernetes {version}")),
            // Some clusters hide their version. The refusal still shows that the API server is reachable.
            Err(Failure { error, .. })
                if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::Unauthenticated) =>
            {
                probe.pass(CONNECT, "an API server that hides its version");
            }
            Err(failure) => return probe.fail(CONNECT, failure.error).and(None),
        }
        probe.clock(self.clock());
        match account(self).await {
            Ok(account) => {
                probe.pass(LOGIN, format!("as {account}"));
                return Some(account);
            }
            // Kubernetes before 1.28.
            Err(Failure { cause: Cause::NoSuchResource, .. }) => {
                probe.pass(LOGIN, "done, but the API server cannot name the account");
            }
            Err(Failure { error, .. }) if error.kind() == ErrorKind::PermissionDenied => {
                probe.pass(LOGIN, "done, but the account may not ask for its name");
            }
            Err(failure) => return probe.fail(LOGIN, failure.error).and(None),
        }
        Some("this account".to_owned())
    }
}
