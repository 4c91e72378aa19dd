//! Who is there, who we are to it, and what is spoken: the steps of a probe.

use std::time::{Duration, SystemTime};

use kms_core::{Error, ErrorKind, KeyName, Probe, Result};
use x509_cert::{Certificate, der::Decode as _};

use crate::{
    api::{self, Attribute, Operation, ServerInformation, Version},
    client::listed,
    error::{Class, one_line},
    name::object_name,
    provider::Kmip,
};

/// A certificate that ends within this time is pointed out.
const SOON: Duration = Duration::from_secs(30 * 24 * 3600);

/// Operations that we need, as far as a server tells which it has.
const NEEDED: [Operation; 5] =
    [Operation::Register, Operation::Get, Operation::GetAttributes, Operation::Locate, Operation::Destroy];

impl Kmip {
    pub(crate) async fn run_probe(&self) -> Probe {
        let mut probe = Probe::new();
        probe.pass("client certificate", described(&self.certificate));
        match &self.cluster {
            Some(cluster) => probe.pass("cluster", cluster.clone()),
            None => probe.pass("cluster", "not given: objects of any cluster are taken for ours"),
        }
        let version = match self.client.version().await {
            Ok(version) => version,
            Err(error) => return probe.fail("server", error, &["versions", "information", "rights"]),
        };
        // With a version that is given nothing has been sent so far.
        let theirs =
            if version == Version::V1_0 { Ok(Vec::new()) } else { self.client.versions_at(version).await };
        let information = self.information().await;
        let unreached =
            [theirs.as_ref().err(), information.as_ref().err()].into_iter().flatten().find(|error| {
                matches!(
                    error.kind(),
                    ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::Unauthenticated
                )
            });
        if let Some(error) = unreached {
            return probe.fail("server", error.clone(), &["versions", "information", "rights"]);
        }
        let seen = self.client.seen();
        let certificate = seen.as_ref().and_then(|seen| seen.certificate.as_deref()).map(described);
        probe.pass(
            "server",
            format!(
                "{}, {}, certificate {}",
                self.client.endpoint,
                seen.as_ref().map_or("TLS", |seen| seen.tls),
                certificate.as_deref().unwrap_or("not seen")
            ),
        );
        let theirs = theirs.ok().filter(|theirs| !theirs.is_empty());
        probe.pass(
            "versions",
            format!(
                "KMIP {version} chosen; the server offers {}, we {}",
                theirs.as_deref().map_or_else(|| "what it does not tell".to_owned(), listed),
                listed(&Version::ALL)
            ),
        );
        match information {
            Ok(information) => match told(&information) {
                Ok(found) => probe.pass("information", found),
                Err(error) => return probe.fail("information", error, &["rights"]),
            },
            // To tell about itself is no duty of a server.
            Err(error) => probe.pass("information", format!("not told: {}", error.message())),
        }
        match self.look().await {
            Ok(found) => probe.pass("rights", found),
            Err(error) => return probe.fail("rights", error, &[]),
        }
        probe
    }

    async fn information(&self) -> Result<ServerInformation> {
        let read = |payload: &crate::ttlv::Item<'_>| Ok(ServerInformation::of(payload));
        Ok(self.client.call(Operation::Query, |_| api::query(), read).await?)
    }

    /// Looks for a name that nobody has: whether we may look at all.
    async fn look(&self) -> Result<String> {
        let name = object_name(&KeyName::new("kms-probe")?);
        match self.locate(&[Attribute::Name(&name)]).await {
            // A server may say that there is nothing.
            Err(fault) if fault.class != Class::Gone => return Err(fault.error),
            _ => {}
        }
        let index = match &self.index {
            Some(index) => {
                index.get(&KeyName::new("kms-probe")?).await?;
                "; the index can be read"
            }
            None => "; no index, objects are found by their names",
        };
        Ok(format!("objects can be looked for{index}"))
    }
}

fn told(information: &ServerInformation) -> Result<String> {
    let ServerInformation { vendor, operations, object_types: _ } = information;
    let vendor = vendor.as_deref().filter(|vendor| !vendor.is_empty()).unwrap_or("no vendor is told");
    let missing: Vec<_> = NEEDED
        .into_iter()
        .filter(|needed| !operations.is_empty() && !operations.contains(&needed.code()))
        .map(Operation::as_str)
        .collect();
    if !missing.is_empty() {
        return Err(Error::new(ErrorKind::Protocol, "the server lacks operations that are needed")
            .context("missing", missing.join(", "))
            .context("vendor", vendor));
    }
    let keys =
        if information.takes_symmetric_keys() { "" } else { "; no symmetric keys, so secret data is used" };
    Ok(format!("{vendor}{keys}"))
}

/// Subject, issuer and end of a certificate.
fn described(der: &[u8]) -> String {
    let Ok(certificate) = Certificate::from_der(der) else { return "not readable".to_owned() };
    let certificate = certificate.tbs_certificate();
    let name = |name: &x509_cert::name::Name| {
        let text = one_line(&name.to_string());
        if text.is_empty() { "no name".to_owned() } else { text }
    };
    let end = certificate.validity().not_after;
    let left = match end.to_system_time().duration_since(SystemTime::now()) {
        Err(_) => ", EXPIRED",
        Ok(left) if left < SOON => ", soon",
        Ok(_) => "",
    };
    format!("{} issued by {}, ends {end}{left}", name(certificate.subject()), name(certificate.issuer()))
}
