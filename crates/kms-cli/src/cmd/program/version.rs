//! `kms version`: the version of the program, and with `-v` what it was built with and what it finds on this host.

use kms_core::Result;
use kms_dispatch::Provider;
use kms_luks::Cryptsetup;
use serde::Serialize;

use crate::{
    exit::Exit,
    output::{Format, Output, chain},
};

/// The arguments: none.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {}

/// The version.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Document {
    pub(crate) version: &'static str,
    /// The commit, if the build recorded it.
    pub(crate) commit: Option<&'static str>,
    /// The Cargo features of the providers that are compiled in.
    pub(crate) features: Vec<&'static str>,
    /// The crypto module of TLS, with its version.
    pub(crate) crypto: String,
    /// The version of the cryptsetup that commands about devices run.
    pub(crate) cryptsetup: Option<String>,
    /// Why there is none.
    pub(crate) cryptsetup_error: Option<String>,
}

/// Shows the version.
pub(crate) async fn run(
    args: Args,
    verbose: bool,
    cryptsetup: &Cryptsetup,
    output: &mut Output<'_>,
) -> Result<Exit> {
    let Args {} = args;
    let version = env!("CARGO_PKG_VERSION");
    if output.format() == Format::Text {
        output.line(format!("kms {version}"))?;
        if !verbose {
            return Ok(Exit::Done);
        }
    }
    let (cryptsetup, cryptsetup_error) = match cryptsetup.version().await {
        Ok(version) => (Some(version.to_string()), None),
        Err(error) => (None, Some(chain(&error))),
    };
    let document = Document {
        version,
        // Packages set it, since a build need not be inside a repository.
        commit: option_env!("KMS_COMMIT"),
        features: Provider::ALL.into_iter().filter(|it| it.is_compiled()).map(Provider::feature).collect(),
        crypto: kms_tls::crypto::module(),
        cryptsetup,
        cryptsetup_error,
    };
    match output.format() {
        Format::Json => output.json(&document)?,
        Format::Text => {
            let cryptsetup = document.cryptsetup.or(document.cryptsetup_error).unwrap_or_default();
            output
                .line(format!("commit      {}", document.commit.unwrap_or("not recorded in this build")))?;
            output.line(format!("features    {}", document.features.join(", ")))?;
            output.line(format!("crypto      {}", document.crypto))?;
            output.line(format!("cryptsetup  {cryptsetup}"))?;
        }
    }
    Ok(Exit::Done)
}
