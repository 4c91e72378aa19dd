//! `kms operator`: keeps keys rotated until it is stopped.

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use clap::{ValueEnum, builder::NonEmptyStringValueParser};
use kms_core::{Error, ErrorKind, Result};
use kms_operator::{
    LeaseTimes, Operator, Settings,
    serve::{Access, Certificate, ClusterReviewer, serve},
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
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

    /// Serve metrics (/metrics), probes (/livez, /readyz) and the status page (/) at this address, such as [::]:8080
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,

    /// Who sees metrics and the status page
    #[arg(long, value_enum, value_name = "WHO", default_value_t = PageAuth::Token, requires = "listen")]
    page_auth: PageAuth,

    /// The certificate of the server with its chain, in PEM; without it tokens cross the network in the clear
    #[arg(long, value_name = "FILE", requires_all = ["listen", "listen_key"])]
    listen_certificate: Option<PathBuf>,

    /// The private key of the server's certificate, in PEM. Both files may be replaced at any time
    #[arg(long, value_name = "FILE", requires = "listen_certificate")]
    listen_key: Option<PathBuf>,

    /// The name of this replica in the Lease [default: that of the host, with a random number]
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    identity: Option<String>,
}

/// Who sees metrics and the status page.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum PageAuth {
    /// Everyone who reaches the address
    Off,
    /// Users whom the cluster allows to GET the path, by their tokens
    Token,
}

/// Runs the operator until it gets a signal.
pub(crate) async fn run(args: Args, invocation: &Invocation<'_>) -> Result<Exit> {
    let Args { watch_namespace, image, lease_namespace, lease_duration, identity, .. } = &args;
    let kubernetes = Kubernetes::for_watches(&invocation.global);
    let connection = kubernetes.connection().await?.clone();
    let own = connection.kube_namespace().to_owned();
    let mut settings = Settings::new(own, identity.clone().unwrap_or_else(|| random_identity(invocation)));
    if !watch_namespace.is_empty() {
        settings.namespaces.clone_from(watch_namespace);
    }
    if let Some(lease_namespace) = lease_namespace {
        settings.lease_namespace.clone_from(lease_namespace);
    }
    let lease_duration = *lease_duration;
    if lease_duration < SHORTEST_LEASE {
        return Err(Error::config("--lease-duration is shorter than a second, which a Lease cannot express"));
    }
    settings.lease = LeaseTimes::new(lease_duration, lease_duration / 3);
    settings.image.clone_from(image);
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
    let operator = Operator::new(connection.clone(), settings);
    let Some(listener) = listener(&args).await? else {
        operator.run(stop).await?;
        return Ok(Exit::Done);
    };
    let certificate = match (&args.listen_certificate, &args.listen_key) {
        (Some(certificate), Some(key)) => Some(Certificate::open(certificate, key)?),
        _ => None,
    };
    let access = match args.page_auth {
        PageAuth::Off => Access::Everyone,
        PageAuth::Token => Access::Reviewed(Arc::new(ClusterReviewer::new(connection))),
    };
    let server = serve(listener, operator.source(), operator.metrics(), access, certificate);
    tokio::select! {
        ended = operator.run(stop) => ended?,
        // The server runs until it is dropped.
        never = server => match never {},
    }
    Ok(Exit::Done)
}

/// Opens the address of the server, if one is given.
async fn listener(args: &Args) -> Result<Option<TcpListener>> {
    let Some(address) = args.listen else { return Ok(None) };
    let listener = TcpListener::bind(address).await.map_err(|cause| {
        Error::config("the address of --listen cannot be used")
            .context("address", address.to_string())
            .source(cause)
    })?;
    info!(%address, "metrics, probes and the status page are served");
    Ok(Some(listener))
}

/// A name that no other replica has: in a pod, the name of the host is that of the pod.
fn random_identity(invocation: &Invocation<'_>) -> String {
    let host = invocation.environment.get("HOSTNAME").unwrap_or("kms");
    format!("{host}_{:016x}", RandomState::new().build_hasher().finish())
}
