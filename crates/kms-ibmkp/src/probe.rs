//! Probes the service: whether IAM accepts the API key, and which rights it has.

use kms_core::{Error, ErrorKind, Probe, Result};
use kms_http::{probe::STEPS, send::endpoint};

use crate::{
    api::{Api, Look, States, Want},
    name::hash,
    stored::Cluster,
};

/// The steps until the connection to IAM is open.
const IAM: [&str; 3] = ["iam: dns", "iam: tcp", "iam: tls"];

/// Logs in, lists one page and looks up an alias that cannot exist. Writes nothing.
pub(crate) async fn probe(api: &Api, probe: &mut Probe) -> Option<()> {
    let [dns, tcp, tls] = STEPS;
    let [iam_dns, iam_tcp, iam_tls] = IAM;
    probe.plan(&["settings", iam_dns, iam_tcp, iam_tls, "iam", dns, tcp, tls, "instance", "rights"]);
    let instance = api.instance.to_str().unwrap_or_default();
    let ring = api.key_ring.as_ref().and_then(|ring| ring.to_str().ok()).unwrap_or("any");
    let cluster = api.cluster.as_ref().map_or("not given", Cluster::name);
    probe.pass(
        "settings",
        format!("instance {instance} at {}, key ring {ring}, cluster {cluster}", endpoint(&api.base)),
    );
    api.auth.http.probe(&api.auth.url, IAM, probe).await?;
    let iam = api.auth.token().await.map(|_| format!("{} accepts the API key", endpoint(&api.auth.url)));
    probe.clock(api.auth.http.clock());
    probe.step("iam", iam)?;
    api.http.probe(&api.base, STEPS, probe).await?;
    probe.step("instance", first_page(api).await)?;
    probe.step("rights", rights(api).await)
}

async fn first_page(api: &Api) -> Result<String> {
    let envelope = api.page(States::Alive, None, 0).await.map_err(Error::from)?;
    let count = envelope.resources.unwrap_or_default().len();
    let more = if count < api.page_size { "" } else { " or more" };
    Ok(format!("the list has {count} keys{more}"))
}

/// Tests the right to read with an alias that cannot exist. The right to write cannot be tested without a write.
async fn rights(api: &Api) -> Result<String> {
    let absent = format!("none_{}", hash("probe", "", 40));
    match api.look(&absent, Want::Material).await {
        Ok(Look::Absent(_)) => Ok("list, read; the rights to write and delete are not tested".to_owned()),
        Ok(_) => Err(Error::new(
            ErrorKind::Protocol,
            "the service returned a key under an alias that no client uses",
        )),
        Err(error) => Err(error),
    }
}
