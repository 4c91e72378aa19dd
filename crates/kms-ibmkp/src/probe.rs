//! What is there, who we are to it, and what we may do: the steps of a probe.

use kms_core::{Error, ErrorKind, Probe, Result};
use kms_http::send::endpoint;

use crate::{
    api::{Api, Look, States, Want},
    name::hash,
    stored::Cluster,
};

pub(crate) async fn probe(api: &Api) -> Probe {
    let mut probe = Probe::new();
    let instance = api.instance.to_str().unwrap_or_default();
    let ring = api.key_ring.as_ref().and_then(|ring| ring.to_str().ok()).unwrap_or("any");
    let cluster = api.cluster.as_ref().map_or("not said", Cluster::name);
    probe.pass(
        "settings",
        format!("instance {instance} at {}, key ring {ring}, cluster {cluster}", endpoint(&api.base)),
    );
    match api.auth.token().await {
        Ok(_) => probe.pass("iam", format!("{} knows the API key", endpoint(&api.auth.url))),
        Err(error) => return probe.fail("iam", error, &["instance", "rights"]),
    }
    match first_page(api).await {
        Ok(found) => probe.pass("instance", found),
        Err(error) => return probe.fail("instance", error, &["rights"]),
    }
    match rights(api).await {
        Ok(found) => probe.pass("rights", found),
        Err(error) => return probe.fail("rights", error, &[]),
    }
    probe
}

async fn first_page(api: &Api) -> Result<String> {
    let envelope = api.page(States::Alive, None, 0).await.map_err(Error::from)?;
    let count = envelope.resources.unwrap_or_default().len();
    let more = if count < api.page_size { "" } else { " or more" };
    Ok(format!("the list has {count} keys{more}"))
}

/// Whether keys may be read: asked with a key that cannot be there. Writing cannot be tried without a write.
async fn rights(api: &Api) -> Result<String> {
    let nobody = format!("none_{}", hash("probe", "", 40));
    match api.look(&nobody, Want::Material).await {
        Ok(Look::Absent(_)) => {
            Ok("list, read; whether keys may be written and deleted shows when it is done".to_owned())
        }
        Ok(_) => Err(Error::new(ErrorKind::Protocol, "the service has a key that nobody can have made")),
        Err(error) => Err(error),
    }
}
