//! The journal of a long run: the OSDs that are done.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use kms_core::{Error, KeyName, Result};

use crate::output::not_written;

/// A file with one name on each line. Each name is flushed to the disk as soon as it is noted.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    done: BTreeSet<String>,
}

impl Journal {
    /// Opens a journal, or creates it.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if the journal cannot be read or written, or if another run is writing it.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let refused = |cause: io::Error| {
            Error::config("the journal cannot be used")
                .context("journal", path.display().to_string())
                .source(cause)
        };
        let file = OpenOptions::new().read(true).append(true).create(true).open(path).map_err(refused)?;
        file.try_lock().map_err(|cause| refused(cause.into()))?;
        let text = fs::read_to_string(path).map_err(refused)?;
        // A truncated line names an OSD whose end was not fully noted.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        if whole.len() + 1 < text.len() {
            (&file).write_all(b"\n").map_err(refused)?;
        }
        let done = whole.lines().map(str::to_owned).collect();
        Ok(Self { path: path.to_owned(), file, done })
    }

    /// Whether an OSD is done.
    pub(super) fn has(&self, name: &KeyName) -> bool {
        self.done.contains(name.as_str())
    }

    /// Notes that an OSD is done.
    pub(super) fn note(&mut self, name: &KeyName) -> Result<()> {
        (&self.file)
            .write_all(format!("{name}\n").as_bytes())
            .and_then(|()| self.file.sync_data())
            .map_err(|cause| not_written(self.path.display().to_string(), cause))
    }

    /// Removes the journal, since all OSDs are done.
    pub(super) fn remove(self) -> Result<()> {
        fs::remove_file(&self.path).map_err(|cause| not_written(self.path.display().to_string(), cause))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_noted_is_known_and_what_was_cut_off_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let name = |text: &str| KeyName::new(text).unwrap();
        let mut journal = Journal::open(&path).unwrap();
        assert!(Journal::open(&path).unwrap_err().to_string().contains("journal"), "another run has it");
        journal.note(&name("a")).unwrap();
        drop(journal);
        fs::write(&path, "a\nb").unwrap();
        let mut journal = Journal::open(&path).unwrap();
        assert!(journal.has(&name("a")) && !journal.has(&name("b")));
        journal.note(&name("c")).unwrap();
        drop(journal);
        let journal = Journal::open(&path).unwrap();
        assert!(journal.has(&name("c")));
        journal.remove().unwrap();
        assert!(!path.exists());
    }
}
