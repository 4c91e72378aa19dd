//! `kms escrow drill`: proves what an escrow would bring back.

use std::{path::PathBuf, sync::Arc, time::SystemTime};

use kms_core::{KmsProvider, Result, clock::age};
use kms_escrow::{Drill, Escrow, HeaderReport, KekState, KeyReport, LiveHeader};
use kms_luks::Cryptsetup;
use serde::Serialize;
use tracing::warn;

use super::{
    document::EscrowDocument,
    files::IdentityArgs,
    headers::{DeviceArgs, InMemory, copy},
};
use crate::{
    args::Files,
    exit::Exit,
    output::{ErrorDocument, Format, Output, Tone, chain, table},
    time::rfc3339,
};

/// The arguments.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) files: Files,

    /// The folder of the escrow
    #[arg(value_name = "DIR")]
    folder: PathBuf,

    #[command(flatten)]
    identities: IdentityArgs,

    /// Also try the KEKs on the devices in Rook's folders on this host, and compare the headers; read only
    #[arg(long)]
    live: bool,

    #[command(flatten)]
    device: DeviceArgs,

    /// Do not compare with the KMS, for a drill where it cannot be reached
    #[arg(long)]
    offline: bool,
}

/// What would come back.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Document {
    ok: bool,
    #[serde(flatten)]
    escrow: EscrowDocument,
    compared: bool,
    keys: Vec<KeyDocument>,
}

/// A key of the escrow or of the KMS.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct KeyDocument {
    name: String,
    version: Option<String>,
    kek: &'static str,
    headers: Vec<HeaderDocument>,
    devices: Vec<LiveDocument>,
    problems: Vec<String>,
}

/// A saved header.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct HeaderDocument {
    device: String,
    luks: u8,
    uuid: String,
    slots: Vec<u8>,
    opened: Option<u8>,
    error: Option<ErrorDocument>,
}

/// A device of this host.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct LiveDocument {
    device: String,
    header: &'static str,
    opened: Option<u8>,
    error: Option<ErrorDocument>,
}

impl HeaderDocument {
    fn of(header: &HeaderReport) -> Self {
        let (entry, opened) = (&header.entry, &header.opened);
        Self {
            device: entry.device.clone(),
            luks: entry.luks,
            uuid: entry.uuid.clone(),
            slots: entry.slots.clone(),
            opened: *opened.as_ref().unwrap_or(&None),
            error: opened.as_ref().err().map(ErrorDocument::of),
        }
    }
}

impl LiveDocument {
    fn of(device: &LiveHeader) -> Self {
        Self {
            device: device.device.clone(),
            header: device.header.as_str(),
            opened: *device.opened.as_ref().unwrap_or(&None),
            error: device.opened.as_ref().err().map(ErrorDocument::of),
        }
    }
}

impl KeyDocument {
    fn of(report: &KeyReport) -> Self {
        Self {
            name: report.name.to_string(),
            version: report.version.clone(),
            kek: report.kek.as_str(),
            headers: report.headers.iter().map(HeaderDocument::of).collect(),
            devices: report.devices.iter().map(LiveDocument::of).collect(),
            problems: report.problems(),
        }
    }
}

/// Drills, and shows the result. `connect` also returns the namespace of the cluster. `record` gets the time of a drill that has
/// succeeded and was compared with the KMS.
pub(crate) async fn run(
    args: Args,
    cryptsetup: Cryptsetup,
    (connect, record_at): (
        impl AsyncFnOnce() -> Result<(Arc<dyn KmsProvider>, Option<String>)>,
        impl AsyncFnOnce(String),
    ),
    output: &mut Output<'_>,
) -> Result<Exit> {
    let identities = args.identities.required()?;
    let mut drill = Drill::begin(Escrow::open(&args.folder)?, &identities)?;
    let test = InMemory(cryptsetup.clone());
    let progress = output.progress();
    drill.try_headers(&identities, &test, &|done, all| progress.reached("headers", done, all)).await?;
    let mut kube_namespace = None;
    if !args.offline {
        let (kms, of_cluster) = connect().await?;
        drill.compare(&*kms, &|done, all| progress.reached("KEKs", done, all)).await?;
        kube_namespace = of_cluster;
    }
    let devices = args.device.find(args.live, kube_namespace.as_deref())?;
    let all = devices.len();
    for (at, (name, path)) in devices.into_iter().enumerate() {
        match copy(&name, &path, &cryptsetup).await {
            Ok(copy) => drill.try_device(&copy, &test).await,
            Err(error) => drill.unread_device(&name, path.display().to_string(), error),
        }
        progress.reached("devices", at + 1, all);
    }
    drop(progress);
    let record = drill.record().unwrap_or_else(|error| {
        warn!("the date of the drill was not noted: {}", chain(&error));
        drill.result()
    });
    if record.ok && !args.offline {
        record_at(record.drilled.to_string()).await;
    }
    let document = Document {
        ok: record.ok,
        escrow: EscrowDocument::of(&args.folder, drill.escrow().sidecar(), Some(&record)),
        compared: !args.offline,
        keys: drill.reports().map(KeyDocument::of).collect(),
    };
    match output.format() {
        Format::Json => output.json(&document)?,
        Format::Text => text(&document, &drill, output)?,
    }
    Ok(if document.ok { Exit::Done } else { Exit::Failed })
}

fn text(document: &Document, drill: &Drill, output: &mut Output<'_>) -> Result<()> {
    let head = ["NAME", "VERSION", "KEK", "HEADERS", "DEVICES"].map(str::to_owned);
    // How many are opened, of how many.
    let opened = |opened: Vec<bool>| match opened.len() {
        0 => "-".to_owned(),
        all => format!("{}/{all}", opened.into_iter().filter(|opened| *opened).count()),
    };
    let row = |key: &KeyDocument| {
        [
            key.name.clone(),
            key.version.clone().unwrap_or_else(|| "-".to_owned()),
            key.kek.to_owned(),
            opened(key.headers.iter().map(|header| header.opened.is_some()).collect()),
            opened(key.devices.iter().map(|device| device.opened.is_some()).collect()),
        ]
    };
    let rows: Vec<_> = std::iter::once(head).chain(document.keys.iter().map(row)).collect();
    table(&rows).into_iter().try_for_each(|line| output.line(line))?;
    for key in &document.keys {
        for problem in &key.problems {
            output.state_line(Tone::Bad, format!("FAIL  {}: {problem}", key.name))?;
        }
        for device in key.devices.iter().filter(|device| device.header == "changed") {
            let line =
                format!("changed  {}: the header of {} is newer than the saved one", key.name, device.device);
            output.state_line(Tone::Warning, line)?;
        }
    }
    let escrow = &document.escrow;
    let made = SystemTime::from(drill.escrow().sidecar().created);
    let made = format!("made {} ago ({})", age(SystemTime::now(), made), rfc3339(made).unwrap_or_default());
    let bad = document.keys.iter().filter(|key| !key.problems.is_empty()).count();
    let with = if document.compared { "" } else { ", not compared with the KMS" };
    output.line(match bad {
        0 => format!("{}: {made}: all {} keys would come back{with}", escrow.escrow, document.keys.len()),
        bad => format!(
            "{}: {made}: {bad} of {} keys would not come back{with}",
            escrow.escrow,
            document.keys.len()
        ),
    })?;
    let absent = drill.reports().filter(|report| matches!(report.kek, KekState::Absent)).count();
    if absent > 0 {
        output.line(format!(
            "the KMS lacks {absent} of them: kms escrow restore {} --all -i IDENTITY",
            escrow.escrow
        ))?;
    }
    Ok(())
}
