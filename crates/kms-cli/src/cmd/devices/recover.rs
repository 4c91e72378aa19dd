//! `kms recover`: finds the KEK that opens the devices, and makes it current if asked.

use std::{path::PathBuf, sync::Arc};

use kms_core::{HistoryMode, Kek, KeyName, KmsProvider, Result};
use kms_escrow::keks_of;
use kms_luks::{Cryptsetup, Slot};
use kms_rotation::{Candidate, Origin, Osd, Recovery};
use serde::Serialize;

use crate::{
    args::KeyArgs,
    cmd::{
        devices::{DATA_DIR, compared},
        escrow::IdentityArgs,
    },
    exit::Exit,
    input,
    output::{Format, Output, table},
    rook::Rook,
    time::rfc3339,
};

/// The arguments.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) key: KeyArgs,

    /// All devices of the OSD: data, and then metadata and write-ahead log if it has them
    #[arg(value_name = "DEVICE", required = true, num_args = 1..=3)]
    pub(crate) devices: Vec<PathBuf>,

    /// Also try the KEK in this file; may be repeated
    #[arg(long = "kek", value_name = "FILE")]
    pub(crate) keks: Vec<PathBuf>,

    /// Also try the KEKs of this escrow, those of NAME first; may be repeated
    #[arg(long = "escrow", value_name = "DIR", requires = "identities")]
    pub(crate) escrows: Vec<PathBuf>,

    #[command(flatten)]
    pub(crate) identities: IdentityArgs,

    /// Also read deleted and disabled versions: kms brings each back for the time of the read
    #[arg(long)]
    pub(crate) deleted: bool,

    /// Make the KEK that opens all devices current, unless the key has changed meanwhile
    #[arg(long)]
    pub(crate) write: bool,
}

/// The result.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Document {
    ok: bool,
    name: String,
    outcome: &'static str,
    version: Option<String>,
    candidates: Vec<Entry>,
}

/// A KEK that was tried.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Entry {
    version: Option<String>,
    file: Option<String>,
    escrow: Option<String>,
    escrow_key: Option<String>,
    state: &'static str,
    stored: Option<String>,
    fingerprint: Option<String>,
    tried: bool,
    opens_all: bool,
    slots: Vec<Option<u8>>,
}

/// A KEK that the caller gives, and where it comes from.
struct Given {
    kek: Kek,
    file: Option<String>,
    escrow: Option<(PathBuf, KeyName)>,
}

impl Args {
    /// Reads the files with KEKs, and the escrows.
    fn given(&self) -> Result<Vec<Given>> {
        let mut given = Vec::new();
        for path in &self.keks {
            given.push(Given { kek: read(path)?, file: Some(input::name(path)), escrow: None });
        }
        if !self.escrows.is_empty() {
            for (folder, key) in keks_of(&self.key.arg.name, &self.escrows, &self.identities.required()?)? {
                let escrow = Some((folder, key.entry().name.clone()));
                given.push(Given { kek: key.kek().duplicate(), file: None, escrow });
            }
        }
        Ok(given)
    }
}

impl Entry {
    fn of(candidate: &Candidate, given: &[Given]) -> Self {
        let (mut version, mut file, mut escrow, mut stored, mut state) = (None, None, None, None, "given");
        match &candidate.origin {
            Origin::Version { version: of, state: is, stored: at } => {
                (version, state, stored) = (Some(of.to_string()), is.as_str(), at.and_then(rfc3339));
            }
            Origin::Given(place) => {
                if let Some(given) = given.get(*place) {
                    (file, escrow) = (given.file.clone(), given.escrow.clone());
                }
            }
            _ => {}
        }
        let (escrow, escrow_key) =
            escrow.map(|(folder, name)| (folder.display().to_string(), name.to_string())).unzip();
        Self {
            version,
            file,
            escrow,
            escrow_key,
            state,
            stored,
            fingerprint: candidate.fingerprint.clone(),
            tried: !candidate.slots.is_empty(),
            opens_all: candidate.opens_all(),
            slots: candidate.slots.iter().map(|slot| slot.map(Slot::number)).collect(),
        }
    }

    fn row(&self) -> [String; 5] {
        let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        let slots = match (&self.fingerprint, self.tried) {
            (None, _) => "not read".to_owned(),
            (Some(_), false) => "not tried".to_owned(),
            (Some(_), true) => {
                let slots = self
                    .slots
                    .iter()
                    .map(|slot| slot.map_or_else(|| "-".to_owned(), |slot| slot.to_string()));
                slots.collect::<Vec<_>>().join(" ")
            }
        };
        let escrow = self.escrow.as_ref().zip(self.escrow_key.as_ref());
        let source = self.version.clone().or_else(|| self.file.clone());
        let source = source.or_else(|| escrow.map(|(folder, name)| format!("{folder}: {name}")));
        [or_dash(&source), self.state.to_owned(), or_dash(&self.stored), or_dash(&self.fingerprint), slots]
    }
}

/// Tries the KEKs. `rook` is the cluster of the OSD.
pub(crate) async fn run(
    args: Args,
    cryptsetup: Cryptsetup,
    rook: &Rook,
    connect: impl AsyncFnOnce() -> Result<Arc<dyn KmsProvider>>,
    output: &mut Output<'_>,
) -> Result<Exit> {
    let given = args.given()?;
    let keks: Vec<_> = given.iter().map(|given| given.kek.duplicate()).collect();
    let osd = Osd::new(args.key.arg.name, cryptsetup.devices(args.devices))?;
    let deployments = rook.deployments(Some(osd.name())).await;
    let osd = compared(osd, &deployments, &[PathBuf::from(DATA_DIR)])?;
    let kms = connect().await?;
    let mode = if args.deleted { HistoryMode::Restore } else { HistoryMode::ReadOnly };
    let recovery = Recovery::find(&*kms, &osd, &keks, mode).await?;
    let (outcome, version) = match recovery.found() {
        None => ("not-found", None),
        Some(_) if recovery.is_current() => ("current", Some(recovery.write(&*kms, &osd).await?)),
        Some(_) if args.write => ("written", Some(recovery.write(&*kms, &osd).await?)),
        Some(_) => ("found", None),
    };
    let document = Document {
        ok: recovery.found().is_some(),
        name: osd.name().to_string(),
        outcome,
        version: version.map(|version| version.to_string()),
        candidates: recovery.candidates.iter().map(|one| Entry::of(one, &given)).collect(),
    };
    match output.format() {
        Format::Json => output.json(&document)?,
        Format::Text => text(&document, output)?,
    }
    Ok(if document.ok { Exit::Done } else { Exit::Failed })
}

fn read(path: &std::path::Path) -> Result<Kek> {
    let mut bytes = input::read(path, Kek::MAX_BYTES)?;
    Kek::parse_bytes(std::mem::take(&mut *bytes)).map_err(|error| error.context("input", input::name(path)))
}

fn text(document: &Document, output: &mut Output<'_>) -> Result<()> {
    let head = ["KEK", "STATE", "STORED", "FINGERPRINT", "SLOTS"].map(ToOwned::to_owned);
    let rows: Vec<_> = [head].into_iter().chain(document.candidates.iter().map(Entry::row)).collect();
    table(&rows).into_iter().try_for_each(|line| output.line(line))?;
    let name = &document.name;
    output.line(match (document.outcome, &document.version) {
        ("current", _) => format!("{name}: the current KEK opens all devices"),
        ("written", Some(version)) => format!("{name}: the KEK that opens all devices is current, version {version}"),
        ("found", _) => format!("{name}: a KEK opens all devices; make it current with --write"),
        _ => format!(
            "{name}: no KEK opens all devices; name a backup with --kek or --escrow, or read deleted versions with --deleted"
        ),
    })
}
