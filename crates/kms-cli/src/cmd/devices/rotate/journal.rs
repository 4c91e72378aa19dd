//! The journal of a long run: the OSDs that are done.
//!
//! A journal belongs to one round over all OSDs, which takes several runs if runs are interrupted or OSDs fail. The round
//! ends when all OSDs are done, and also when a run that resumes it finishes no further OSD: then the same OSDs would
//! fail again and again, and the healthy ones would never get a new KEK. A journal that already names all OSDs is left
//! from a round that has ended, but whose journal could not be removed.

use std::{
    collections::BTreeSet,
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use kms_core::{Error, ErrorKind, KeyName, Result, Retry};
use rustix::fs::OFlags;
use tracing::warn;

use crate::output::{chain, not_written};

/// A file with one name on each line. Each name is flushed to the disk as soon as it is noted.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    /// The OSDs that earlier runs of this round have finished.
    done: BTreeSet<String>,
    /// Whether this run has finished an OSD.
    has_advanced: bool,
}

impl Drop for Journal {
    fn drop(&mut self) {
        // Release explicitly: a child that is being started holds a copy of all descriptors for a moment.
        let _ignored = self.file.unlock();
    }
}

impl Journal {
    /// Opens a journal, or creates it.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if the journal cannot be read or written, or is not a file: a link, a device. `Conflict`, worth
    /// another try, if another run is writing it.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let error =
            |kind, why: &'static str| Error::new(kind, why).context("journal", path.display().to_string());
        let refused =
            |cause: io::Error| error(ErrorKind::ConfigInvalid, "the journal cannot be used").source(cause);
        // What is opened here is what is checked, written and removed.
        let flags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).bits().cast_signed();
        let file = OpenOptions::new().read(true).append(true).create(true).custom_flags(flags).open(path);
        let file = file.map_err(refused)?;
        if !file.metadata().map_err(refused)?.is_file() {
            return Err(error(ErrorKind::ConfigInvalid, "the journal is a device or a pipe: name a file"));
        }
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                let why = "another run is writing the journal: wait until it ends and try again";
                return Err(error(ErrorKind::Conflict, why).retry(Retry::Always));
            }
            Err(std::fs::TryLockError::Error(cause)) => return Err(refused(cause)),
        }
        let mut text = String::new();
        (&file).read_to_string(&mut text).map_err(refused)?;
        // A truncated line names an OSD whose end was not fully noted.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        if whole.len() + 1 < text.len() {
            (&file).write_all(b"\n").map_err(refused)?;
        }
        let done = whole.lines().map(str::to_owned).collect();
        Ok(Self { path: path.to_owned(), file, done, has_advanced: false })
    }

    /// Begins a new round if the journal names all of these OSDs.
    ///
    /// # Errors
    ///
    /// `Unexpected` if the file cannot be written.
    pub(super) fn resume<'a>(&mut self, osds: impl IntoIterator<Item = &'a KeyName>) -> Result<()> {
        let is_left = !self.done.is_empty() && osds.into_iter().all(|name| self.has(name));
        if is_left { self.empty() } else { Ok(()) }
    }

    /// Whether an OSD is done.
    pub(super) fn has(&self, name: &KeyName) -> bool {
        self.done.contains(name.as_str())
    }

    /// Notes that an OSD is done.
    ///
    /// # Errors
    ///
    /// `Unexpected` if the file cannot be written.
    pub(super) fn note(&mut self, name: &KeyName) -> Result<()> {
        self.has_advanced = true;
        (&self.file)
            .write_all(format!("{name}\n").as_bytes())
            .and_then(|()| self.file.sync_data())
            .map_err(|cause| self.not_written(cause))
    }

    /// Ends the run. Removes the journal if the round ends too.
    ///
    /// # Errors
    ///
    /// `Unexpected` if the file cannot be written.
    pub(super) fn close(mut self, has_failures: bool) -> Result<()> {
        if has_failures && (self.has_advanced || self.done.is_empty()) {
            return Ok(());
        }
        if has_failures {
            warn!(
                "no further OSD was finished, so the journal ends here: the next run rotates all OSDs again"
            );
        }
        // An empty journal says the same as none, also in a folder from which it cannot be removed.
        self.empty()?;
        let ours = self.file.metadata().map(|file| (file.dev(), file.ino()));
        let there = self.path.symlink_metadata().map(|file| (file.dev(), file.ino()));
        let removed = match (ours, there) {
            (Ok(ours), Ok(there)) if ours == there => std::fs::remove_file(&self.path),
            _ => Ok(()),
        };
        if let Err(cause) = removed {
            warn!("the empty journal stays: {}", chain(&self.not_written(cause)));
        }
        Ok(())
    }

    fn empty(&mut self) -> Result<()> {
        self.done.clear();
        self.file.set_len(0).and_then(|()| self.file.sync_all()).map_err(|cause| self.not_written(cause))
    }

    fn not_written(&self, cause: io::Error) -> Error {
        not_written(self.path.display().to_string(), cause)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::exit::Exit;

    fn name(text: &str) -> KeyName {
        KeyName::new(text).unwrap()
    }

    #[test]
    fn a_copy_of_the_descriptor_in_a_child_does_not_keep_the_next_run_from_the_journal() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let journal = Journal::open(&path).unwrap();
        let _of_child = journal.file.try_clone().unwrap();
        drop(journal);
        Journal::open(&path).unwrap();
    }

    #[test]
    fn what_was_noted_is_known_and_what_was_cut_off_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let mut journal = Journal::open(&path).unwrap();
        let busy = Journal::open(&path).unwrap_err();
        assert_eq!(Exit::of(&busy), Exit::TryAgain, "another run has it: {busy}");
        journal.note(&name("a")).unwrap();
        drop(journal);
        fs::write(&path, "a\nb").unwrap();
        let mut journal = Journal::open(&path).unwrap();
        assert!(journal.has(&name("a")) && !journal.has(&name("b")));
        journal.note(&name("c")).unwrap();
        drop(journal);
        let journal = Journal::open(&path).unwrap();
        assert!(journal.has(&name("c")));
        journal.close(false).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn an_osd_that_always_fails_does_not_keep_the_others_from_their_next_kek() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let [a, b, broken] = ["a", "b", "broken"].map(name);
        let all = [&a, &b, &broken];
        // The first run finishes `a`, the second `b`; `broken` fails in each.
        for done in [&a, &b] {
            let mut journal = Journal::open(&path).unwrap();
            journal.resume(all).unwrap();
            assert!(!journal.has(done) && !journal.has(&broken));
            journal.note(done).unwrap();
            journal.close(true).unwrap();
        }
        // The third run has only the broken one to try, in vain.
        let mut journal = Journal::open(&path).unwrap();
        journal.resume(all).unwrap();
        assert!(journal.has(&a) && journal.has(&b) && !journal.has(&broken));
        journal.close(true).unwrap();
        let journal = Journal::open(&path).unwrap();
        assert!(!journal.has(&a) && !journal.has(&b), "the healthy OSDs have their turn again");
        // A first run without success leaves nothing to skip.
        journal.close(true).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "");
    }

    #[test]
    fn a_full_journal_is_of_a_round_that_has_ended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        fs::write(&path, "a\nb\ngone\n").unwrap();
        let mut journal = Journal::open(&path).unwrap();
        journal.resume([&name("a"), &name("b")]).unwrap();
        assert!(!journal.has(&name("a")) && !journal.has(&name("b")));
        journal.note(&name("b")).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "b\n");
    }

    #[test]
    fn what_is_no_file_is_neither_used_nor_removed() {
        let folder = tempfile::tempdir().unwrap();
        let [target, link] = ["target", "link"].map(|name| folder.path().join(name));
        fs::write(&target, "a\n").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        for path in [link.as_path(), Path::new("/dev/null"), folder.path()] {
            let error = Journal::open(path).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConfigInvalid, "{error}");
        }
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());

        // A journal that another program has replaced meanwhile is not ours to remove.
        let journal = Journal::open(&target).unwrap();
        fs::rename(&link, &target).unwrap();
        journal.close(false).unwrap();
        assert!(fs::symlink_metadata(&target).is_ok());
    }
}
