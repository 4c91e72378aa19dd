//! `kms slots`: shows the key slots of a device.

use std::path::PathBuf;

use kms_core::Result;
use kms_luks::{Cryptsetup, Device, Header, KeySlot, SlotKdf};
use serde::Serialize;

use crate::{
    exit::Exit,
    output::{Format, Output, table},
};

/// The arguments.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The LUKS device, or an image of one
    #[arg(value_name = "DEVICE")]
    pub(crate) device: PathBuf,
}

/// The header of a device.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Document {
    device: String,
    luks_version: u8,
    uuid: String,
    label: Option<String>,
    subsystem: Option<String>,
    reencrypting: bool,
    slots: Vec<Entry>,
}

/// A key slot in use.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Entry {
    slot: u8,
    owner: String,
    opens_data: bool,
    ignored: bool,
    kdf: String,
    hash: Option<String>,
    iterations: Option<u64>,
    passes: Option<u64>,
    memory_kib: Option<u64>,
    threads: Option<u64>,
}

impl Entry {
    /// The output's entry for a slot.
    pub(crate) fn of(slot: &KeySlot) -> Self {
        let mut entry = Self {
            slot: slot.slot.number(),
            owner: owner(slot),
            opens_data: slot.opens_data,
            ignored: slot.ignored,
            kdf: slot.kdf.name().to_owned(),
            hash: None,
            iterations: None,
            passes: None,
            memory_kib: None,
            threads: None,
        };
        match &slot.kdf {
            SlotKdf::Pbkdf2 { hash, iterations } => {
                entry.hash = Some(hash.clone());
                entry.iterations = Some(*iterations);
            }
            SlotKdf::Argon2 { variant: _, passes, memory_kib, threads } => {
                entry.passes = Some(*passes);
                entry.memory_kib = Some(*memory_kib);
                entry.threads = Some(*threads);
            }
            _ => {}
        }
        entry
    }

    fn row(&self) -> [String; 6] {
        let cell = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        let kdf = match &self.hash {
            Some(hash) => format!("{}-{hash}", self.kdf),
            None => self.kdf.clone(),
        };
        let notes = [(!self.opens_data, ", opens no data"), (self.ignored, ", priority ignore")];
        let notes: String = notes.into_iter().filter_map(|(is_so, note)| is_so.then_some(note)).collect();
        [
            self.slot.to_string(),
            kdf,
            cell(self.memory_kib),
            cell(self.iterations.or(self.passes)),
            cell(self.threads),
            format!("{}{notes}", self.owner),
        ]
    }
}

/// The owner of a slot as far as the header tells: the programs whose tokens refer to it, or a re-encryption. The header
/// does not tell a KEK from a recovery passphrase.
fn owner(slot: &KeySlot) -> String {
    let kinds: Vec<&str> = slot.tokens.iter().map(|token| token.kind.as_str()).collect();
    match &slot.kdf {
        _ if !kinds.is_empty() => kinds.join(" and "),
        SlotKdf::Unknown(kind) if kind == "reencrypt" => "re-encryption".to_owned(),
        _ => "unknown".to_owned(),
    }
}

/// Reads the header and shows it.
pub(crate) async fn run(args: Args, cryptsetup: Cryptsetup, output: &mut Output<'_>) -> Result<Exit> {
    let header = Device::new(cryptsetup, &args.device).header().await?;
    let document = document(&args.device, &header);
    match output.format() {
        Format::Json => output.json(&document)?,
        Format::Text => text(&document, output)?,
    }
    Ok(Exit::Done)
}

fn document(device: &std::path::Path, header: &Header) -> Document {
    Document {
        device: device.display().to_string(),
        luks_version: header.version().number(),
        uuid: header.uuid().to_owned(),
        label: header.label().map(ToOwned::to_owned),
        subsystem: header.subsystem().map(ToOwned::to_owned),
        reencrypting: header.is_reencrypting(),
        slots: header.slots().map(Entry::of).collect(),
    }
}

fn text(document: &Document, output: &mut Output<'_>) -> Result<()> {
    let Document { device, luks_version, uuid, label, subsystem, reencrypting, slots } = document;
    output.line(format!("{device}  LUKS{luks_version}  {uuid}"))?;
    for (name, value) in [("label", label), ("subsystem", subsystem)] {
        if let Some(value) = value {
            output.line(format!("{name}  {value}"))?;
        }
    }
    if *reencrypting {
        output.line("the device is being re-encrypted")?;
    }
    let head = ["SLOT", "KDF", "MEMORY-KIB", "COST", "THREADS", "OWNER"].map(ToOwned::to_owned);
    let rows: Vec<_> = [head].into_iter().chain(slots.iter().map(Entry::row)).collect();
    table(&rows).into_iter().try_for_each(|line| output.line(line))
}
