//! `kms create`: generates and stores a new KEK.

use kms_core::{ErrorKind, Kek, KmsProvider, KmsProviderExt, PutMode, Result};
use serde::Serialize;

use crate::{
    args::KeyArgs,
    exit::Exit,
    output::{Format, Output, identity},
};

/// The arguments.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) key: KeyArgs,

    /// If the key exists, keep its KEK and succeed
    #[arg(long)]
    pub(crate) if_absent: bool,
}

/// The key that is now stored.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Document {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) fingerprint: String,
    pub(crate) created: bool,
}

/// What to do where the key exists.
const KEEP: &str = "keep it with --if-absent, or give the OSD a new KEK with kms rotate";

/// Generates a KEK and stores it.
pub(crate) async fn run(args: Args, kms: &dyn KmsProvider, output: &mut Output<'_>) -> Result<Exit> {
    let name = args.key.arg.name;
    let kek = Kek::generate()?;
    let document = if args.if_absent {
        let ensured = kms.ensure(&name, kek).await?;
        Document {
            name: name.to_string(),
            version: ensured.stored.version.to_string(),
            fingerprint: ensured.stored.kek.fingerprint(),
            created: ensured.created,
        }
    } else {
        let version = kms.put(&name, &kek, PutMode::Create).await.map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => error.context("to do", KEEP),
            _ => error,
        })?;
        Document {
            name: name.to_string(),
            version: version.to_string(),
            fingerprint: kek.fingerprint(),
            created: true,
        }
    };
    match output.format() {
        Format::Json => output.json(&document)?,
        Format::Text => {
            let Document { name, version, fingerprint, created } = document;
            let what = if created { "created" } else { "exists " };
            output.line(format!("{what}  {name}  {}", identity(&version, &fingerprint)))?;
        }
    }
    Ok(Exit::Done)
}
