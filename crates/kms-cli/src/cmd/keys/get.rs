//! `kms get`: writes a KEK to standard output or to a file.

use std::{
    fs::File,
    io::{self, IsTerminal, Write},
    os::fd::AsFd,
    path::PathBuf,
};

use kms_core::{Error, ErrorKind, Freshness, HistoryMode, KeyName, KmsProvider, Result, Stored};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::{
    args::KeyArgs,
    exit::Exit,
    input::STDIN,
    output::{Format, Output, not_written},
    output_file,
};

/// The arguments.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) key: KeyArgs,

    /// The file to write, readable only by its owner (0400) [default: `-`, standard output]
    ///
    /// kms replaces an existing file, refuses a link, and adds no line break.
    #[arg(value_name = "OUTPUT")]
    pub(crate) file: Option<PathBuf>,

    /// Read this version instead of the current one, if the KMS still has it (kms recover looks through all of them)
    #[arg(long, value_name = "VERSION")]
    pub(crate) version: Option<String>,

    /// Write the KEK to standard output even if that is a terminal
    #[arg(long)]
    pub(crate) force: bool,
}

/// The key that was read. It contains the KEK only if the KEK was not written to a file.
#[derive(Serialize)]
struct Document<'a> {
    name: &'a str,
    version: &'a str,
    fingerprint: String,
    output: Option<String>,
    kek: Option<&'a str>,
}

impl Args {
    fn file(&self) -> Option<&PathBuf> {
        self.file.as_ref().filter(|file| file.as_os_str() != STDIN)
    }
}

/// Rejects calls that would expose the KEK, before kms connects.
pub(crate) fn check(args: &Args) -> Result<()> {
    if args.file().is_some() {
        return Ok(());
    }
    if io::stdout().is_terminal() && !args.force {
        return Err(Error::config(
            "standard output is a terminal, which keeps what it shows: name an OUTPUT, use a pipe, or say --force",
        ));
    }
    Ok(())
}

/// Reads the KEK and writes it.
pub(crate) async fn run(args: Args, kms: &dyn KmsProvider, output: &mut Output<'_>) -> Result<Exit> {
    let name = &args.key.arg.name;
    let stored = match &args.version {
        None => kms.get(name, Freshness::Any).await?,
        Some(version) => past(kms, name, version).await?,
    };
    let document = Document {
        name: name.as_str(),
        version: stored.version.as_str(),
        fingerprint: stored.kek.fingerprint(),
        output: args.file().map(|file| file.display().to_string()),
        kek: args.file().is_none().then(|| stored.kek.expose_secret()),
    };
    match (args.file(), output.format()) {
        (Some(file), format) => {
            output_file::write_kek(file, &stored.kek)?;
            if format == Format::Json {
                output.json(&document)?;
            }
        }
        (None, Format::Text) => to_stdout(stored.kek.expose_secret().as_bytes())?,
        (None, Format::Json) => {
            // Large enough for a KEK whose every byte is escaped: a buffer that grows would leave copies behind.
            let mut text = Zeroizing::new(Vec::with_capacity(1024 + 6 * stored.kek.expose_secret().len()));
            serde_json::to_writer_pretty(&mut *text, &document).map_err(|_cause| {
                Error::new(ErrorKind::Unexpected, "the output cannot be written as JSON")
            })?;
            text.push(b'\n');
            to_stdout(&text)?;
        }
    }
    Ok(Exit::Done)
}

/// Reads one version of a key.
async fn past(kms: &dyn KmsProvider, name: &KeyName, version: &str) -> Result<Stored> {
    let history = kms.history(name, HistoryMode::ReadOnly).await?;
    let known: Vec<_> =
        history.iter().filter(|past| past.kek.is_some()).map(|past| past.version.to_string()).collect();
    let found = history.into_iter().find(|past| past.version.as_str() == version);
    match found.and_then(|past| Some(Stored::new(past.kek?, past.version))) {
        Some(stored) => Ok(stored),
        None => Err(Error::new(
            ErrorKind::NotFound,
            format!("the KMS has no such version of the key that can be read; it has: {}", known.join(", ")),
        )
        .context("key", name.as_str())
        .context("version", version)),
    }
}

/// Writes to standard output, bypassing the buffer of the standard library, which lives as long as the process and is
/// never wiped. A reader that has gone away is an error here, since the KEK has not reached it.
fn to_stdout(bytes: &[u8]) -> Result<()> {
    let written = io::stdout().as_fd().try_clone_to_owned().and_then(|stdout| {
        let mut stdout = File::from(stdout);
        stdout.write_all(bytes)
    });
    written.map_err(|cause| not_written("standard output", cause))
}
