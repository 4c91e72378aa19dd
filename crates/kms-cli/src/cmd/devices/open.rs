//! `kms open`: opens the devices of an OSD with its KEK.

use std::{path::PathBuf, sync::Arc};

use clap::{ValueEnum, builder::NonEmptyStringValueParser};
use kms_core::{Error, ErrorKind, Freshness, KeyName, KmsProvider, Result, Stored};
use kms_luks::{Cryptsetup, Device, DeviceKind, Identity, Labelled, MappingName, Opened};
use serde::Serialize;
use tracing::warn;

use super::warn_if_shortened;
use crate::{
    args::{KeyArgs, mapping_name},
    exit::Exit,
    output::{Format, Output},
};

/// The arguments.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) key: KeyArgs,

    /// The data device, or the device that --kind says
    #[arg(value_name = "DATA")]
    pub(crate) data: PathBuf,

    /// The metadata device, if the OSD has one
    #[arg(value_name = "METADATA")]
    pub(crate) metadata: Option<PathBuf>,

    /// The device of the write-ahead log, if the OSD has one
    #[arg(value_name = "WAL")]
    pub(crate) wal: Option<PathBuf>,

    /// The name of the open device, once for each device [default: PVC-block-dmcrypt, PVC-db-dmcrypt, PVC-wal-dmcrypt]
    #[arg(long = "mapper", value_name = "MAPPER", value_parser = mapping_name)]
    pub(crate) mappers: Vec<MappingName>,

    /// The PVC of a device, once for each device; may be left out if there is only the data device and its PVC is NAME
    #[arg(long = "pvc", value_name = "PVC", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) pvcs: Vec<String>,

    /// What the device is, if there is only one
    #[arg(long, value_enum, value_name = "KIND", conflicts_with = "metadata")]
    pub(crate) kind: Option<Kind>,

    /// Label the devices as those of this Ceph cluster, as Rook does
    #[arg(long, value_name = "FSID", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) fsid: Option<String>,
}

/// What a device is to its OSD.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Kind {
    /// Data
    Block,
    /// Metadata
    Db,
    /// Write-ahead log
    Wal,
}

/// A device, and how to open it.
struct Plan {
    device: Device,
    mapper: MappingName,
    identity: Option<Identity>,
}

/// The devices that were opened. Version and fingerprint are those of the KEK, if it was needed.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Document {
    name: String,
    version: Option<String>,
    fingerprint: Option<String>,
    devices: Vec<Entry>,
}

/// A device.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Entry {
    device: String,
    mapper: String,
    outcome: &'static str,
    label: Option<&'static str>,
}

/// Opens the devices.
pub(crate) async fn run(
    args: Args,
    cryptsetup: Cryptsetup,
    connect: impl AsyncFnOnce() -> Result<Arc<dyn KmsProvider>>,
    output: &mut Output<'_>,
) -> Result<Exit> {
    let name = args.key.arg.name.clone();
    let plans = plans(args, &cryptsetup)?;
    let mut closed = false;
    for plan in &plans {
        closed |= !plan.device.is_open(&plan.mapper)?;
    }
    let mut keeper = match closed {
        true => Some(Keeper::new(connect().await?, name.clone()).await?),
        // A host whose devices are open does not need the KMS.
        false => None,
    };
    let mut entries = Vec::new();
    for plan in &plans {
        let outcome = match &mut keeper {
            Some(keeper) => opened(plan, keeper).await.map_err(|error| after(error, &entries))?,
            None => "already-open",
        };
        let label = label(plan).await;
        entries.push(Entry {
            device: plan.device.path().display().to_string(),
            mapper: plan.mapper.to_string(),
            outcome,
            label,
        });
    }
    let document = Document {
        name: name.to_string(),
        version: keeper.as_ref().map(|keeper| keeper.stored.version.to_string()),
        fingerprint: keeper.as_ref().map(|keeper| keeper.stored.kek.fingerprint()),
        devices: entries,
    };
    // The KEK is no longer needed.
    drop(keeper);
    match output.format() {
        Format::Json => output.json(&document)?,
        Format::Text => document.devices.iter().try_for_each(|entry| {
            output.line(format!("{}  {}  {}", entry.outcome, entry.mapper, entry.device))
        })?,
    }
    Ok(Exit::Done)
}

/// The KEK, fetched once for all devices.
struct Keeper {
    kms: Arc<dyn KmsProvider>,
    name: KeyName,
    stored: Stored,
    fresh: bool,
}

impl Keeper {
    async fn new(kms: Arc<dyn KmsProvider>, name: KeyName) -> Result<Self> {
        // Any server's copy will do at first: the device shows whether the KEK is right.
        let stored = kms.get(&name, Freshness::Any).await?;
        Ok(Self { kms, name, stored, fresh: false })
    }

    /// Reads the KEK again. Returns whether it has changed.
    async fn refresh(&mut self) -> Result<bool> {
        if self.fresh {
            return Ok(false);
        }
        let stored = self.kms.get(&self.name, Freshness::Fresh).await?;
        let changed = !stored.kek.ct_eq(&self.stored.kek);
        self.stored = stored;
        self.fresh = true;
        Ok(changed)
    }
}

async fn opened(plan: &Plan, keeper: &mut Keeper) -> Result<&'static str> {
    loop {
        let opened = plan.device.open(&plan.mapper, &keeper.stored.kek).await?;
        return Ok(match opened {
            Opened::Already => "already-open",
            Opened::Done => "opened",
            Opened::Replaced => "replaced",
            // The KEK may have been rotated since this copy was read.
            Opened::WrongKey if keeper.refresh().await? => continue,
            _ => {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    "the KEK that the KMS holds opens no key slot of the device: it is another OSD's device, or its \
                     KEK was replaced in the KMS",
                )
                .operation("open")
                .context("device", plan.device.path().display().to_string())
                .context("key", keeper.name.as_str())
                .context("version", keeper.stored.version.as_str())
                .context("fingerprint", keeper.stored.kek.fingerprint()));
            }
        });
    }
}

/// Adds the devices that are already open to the error of another device. The next run leaves them open.
fn after(error: Error, opened: &[Entry]) -> Error {
    if opened.is_empty() {
        return error;
    }
    let names: Vec<_> = opened.iter().map(|entry| entry.mapper.as_str()).collect();
    error.context("left open", names.join(" "))
}

/// Labels a device. An OSD starts without its label too, so a failure here does not fail the command.
async fn label(plan: &Plan) -> Option<&'static str> {
    let identity = plan.identity.as_ref()?;
    let device = plan.device.path().display();
    Some(match plan.device.set_label(identity).await {
        Ok(Labelled::Done) => "written",
        Ok(Labelled::Unchanged) => "unchanged",
        Ok(Labelled::Busy) => {
            warn!("{device} is not labelled now, since its key slots are being changed; the next start will");
            "skipped"
        }
        Ok(_) => "unsupported",
        Err(error) => {
            warn!("{device} is open, but could not be labelled: {}", crate::output::chain(&error));
            "failed"
        }
    })
}

fn plans(args: Args, cryptsetup: &Cryptsetup) -> Result<Vec<Plan>> {
    let Args { key, data, metadata, wal, mappers, pvcs, kind, fsid } = args;
    let devices: Vec<_> = [Some(data), metadata, wal].into_iter().flatten().collect();
    let kinds = match kind {
        Some(Kind::Db) => vec![DeviceKind::Db],
        Some(Kind::Wal) => vec![DeviceKind::Wal],
        Some(Kind::Block) | None => DeviceKind::ALL.to_vec(),
    };
    for (option, count) in [("--mapper", mappers.len()), ("--pvc", pvcs.len())] {
        if count != 0 && count != devices.len() {
            return Err(Error::config(format!(
                "{option} is given {count} times for {} devices: give it once for each, in their order",
                devices.len()
            )));
        }
    }
    let mut plans = Vec::new();
    for (at, (path, kind)) in devices.into_iter().zip(kinds).enumerate() {
        let own = (kind == DeviceKind::Block).then(|| key.arg.name.as_str());
        let pvc = pvcs.get(at).map(String::as_str).or(own);
        let device = path.display().to_string();
        let no_pvc = |what: &str| {
            Error::config(format!("{what}: give the PVC of each device with --pvc, in their order"))
                .context("device", device.clone())
        };
        let mapper = match (mappers.get(at), pvc) {
            (Some(mapper), _) => mapper.clone(),
            (None, Some(pvc)) => kind.mapping_of(pvc)?,
            (None, None) => return Err(no_pvc("the name of the open device is not known")),
        };
        let identity = match (&fsid, pvc) {
            (None, _) => None,
            (Some(fsid), Some(pvc)) => Some(Identity::new(pvc, fsid)),
            (Some(_), None) => return Err(no_pvc("the label of the device is not known")),
        };
        identity.iter().for_each(warn_if_shortened);
        plans.push(Plan { device: Device::new(cryptsetup.clone(), path), mapper, identity });
    }
    Ok(plans)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::Parser;
    use kms_core::{Kek, PutMode};
    use kms_testkit::fake::{Operation, Scripted};

    use super::*;
    use crate::osd_host::Host;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parsed(args: &[&str]) -> Result<Args, clap::Error> {
        Ok(Line::try_parse_from(["open"].iter().chain(args))?.args)
    }

    async fn open(host: &Host, kms: Option<&Arc<Scripted>>, args: &[&str]) -> Result<String> {
        let mut bytes = Vec::new();
        let mut output = Output::to(Format::Text, &mut bytes);
        let connect = async || match kms {
            Some(kms) => Ok(Arc::clone(kms) as Arc<dyn KmsProvider>),
            None => Err(Error::new(ErrorKind::Unavailable, "the KMS is away")),
        };
        run(parsed(args).unwrap(), host.cryptsetup(), connect, &mut output).await?;
        drop(output);
        let folder = format!("{}/", host.path("").display().to_string().trim_end_matches('/'));
        Ok(String::from_utf8(bytes).unwrap().replace(&folder, ""))
    }

    async fn kms_with(kek: &str) -> Arc<Scripted> {
        let kms = Arc::new(Scripted::new());
        store(&kms, kek).await;
        kms
    }

    async fn store(kms: &Scripted, kek: &str) {
        let name = "osd".parse().unwrap();
        kms.inner().put(&name, &Kek::parse(kek).unwrap(), PutMode::Overwrite).await.unwrap();
    }

    #[tokio::test]
    async fn all_devices_of_an_osd_are_opened_with_one_read_of_its_kek() {
        let (host, kms) = (Host::new(), kms_with("kek-1").await);
        let devices = ["data", "metadata", "wal"].map(|name| host.device(name, "kek-1"));
        let mut args = vec!["osd"];
        args.extend(devices.iter().map(String::as_str));
        args.extend(["--pvc", "a", "--pvc", "b", "--pvc", "c"]);
        let text = open(&host, Some(&kms), &args).await.unwrap();
        assert_eq!(
            text,
            "opened  a-block-dmcrypt  data\nopened  b-db-dmcrypt  metadata\nopened  c-wal-dmcrypt  wal\n"
        );
        assert_eq!(kms.count(Operation::Get), 1);
        // The devices are open now, so the KMS may be unreachable.
        let again = open(&host, None, &args).await.unwrap();
        assert_eq!(again, text.replace("opened", "already-open"));
        assert_eq!(host.calls(), ["open"; 3]);
    }

    #[tokio::test]
    async fn a_device_that_cannot_be_opened_leaves_the_others_for_the_next_try() {
        let (host, kms) = (Host::new(), kms_with("kek-1").await);
        let [data, metadata] = [host.device("data", "kek-1"), host.device("metadata", "kek-2")];
        let args = ["osd", &data, &metadata, "--mapper", "one", "--mapper", "two"];
        let error = open(&host, Some(&kms), &args).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        let text = error.to_string();
        assert!(text.contains("opens no key slot") && text.contains("left open: one"), "{text}");
        assert!(text.contains(&metadata) && !text.contains("kek-1"), "{text}");
        host.device("metadata", "kek-1");
        let text = open(&host, Some(&kms), &args).await.unwrap();
        assert_eq!(text, "already-open  one  data\nopened  two  metadata\n");
    }

    #[tokio::test]
    async fn a_kek_that_is_rotated_meanwhile_is_read_again() {
        let (host, kms) = (Host::new(), kms_with("kek-1").await);
        let data = host.device("data", "kek-2");
        let [started, go_on] = host.hold();
        let rotation = async {
            tokio::task::spawn_blocking(|| fs::read(started).unwrap()).await.unwrap();
            store(&kms, "kek-2").await;
            tokio::task::spawn_blocking(|| fs::write(go_on, "\n").unwrap()).await.unwrap();
        };
        let args = ["osd", &data];
        let (text, ()) = tokio::join!(open(&host, Some(&kms), &args), rotation);
        assert_eq!(text.unwrap(), "opened  osd-block-dmcrypt  data\n");
        assert_eq!(host.calls(), ["open", "open"]);
    }

    #[tokio::test]
    async fn a_name_is_never_guessed() {
        let (host, kms) = (Host::new(), kms_with("kek-1").await);
        let [data, metadata] = [host.device("data", "kek-1"), host.device("metadata", "kek-1")];
        let cases: [(&[&str], &str); 5] = [
            (&["osd", &data, &metadata], "give the PVC of each device"),
            (&["osd", &metadata, "--kind", "db"], "give the PVC of each device"),
            (&["osd", &data, &metadata, "--pvc", "b"], "--pvc is given 1 times for 2 devices"),
            (&["osd", &data, "--mapper", "a", "--mapper", "b"], "--mapper is given 2 times for 1 devices"),
            (
                &["osd", &metadata, "--kind", "db", "--mapper", "a", "--fsid", "f"],
                "label of the device is not known",
            ),
        ];
        for (args, what) in cases {
            let error = open(&host, Some(&kms), args).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
            assert!(error.to_string().contains(what), "{error}");
        }
        assert_eq!(host.calls(), [""; 0]);
        let text = open(&host, Some(&kms), &["osd", &metadata, "--kind", "db", "--pvc", "b"]).await.unwrap();
        assert_eq!(text, "opened  b-db-dmcrypt  metadata\n");
        for args in [["osd", &data, &metadata, "--kind", "db"].as_slice(), &["osd", &data, "--mapper", "a/b"]]
        {
            assert!(parsed(args).is_err());
        }
    }
}
