//! Probes the vault: our identity and our rights.

use futures_util::TryStreamExt;
use kms_core::{Error, ErrorKind, Probe, Result};
use kms_http::send::endpoint;

use crate::{
    api::Api,
    name::{Names, PREFIX},
    soft_delete::SoftDeleted,
};

/// Authenticates, lists one page and reads a secret that cannot exist. Writes nothing.
pub(crate) async fn probe(api: &Api, policy: SoftDeleted, probe: &mut Probe) -> Option<()> {
    probe.plan(&["addresses", "credential", "token", "vault", "rights"]);
    let auth = &api.auth;
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
    let token = auth.token(&auth.scope).await.map(|token| token.details.describe());
    probe.step("token", token)?;
    probe.step("vault", first_page(api).await)?;
    probe.step("rights", rights(api).await)
}

async fn first_page(api: &Api) -> Result<String> {
    let mut pages = std::pin::pin!(api.pages(Some(1)));
    match pages.try_next().await {
        Ok(page) if page.as_ref().is_some_and(|page| !page.is_empty()) => {
            Ok("it accepts our token, and its secrets may be listed".to_owned())
        }
        Ok(_) => Ok("it accepts our token, and lists no secrets".to_owned()),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(format!(
            "it accepts our token, but its secrets may not be listed: concurrent creators cannot be detected ({})",
            error.message()
        )),
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
