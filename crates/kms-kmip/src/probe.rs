//! Probes the server: our identity, the server's certificate, the protocol version, and our rights.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use kms_core::{ClockDifference, Details, Error, ErrorKind, KeyName, Probe, Result};
use kms_tls::certificate::describe;

use crate::{
    api::{Api, ServerInformation},
    connection::STEPS,
    index::Index,
    locate::Effort,
    message::{Operation, Version, join},
    name::object_name,
    stored::Attribute,
};

/// The operations that we need. A server that lists its operations must list these.
const NEEDED: [Operation; 5] =
    [Operation::Register, Operation::Get, Operation::GetAttributes, Operation::Locate, Operation::Destroy];

/// Connects, negotiates a version, and searches for a name that cannot exist. Writes nothing.
///
/// The details are what this process has seen of the server so far.
pub(crate) async fn probe(
    api: &Arc<Api>,
    index: Index<'_>,
    certificate: &[u8],
    probe: &mut Probe,
) -> Option<()> {
    let seen = Arc::clone(api);
    probe.details = Details::new(move || seen.habits().describe());
    steps(api, index, certificate, probe).await
}

async fn steps(api: &Api, index: Index<'_>, certificate: &[u8], probe: &mut Probe) -> Option<()> {
    let [dns, tcp, tls] = STEPS;
    probe.plan(&[dns, tcp, tls, "server", "versions", "information", "rights"]);
    probe.pass("client certificate", describe(certificate));
    match &api.cluster {
        Some(cluster) => probe.pass("cluster", cluster.clone()),
        None => probe.pass("cluster", "not given: objects of any cluster count as ours"),
    }
    api.client.pool.probe(probe).await?;
    let version = match api.client.version().await {
        Ok(version) => version,
        Err(error) => return probe.fail("server", error),
    };
    // If the settings set the version, the client has sent nothing so far.
    let theirs =
        if version == Version::V1_0 { Ok(Vec::new()) } else { api.client.versions_at(version).await };
    let information = api.query().await;
    let unreached = [theirs.as_ref().err(), information.as_ref().err()].into_iter().flatten().find(|error| {
        matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::Unauthenticated)
    });
    if let Some(error) = unreached {
        return probe.fail("server", error.clone());
    }
    probe.pass("server", format!("{} answers", api.client.pool.endpoint));
    let time = api.client.server_time().and_then(|seconds| u64::try_from(seconds).ok());
    let time = time.and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds)));
    // The last response has just come.
    probe.clock(time.map(|theirs| ClockDifference::between(SystemTime::now(), theirs)));
    let theirs = theirs.ok().filter(|theirs| !theirs.is_empty());
    probe.pass(
        "versions",
        format!(
            "KMIP {version} chosen; the server offers {}, we {}",
            theirs.as_deref().map_or_else(|| "an unknown list".to_owned(), join),
            join(&Version::ALL)
        ),
    );
    match information {
        Ok(information) => match describe_server(&information) {
            Ok(found) => probe.pass("information", found),
            Err(error) => return probe.fail("information", error),
        },
        // A server need not support Query.
        Err(error) => probe.pass("information", format!("not available: {}", error.message())),
    }
    probe.step("rights", look(api, index).await)
}

/// Searches for a name that cannot exist, which shows whether the server allows us to search.
async fn look(api: &Api, index: Index<'_>) -> Result<String> {
    let name = object_name(&KeyName::new("kms-probe")?);
    api.locate(&[Attribute::Name(&name)], Effort::Quick).await?;
    let index = match index {
        Some(index) => {
            index.get(&KeyName::new("kms-probe")?).await?;
            "; the index can be read"
        }
        None => "; there is no index, and objects are found by their names",
    };
    Ok(format!("objects can be located{index}"))
}

/// Describes the server.
///
/// # Errors
///
/// `Protocol` if the server lacks an operation that we need.
fn describe_server(information: &ServerInformation) -> Result<String> {
    let ServerInformation { vendor, operations, object_types: _ } = information;
    let vendor = vendor.as_deref().filter(|vendor| !vendor.is_empty()).unwrap_or("unknown vendor");
    let missing: Vec<_> = NEEDED
        .into_iter()
        .filter(|needed| !operations.is_empty() && !operations.contains(&needed.code()))
        .map(Operation::as_str)
        .collect();
    if !missing.is_empty() {
        return Err(Error::new(ErrorKind::Protocol, "the server lacks operations that we need")
            .context("missing", missing.join(", "))
            .context("vendor", vendor));
    }
    let keys = if information.takes_symmetric_keys() {
        ""
    } else {
        "; it has no symmetric keys, so KEKs are registered as secret data"
    };
    Ok(format!("{vendor}{keys}"))
}
