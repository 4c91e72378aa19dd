//! The journal of a migration: one line of JSON for each step, so that a killed run can be resumed.

mod record;

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use kms_core::{Error, ErrorKind, Kek, KeyName, Result, Retry};
use rustix::fs::OFlags;
use serde::Serialize;

pub(crate) use self::record::recorded;
pub use self::record::{Entry, Mark, Phase, Place, Versions};
use self::record::{FORM, Header, KeyLine, Line, PhaseLine};

/// The beginning of the name of the key that shows whether both sides are one place.
pub(crate) const CANARY: &str = "kms-migrate-";
/// How many lines may be written before they are flushed to the disk.
const UNSYNCED: usize = 64;
/// The mode of a new journal: it names servers and keys.
const MODE: u32 = 0o600;

/// A journal, locked against other runs.
///
/// It belongs to one pair of places. A line that announces a write is on the disk before the write; a line that reports
/// one may be lost with a crash, and the next run finds the write itself.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    canary: KeyName,
    phase: Phase,
    entries: BTreeMap<KeyName, Entry>,
    /// How many lines are not flushed to the disk yet.
    unsynced: usize,
    /// Whether a write has failed: the next line would continue half a line.
    broken: bool,
}

impl Drop for Journal {
    fn drop(&mut self) {
        // Release explicitly: a child that is being started holds a copy of all descriptors for a moment.
        let _ignored = self.file.unlock();
    }
}

impl Journal {
    /// Opens a journal of this pair of places, or creates it, readable only by its owner.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open), but for a journal that does not exist.
    pub fn open_or_create(path: &Path, from: &Place, to: &Place) -> Result<Self> {
        let flags = OFlags::NOFOLLOW.bits().cast_signed();
        let mut options = OpenOptions::new();
        options.read(true).append(true).create_new(true).mode(MODE).custom_flags(flags);
        match options.open(path) {
            Ok(file) => {
                sync_folder(path).map_err(|cause| refused(path).source(cause))?;
                Self::from_file(path, file, from, to)
            }
            Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => Self::open(path, from, to),
            Err(cause) => Err(refused(path).source(cause)),
        }
    }

    /// Opens a journal of this pair of places.
    ///
    /// A last line that a kill has cut off is removed from the file.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if the journal does not exist, cannot be read or written, is not a file, is damaged, or belongs
    /// to another pair of places. `Conflict`, worth another try, if another run is writing it.
    pub fn open(path: &Path, from: &Place, to: &Place) -> Result<Self> {
        // What is opened here is what is checked and written.
        let flags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).bits().cast_signed();
        let file = OpenOptions::new().read(true).append(true).custom_flags(flags).open(path);
        let file = file.map_err(|cause| match cause.kind() {
            io::ErrorKind::NotFound => {
                Error::config("the journal does not exist: kms migrate copy creates it")
                    .context("journal", path.display().to_string())
            }
            _ => refused(path).source(cause),
        })?;
        Self::from_file(path, file, from, to)
    }

    fn from_file(path: &Path, file: File, from: &Place, to: &Place) -> Result<Self> {
        let failed = |cause: io::Error| refused(path).source(cause);
        if !file.metadata().map_err(failed)?.is_file() {
            return Err(Error::config("the journal is a device or a pipe: name a file")
                .context("journal", path.display().to_string()));
        }
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    "another run is writing the journal: wait until it ends and try again",
                )
                .retry(Retry::Always)
                .context("journal", path.display().to_string()));
            }
            Err(TryLockError::Error(cause)) => return Err(failed(cause)),
        }
        let mut text = String::new();
        (&file).read_to_string(&mut text).map_err(failed)?;
        let whole = text.rfind('\n').map_or(0, |at| at + 1);
        if whole < text.len() {
            file.set_len(whole as u64).and_then(|()| file.sync_all()).map_err(failed)?;
        }
        let lines = text.get(..whole).unwrap_or_default();
        let mut journal = Self {
            path: path.to_owned(),
            file,
            canary: KeyName::new(format!("{CANARY}{}", Kek::generate()?.fingerprint()))?,
            phase: Phase::Copying,
            entries: BTreeMap::new(),
            unsynced: 0,
            broken: false,
        };
        if lines.is_empty() {
            journal.append(&Line::Header(Header {
                journal: FORM.to_owned(),
                canary: journal.canary.as_str().to_owned(),
                from: from.clone(),
                to: to.clone(),
            }))?;
            journal.sync()?;
        } else {
            journal.replay(lines, from, to)?;
        }
        Ok(journal)
    }

    /// Takes over what earlier runs have written.
    fn replay(&mut self, lines: &str, from: &Place, to: &Place) -> Result<()> {
        let mut lines = lines.lines().zip(1..);
        let header = lines.next().and_then(|(line, _)| serde_json::from_str(line).ok());
        let Some(Header { journal, canary, from: of_from, to: of_to }) = header else {
            return Err(self.damaged(1));
        };
        if journal != FORM {
            return Err(self.damaged(1));
        }
        for (side, ours, journals) in [("--from", from, &of_from), ("--to", to, &of_to)] {
            if let Some(what) = ours.difference(journals) {
                return Err(Error::config(format!(
                    "the journal belongs to another migration: {what} of {side} is another one than when it was begun. \
                     Use the files with which it was begun, or another journal"
                ))
                .context("journal", self.path.display().to_string()));
            }
        }
        self.canary = KeyName::new(canary)?;
        for (line, number) in lines {
            match serde_json::from_str(line) {
                Ok(Line::Key(KeyLine { name, state, source, target })) => {
                    let name = KeyName::new(name).map_err(|_error| self.damaged(number))?;
                    self.entries.entry(name).or_default().apply(state, Versions::new(source, target));
                }
                Ok(Line::Phase(PhaseLine { phase })) => self.phase = phase,
                Ok(Line::Header(_)) | Err(_) => return Err(self.damaged(number)),
            }
        }
        Ok(())
    }

    fn damaged(&self, line: usize) -> Error {
        Error::config(format!("line {line} of the journal cannot be understood: use another journal"))
            .context("journal", self.path.display().to_string())
    }

    /// How far the migration is.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The name of the key that shows whether both sides are one place. It opens no device.
    pub fn canary(&self) -> &KeyName {
        &self.canary
    }

    /// What the journal says of a key.
    pub fn entry(&self, name: &KeyName) -> Option<&Entry> {
        self.entries.get(name)
    }

    /// All keys of the journal.
    pub fn entries(&self) -> impl Iterator<Item = (&KeyName, &Entry)> {
        self.entries.iter()
    }

    /// Adds a mark about a key. [`sync`](Self::sync) flushes it to the disk.
    pub(crate) fn note(&mut self, name: &KeyName, mark: Mark, versions: Versions) -> Result<()> {
        self.append(&KeyLine::new(name, mark, &versions))?;
        self.entries.entry(name.clone()).or_default().apply(mark, versions);
        if self.unsynced >= UNSYNCED { self.sync() } else { Ok(()) }
    }

    /// Adds marks that announce writes, and flushes them to the disk.
    pub(crate) fn announce<'a>(
        &mut self,
        keys: impl IntoIterator<Item = (&'a KeyName, Versions)>,
        mark: Mark,
    ) -> Result<()> {
        for (name, versions) in keys {
            self.note(name, mark, versions)?;
        }
        self.sync()
    }

    /// Enters a phase, and flushes it to the disk with everything before it.
    ///
    /// # Errors
    ///
    /// `Unexpected` if the file cannot be written.
    pub fn enter(&mut self, phase: Phase) -> Result<()> {
        if self.phase != phase {
            self.append(&PhaseLine { phase })?;
            self.phase = phase;
        }
        self.sync()
    }

    /// Fails unless the migration is in one of these phases.
    pub(crate) fn require(&self, phases: &[Phase], to_do: &str) -> Result<()> {
        if phases.contains(&self.phase) {
            return Ok(());
        }
        let why = format!("the migration is in the phase {:?}: {to_do}", self.phase.as_str());
        Err(Error::new(ErrorKind::Conflict, why).context("journal", self.path.display().to_string()))
    }

    /// Flushes all lines to the disk.
    pub(crate) fn sync(&mut self) -> Result<()> {
        if self.unsynced > 0 {
            self.file.sync_data().map_err(|cause| self.not_written(cause))?;
            self.unsynced = 0;
        }
        Ok(())
    }

    fn append(&mut self, line: &impl Serialize) -> Result<()> {
        // Without a string that fails to serialize, this cannot fail.
        let mut text = serde_json::to_string(line).map_err(|cause| self.not_written(cause.into()))?;
        text.push('\n');
        if self.broken {
            return Err(self.not_written(io::Error::other("an earlier write has failed")));
        }
        // One write, so that only the last line of a killed run can be cut off.
        if let Err(cause) = (&self.file).write_all(text.as_bytes()) {
            self.broken = true;
            return Err(self.not_written(cause));
        }
        self.unsynced += 1;
        Ok(())
    }

    fn not_written(&self, cause: io::Error) -> Error {
        Error::new(ErrorKind::Unexpected, "the journal cannot be written")
            .context("journal", self.path.display().to_string())
            .source(cause)
    }
}

fn refused(path: &Path) -> Error {
    Error::config("the journal cannot be used").context("journal", path.display().to_string())
}

/// Flushes the name of a new file to the disk. Some file systems cannot sync a folder.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = File::open(folder.unwrap_or_else(|| Path::new(".")))?;
    let _unsupported = folder.sync_all();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_of_the_descriptor_in_a_child_does_not_keep_the_next_run_from_the_journal() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let [from, to] = ["a", "b"].map(|name| Place::new(name, None));
        let journal = Journal::open_or_create(&path, &from, &to).unwrap();
        let _of_child = journal.file.try_clone().unwrap();
        drop(journal);
        let _again = Journal::open(&path, &from, &to).unwrap();
    }
}
