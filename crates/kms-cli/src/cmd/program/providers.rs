//! `kms providers`: lists the providers.

use kms_core::Result;
use kms_dispatch::Provider;
use serde::Serialize;

use crate::{
    exit::Exit,
    output::{Format, Output, table},
};

/// The arguments: none.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {}

/// The providers.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Document {
    pub(crate) providers: Vec<Entry>,
}

/// One provider.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Entry {
    pub(crate) title: &'static str,
    pub(crate) kms_provider: &'static str,
    pub(crate) feature: &'static str,
    pub(crate) compiled: bool,
    pub(crate) settings: Option<usize>,
    pub(crate) keeps: &'static str,
    pub(crate) abilities: Option<Abilities>,
}

/// The abilities of a provider at best; `kms check` shows those in its present configuration.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Abilities {
    pub(crate) create: &'static str,
    pub(crate) update: &'static str,
    pub(crate) list: bool,
    pub(crate) soft_delete: bool,
    pub(crate) versions: bool,
    pub(crate) history: bool,
    pub(crate) fresh_reads: bool,
    pub(crate) max_kek_bytes: usize,
    pub(crate) base64_only: bool,
}

impl Abilities {
    pub(crate) fn of(capability: kms_core::Capability) -> Self {
        Self {
            create: capability.create.as_str(),
            update: capability.update.as_str(),
            list: capability.list,
            soft_delete: capability.soft_delete,
            versions: capability.versions,
            history: capability.history,
            fresh_reads: capability.fresh_reads,
            max_kek_bytes: capability.max_kek_bytes,
            base64_only: capability.base64_only,
        }
    }
}

pub(crate) fn entries() -> Vec<Entry> {
    let entry = |provider: Provider| Entry {
        title: provider.title(),
        kms_provider: provider.as_str(),
        feature: provider.feature(),
        compiled: provider.is_compiled(),
        settings: provider.settings().map(|settings| settings.len()),
        keeps: provider.description(),
        abilities: provider.capability().map(Abilities::of),
    };
    Provider::ALL.into_iter().map(entry).collect()
}

/// Shows the providers.
pub(crate) fn run(args: Args, output: &mut Output<'_>) -> Result<Exit> {
    let Args {} = args;
    let providers = entries();
    match output.format() {
        Format::Json => output.json(&Document { providers })?,
        Format::Text => {
            let head =
                ["PROVIDER", "KMS_PROVIDER", "COMPILED IN", "SETTINGS", "CREATE", "UPDATE", "LIST", "KEEPS"]
                    .map(str::to_owned);
            let row = |entry: Entry| {
                let kms_provider =
                    if entry.kms_provider.is_empty() { "(absent)" } else { entry.kms_provider };
                let settings = entry.settings.map_or_else(|| "-".to_owned(), |count| count.to_string());
                let (create, update, list) = entry.abilities.as_ref().map_or(("-", "-", "-"), |abilities| {
                    (abilities.create, abilities.update, yes_no(abilities.list))
                });
                let compiled = yes_no(entry.compiled);
                [entry.title, kms_provider, compiled, &settings, create, update, list, entry.keeps]
                    .map(str::to_owned)
            };
            let rows: Vec<_> = std::iter::once(head).chain(providers.into_iter().map(row)).collect();
            for line in table(&rows) {
                output.line(line)?;
            }
        }
    }
    Ok(Exit::Done)
}

fn yes_no(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}
