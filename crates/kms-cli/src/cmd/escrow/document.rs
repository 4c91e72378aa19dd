//! An escrow in the output.

use std::path::Path;

use kms_escrow::{Archive, DrillRecord, Sidecar};
use serde::Serialize;

/// An escrow, as its document without secrets shows it.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct EscrowDocument {
    pub(super) escrow: String,
    pub(super) id: String,
    pub(super) created: String,
    pub(super) provider: String,
    pub(super) cluster: Option<String>,
    pub(super) fsid: Option<String>,
    pub(super) keks: ArchiveDocument,
    pub(super) headers: Option<ArchiveDocument>,
    pub(super) drilled: Option<String>,
    pub(super) drill_ok: Option<bool>,
}

/// An archive of an escrow.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct ArchiveDocument {
    pub(super) file: String,
    pub(super) recipients: Vec<String>,
    pub(super) entries: usize,
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

impl ArchiveDocument {
    fn of(archive: &Archive) -> Self {
        let Archive { file, recipients, entries, bytes, sha256, .. } = archive.clone();
        Self { file, recipients, entries, bytes, sha256 }
    }
}

impl EscrowDocument {
    pub(super) fn of(folder: &Path, sidecar: &Sidecar, drill: Option<&DrillRecord>) -> Self {
        Self {
            escrow: folder.display().to_string(),
            id: sidecar.id.clone(),
            created: sidecar.created.to_string(),
            provider: sidecar.about.provider.clone(),
            cluster: sidecar.about.cluster.clone(),
            fsid: sidecar.about.fsid.clone(),
            keks: ArchiveDocument::of(&sidecar.keks),
            headers: sidecar.headers.as_ref().map(ArchiveDocument::of),
            drilled: drill.map(|drill| drill.drilled.to_string()),
            drill_ok: drill.map(|drill| drill.ok),
        }
    }
}
