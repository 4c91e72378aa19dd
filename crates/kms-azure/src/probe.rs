//! Who we are and what we may do: the steps of a probe.

use futures_util::TryStreamExt;
use kms_core::{Error, ErrorKind, Probe, Result};
use kms_http::send::endpoint;

use crate::{
    name::{Names, PREFIX},
    provider::AzureKeyVault,
};

impl AzureKeyVault {
    pub(crate) async fn run_probe(&self) -> Probe {
        let mut probe = Probe::new();
        let auth = &self.api.auth;
        probe.pass(
            "addresses",
            format!(
                "vault {}, Entra ID at {}, soft-deleted names: {}",
                endpoint(&auth.vault),
                endpoint(&auth.authority),
                self.soft_deleted.as_str()
            ),
        );
        probe.pass("credential", auth.source.shown());
        match auth.token(&auth.scope).await {
            Ok(token) => probe.pass("token", token.details.shown()),
            Err(error) => return probe.fail("token", error, &["vault", "rights"]),
        }
        match self.first_page().await {
            Ok(found) => probe.pass("vault", found),
            Err(error) => return probe.fail("vault", error, &["rights"]),
        }
        match self.rights().await {
            Ok(found) => probe.pass("rights", found),
            Err(error) => return probe.fail("rights", error, &[]),
        }
        probe
    }

    async fn first_page(&self) -> Result<String> {
        let mut pages = std::pin::pin!(self.api.pages(Some(1)));
        match pages.try_next().await {
            Ok(page) if page.as_ref().is_some_and(|page| !page.is_empty()) => {
                Ok("it accepts our token, and its secrets may be listed".to_owned())
            }
            Ok(_) => Ok("it accepts our token, and shows no secrets".to_owned()),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(format!(
                "it accepts our token, but its secrets may not be listed: races of creators cannot be seen ({})",
                error.message()
            )),
            Err(error) => Err(error),
        }
    }

    /// Whether secrets may be read: asked with one that cannot be there. Writing cannot be tried without a write.
    async fn rights(&self) -> Result<String> {
        let nobody = format!("{PREFIX}-probe");
        match self.api.get(&Names { secret: nobody.clone(), field: nobody, tag: None }, None).await {
            Ok(None) => {
                Ok("read; whether secrets may be written, deleted and purged shows when it is done"
                    .to_owned())
            }
            Ok(Some(_)) => {
                Err(Error::new(ErrorKind::Protocol, "the vault has a secret that nobody can have made"))
            }
            Err(error) => Err(error),
        }
    }
}
