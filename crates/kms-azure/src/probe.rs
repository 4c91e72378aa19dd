//! Probes the vault: our identity and our rights.

use futures_util::TryStreamExt;
use kms_core::{Error, ErrorKind, Probe, Result};
use kms_http::{probe::STEPS, send::endpoint, tls::certificate::ends_soon};

use crate::{
    api::Api,
    auth::Source,
    name::{Names, PREFIX},
    soft_delete::SoftDeleted,
};

/// The steps until the connection to Entra ID is open.
const ENTRA: [&str; 3] = ["entra: dns", "entra: tcp", "entra: tls"];

/// Authenticates, lists one page and reads a secret that cannot exist. Writes nothing.
pub(crate) async fn probe(api: &Api, policy: SoftDeleted, probe: &mut Probe) -> Option<()> {
    let auth = &api.auth;
    // The metadata service of managed identities is a part of this host.
    let to_entra: &[&str] = if auth.entra.managed { &[] } else { &ENTRA };
    let steps = [&["addresses", "credential"], to_entra, &["token"], &STEPS, &["vault", "rights"]];
    probe.plan(&steps.concat());
    probe.pass(
        "addresses",
        format!(
            "vault {}, Entra ID at {}, soft-deleted names: {}",
            endpoint(&auth.vault),
            endpoint(&auth.authority),
            policy.as_str()
        ),
    );
    probe.pass("credential", auth.source.describe());
    if let Source::Certificate { certificate, .. } = &auth.source
        && let Some(warning) = certificate.chain.first().and_then(|ours| ends_soon(ours))
    {
        probe.warn("credential", format!("{warning}, and upload the new one to the application"));
    }
    if !auth.entra.managed {
        auth.entra.http.probe(&auth.authority, ENTRA, probe).await?;
    }
    let token = auth.token(&auth.scope).await.map(|token| token.details.describe());
    if !auth.entra.managed {
        probe.clock(auth.entra.http.clock());
    }
    probe.step("token", token)?;
    api.http.probe(&auth.vault, STEPS, probe).await?;
    let found = first_page(api, probe).await;
    probe.step("vault", found)?;
    probe.step("rights", rights(api).await)
}

async fn first_page(api: &Api, probe: &mut Probe) -> Result<String> {
    let mut pages = std::pin::pin!(api.pages(Some(1)));
    match pages.try_next().await {
        Ok(page) if page.as_ref().is_some_and(|page| !page.is_empty()) => {
            Ok("it accepts our token, and its secrets may be listed".to_owned())
        }
        Ok(_) => Ok("it accepts our token, and lists no secrets".to_owned()),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            probe.warn(
                "vault",
                format!(
                    "its secrets may not be listed: concurrent creators cannot be detected ({})",
                    error.message()
                ),
            );
            Ok("it accepts our token".to_owned())
        }
        Err(error) => Err(error),
    }
}

/// Tests the right to read with a name that cannot exist. The right to write cannot be tested without a write.
async fn rights(api: &Api) -> Result<String> {
    let absent = format!("{PREFIX}-probe");
    match api.get(&Names { secret: absent.clone(), field: absent, tag: None }, None).await {
        Ok(None) => {
            Ok("secrets may be read; whether they may be written, deleted and purged shows only when it is tried"
                .to_owned())
        }
        Ok(Some(_)) => {
            Err(Error::new(ErrorKind::Protocol, "the vault returns a secret whose name cannot exist"))
        }
        Err(error) => Err(error),
    }
}
