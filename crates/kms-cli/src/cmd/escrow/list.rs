//! `kms escrow list`: shows the dates and recipients of escrows.

use std::{path::PathBuf, time::SystemTime};

use kms_core::{Result, clock::age};
use kms_escrow::{DrillRecord, Sidecar};
use serde::Serialize;

use super::document::EscrowDocument;
use crate::{
    exit::Exit,
    output::{Format, Output, table},
    target::provider_name,
};

/// The arguments.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The folder of an escrow; several may be given
    #[arg(value_name = "DIR", required = true)]
    folders: Vec<PathBuf>,
}

/// The escrows.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Document {
    escrows: Vec<EscrowDocument>,
}

/// Reads the documents without secrets.
pub(crate) fn run(args: Args, now: SystemTime, output: &mut Output<'_>) -> Result<Exit> {
    let mut rows =
        vec![["ESCROW", "CREATED", "PROVIDER", "CLUSTER", "KEKS", "HEADERS", "DRILL"].map(str::to_owned)];
    let (mut escrows, mut recipients) = (Vec::new(), Vec::new());
    for folder in &args.folders {
        let sidecar = Sidecar::read(folder)?;
        let drill = DrillRecord::read(folder, &sidecar)?;
        let ago = |time: jiff::Timestamp| format!("{} ago", age(now, SystemTime::from(time)));
        let document = EscrowDocument::of(folder, &sidecar, drill.as_ref());
        rows.push([
            document.escrow.clone(),
            ago(sidecar.created),
            provider_name(&document.provider).to_owned(),
            document.cluster.clone().unwrap_or_else(|| "-".to_owned()),
            document.keks.entries.to_string(),
            document.headers.as_ref().map_or_else(|| "-".to_owned(), |headers| headers.entries.to_string()),
            match &drill {
                None => "never".to_owned(),
                Some(drill) => format!("{} {}", if drill.ok { "ok" } else { "FAILED" }, ago(drill.drilled)),
            },
        ]);
        for archive in [Some(&document.keks), document.headers.as_ref()].into_iter().flatten() {
            let path = folder.join(&archive.file);
            recipients.extend(archive.recipients.iter().map(|name| format!("{}: {name}", path.display())));
        }
        escrows.push(document);
    }
    match output.format() {
        Format::Json => output.json(&Document { escrows })?,
        Format::Text => {
            let lines = table(&rows).into_iter().chain(["recipients:".to_owned()]).chain(recipients);
            lines.into_iter().try_for_each(|line| output.line(line))?;
        }
    }
    Ok(Exit::Done)
}
