//! `kms get`: the KEK itself.

use std::{
    fs::File,
    io::{self, IsTerminal, Write},
    os::fd::AsFd,
    path::PathBuf,
};

use kms_core::{Error, Freshness, Kek, KmsProvider, Result};
use serde::Serialize;

use crate::{
    cli::{Files, NameArg},
    exit::Exit,
    input::STDIN,
    output::{Format, Output, not_written},
    secret_file,
};

/// The arguments.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) files: Files,

    #[command(flatten)]
    pub(crate) name: NameArg,

    /// The file to write, for its owner alone (0400); without it, or as `-`, standard output
    ///
    /// The file is replaced as a whole, also if it is there already. No line break is added.
    #[arg(value_name = "OUTPUT")]
    pub(crate) file: Option<PathBuf>,

    /// Write the KEK to standard output even if that is a terminal
    #[arg(long)]
    pub(crate) force: bool,
}

/// What was written to the file.
#[derive(Serialize)]
pub(crate) struct Document {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) fingerprint: String,
    pub(crate) output: String,
}

impl Args {
    fn file(&self) -> Option<&PathBuf> {
        self.file.as_ref().filter(|file| file.as_os_str() != STDIN)
    }
}

/// Refuses what would put the KEK where it does not belong, before anything is connected.
pub(crate) fn check(args: &Args, format: Format) -> Result<()> {
    if args.file().is_some() {
        return Ok(());
    }
    if format == Format::Json {
        return Err(Error::config(
            "standard output gets the KEK and nothing else: with -o json, name an OUTPUT for the KEK",
        ));
    }
    if io::stdout().is_terminal() && !args.force {
        return Err(Error::config(
            "standard output is a terminal, which keeps what it shows: name an OUTPUT, use a pipe, or say --force",
        ));
    }
    Ok(())
}

/// Reads and writes.
pub(crate) async fn run(args: Args, kms: &dyn KmsProvider, output: &mut Output<'_>) -> Result<Exit> {
    let name = &args.name.name;
    let stored = kms.get(name, Freshness::Any).await?;
    let Some(file) = args.file() else {
        return to_stdout(&stored.kek).map(|()| Exit::Done);
    };
    secret_file::write(file, &stored.kek)?;
    if output.format() == Format::Json {
        output.json(&Document {
            name: name.to_string(),
            version: stored.version.to_string(),
            fingerprint: stored.kek.fingerprint(),
            output: file.display().to_string(),
        })?;
    }
    Ok(Exit::Done)
}

/// Past the buffer of the standard library, which lives as long as the process and is never wiped.
/// A reader that has gone away is a failure here, since the KEK has not reached it.
fn to_stdout(kek: &Kek) -> Result<()> {
    let written = io::stdout().as_fd().try_clone_to_owned().and_then(|stdout| {
        let mut stdout = File::from(stdout);
        stdout.write_all(kek.expose_secret().as_bytes())
    });
    written.map_err(|cause| not_written("standard output", cause))
}
