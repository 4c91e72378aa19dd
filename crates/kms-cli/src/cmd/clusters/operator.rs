//! `kms operator`: keeps keys rotated until it is stopped.

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    time::Duration,
};

use clap::builder::NonEmptyStringValueParser;
use kms_core::{Error, ErrorKind, Result};
use kms_operator::{LeaseTimes, Operator, Settings};
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;

use crate::{args::duration, exit::Exit, invocation::Invocation, kubernetes::Kubernetes};

/// The shortest duration of a Lease.
const SHORTEST_LEASE: Duration = Duration::from_secs(1);

/// The arguments.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// A namespace with a CephCluster; may be repeated [default: that of the pod or of the kubeconfig]
    #[arg(long, value_name = "NAMESPACE", value_parser = NonEmptyStringValueParser::new())]
    watch_namespace: Vec<String>,

    /// The image of rotation Jobs, for CephClusters without the annotation kms.ceph.rook.io/rotation-image
    #[arg(long, value_name = "IMAGE", value_parser = NonEmptyStringValueParser::new())]
    image: Option<String>,

    /// The namespace of the Lease [default: that of the pod or of the kubeconfig]
    #[arg(long, value_name = "NAMESPACE", value_parser = NonEmptyStringValueParser::new())]
    lease_namespace: Option<String>,

    /// How long the other replicas wait for one that holds the Lease and does not renew it
    #[arg(long, value_name = "D", value_parser = duration, default_value = "15s")]
    lease_duration: Duration,

    /// The name of this replica in the Lease [default: that of the host, with a random number]
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    identity: Option<String>,
}

/// Runs the operator until it gets a signal.
pub(crate) async fn run(args: Args, invocation: &Invocation<'_>) -> Result<Exit> {
    let Args { watch_namespace, image, lease_namespace, lease_duration, identity } = args;
    let kubernetes = Kubernetes::for_watches(&invocation.global);
    let connection = kubernetes.connection().await?.clone();
    let own = connection.kube_namespace().to_owned();
    let mut settings = Settings::new(own, identity.unwrap_or_else(|| random_identity(invocation)));
    if !watch_namespace.is_empty() {
        settings.namespaces = watch_namespace;
    }
    if let Some(lease_namespace) = lease_namespace {
        settings.lease_namespace = lease_namespace;
    }
    if lease_duration < SHORTEST_LEASE {
        return Err(Error::config("--lease-duration is shorter than a second, which a Lease cannot express"));
    }
    settings.lease = LeaseTimes::new(lease_duration, lease_duration / 3);
    settings.image = image;
    let listen = |kind: SignalKind| {
        signal(kind).map_err(|cause| {
            Error::new(ErrorKind::Unexpected, "the system does not deliver signals").source(cause)
        })
    };
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => info!("stopping: SIGTERM"),
            _ = interrupt.recv() => info!("stopping: SIGINT"),
        }
    };
    Operator::new(connection, settings).run(stop).await?;
    Ok(Exit::Done)
}

/// A name that no other replica has: in a pod, the name of the host is that of the pod.
fn random_identity(invocation: &Invocation<'_>) -> String {
    let host = invocation.environment.get("HOSTNAME").unwrap_or("kms");
    format!("{host}_{:016x}", RandomState::new().build_hasher().finish())
}
