//! `kms get`: writes a KEK to standard output or to a file.

use std::{
    fs::File,
    io::{self, IsTerminal, Write},
    os::fd::AsFd,
    path::PathBuf,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
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
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Document<'a> {
    name: &'a str,
    version: &'a str,
    fingerprint: String,
    output: Option<String>,
    kek: Option<&'a str>,
    /// The KEK in base64 if it is not text.
    kek_base64: Option<&'a str>,
}

impl<'a> Document<'a> {
    /// `in_base64` has the KEK if it is not text.
    fn new(args: &'a Args, stored: &'a Stored, in_base64: &'a str) -> Self {
        let text = stored.kek.expose_secret_text().ok();
        let shown = |form: Option<&'a str>| form.filter(|_| args.file().is_none());
        Self {
            name: args.key.arg.name.as_str(),
            version: stored.version.as_str(),
            fingerprint: stored.kek.fingerprint(),
            output: args.file().map(|file| file.display().to_string()),
            kek: shown(text),
            kek_base64: shown(text.is_none().then_some(in_base64)),
        }
    }
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
    // The encoder makes a buffer of the exact size.
    let in_base64 = Zeroizing::new(match stored.kek.is_text() {
        true => String::new(),
        false => STANDARD.encode(stored.kek.expose_secret_bytes()),
    });
    let document = Document::new(&args, &stored, &in_base64);
    match (args.file(), output.format()) {
        (Some(file), format) => {
            output_file::write_kek(file, &stored.kek)?;
            if format == Format::Json {
                output.json(&document)?;
            }
        }
        (None, Format::Text) => to_stdout(stored.kek.expose_secret_bytes())?,
        (None, Format::Json) => {
            // Large enough for a KEK whose every byte is escaped: a buffer that grows would leave copies behind.
            let mut text =
                Zeroizing::new(Vec::with_capacity(1024 + 6 * stored.kek.expose_secret_bytes().len()));
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

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::Parser;
    use kms_core::{Kek, PutMode, memory::Memory};

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn args(words: &[&str]) -> Args {
        Line::parse_from(["get"].iter().chain(words)).args
    }

    #[tokio::test]
    async fn an_older_version_is_read_and_an_unknown_one_names_those_that_are_left() {
        let (kms, name) = (Memory::new(), "a".parse().unwrap());
        for text in ["first", "second"] {
            kms.put(&name, &Kek::parse(text).unwrap(), PutMode::Overwrite).await.unwrap();
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("kek");
        for (version, text) in
            [(&["--version", "1"][..], "first"), (&["--version", "2"], "second"), (&[], "second")]
        {
            let words = [&["a", file.to_str().unwrap()][..], version].concat();
            run(args(&words), &kms, &mut Output::to(Format::Text, io::sink())).await.unwrap();
            assert_eq!(fs::read_to_string(&file).unwrap(), text, "{version:?}");
        }
        let error = past(&kms, &name, "7").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("it has: 2, 1"), "{error}");
    }

    #[tokio::test]
    async fn a_kek_that_is_not_text_is_written_unchanged_and_is_base64_in_json() {
        let (kms, name) = (Memory::new(), "a".parse().unwrap());
        let kek = Kek::from_stored_bytes(b"\xff\0k\n".to_vec()).unwrap();
        kms.put(&name, &kek, PutMode::Create).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("kek");
        let to_file = args(&["a", file.to_str().unwrap()]);
        let stored = kms.get(&name, Freshness::Any).await.unwrap();
        let document = |args: &Args| serde_json::to_value(Document::new(args, &stored, "/wBrCg==")).unwrap();
        let (shown, written) = (document(&args(&["a"])), document(&to_file));
        assert_eq!((&shown["kek"], &shown["kek_base64"]), (&().into(), &"/wBrCg==".into()));
        assert_eq!((&written["kek"], &written["kek_base64"]), (&().into(), &().into()));
        run(to_file, &kms, &mut Output::to(Format::Text, io::sink())).await.unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"\xff\0k\n");
    }
}
