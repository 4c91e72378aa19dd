//! Writes a file as a whole: the file has the old content or the new one, and never a part.
//!
//! The target is an entry of a folder that stays open. The check and the write look at this entry, not at what a link
//! in its place leads to: `/dev/stdout` is a link, and writing to it must not replace it.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use kms_core::{Error, Kek, Result};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, fchmod, open, openat, renameat, statat, unlinkat};

use crate::output::not_written;

/// Who may read a file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Readers {
    /// The owner may read the file, and no account may write it, as Rook does it.
    Owner,
    /// As the umask says.
    Umask,
}

/// The place of a file.
#[derive(Debug)]
pub(crate) struct OutputFile {
    path: PathBuf,
    folder: File,
    name: OsString,
}

impl OutputFile {
    /// Opens the folder of a file. The file itself need not exist.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if there is something else in its place: a link, a device, a pipe, a folder. `Unexpected` if the
    /// folder cannot be opened.
    pub(crate) fn at(path: &Path) -> Result<Self> {
        let refused = |why| Error::config(why).context("output", path.display().to_string());
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let Some(name) = path.file_name() else { return Err(refused("the output has no file name")) };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = open(parent.unwrap_or_else(|| Path::new(".")), flags, Mode::empty())
            .map_err(|cause| not_written(path.display().to_string(), cause.into()))?;
        let place = Self { path: path.to_owned(), folder: File::from(folder), name: name.to_owned() };
        match place.refusal() {
            Some(why) => Err(refused(why)),
            None => Ok(place),
        }
    }

    /// The folder, for a lock.
    pub(crate) fn folder(&self) -> &File {
        &self.folder
    }

    /// Returns the text of the file; `None` if it does not exist.
    pub(crate) fn read(&self) -> io::Result<Option<String>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match openat(&self.folder, &self.name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(cause) => return Err(cause.into()),
        };
        let mut text = String::new();
        (&file).read_to_string(&mut text)?;
        Ok(Some(text))
    }

    /// Replaces the file. A read-only file of an earlier run is no obstacle.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` as [`at`](Self::at); `Unexpected` if the system refuses an operation. No temporary file is left
    /// behind.
    pub(crate) fn replace(&self, bytes: &[u8], readers: Readers) -> Result<()> {
        let failed = |cause: io::Error| not_written(self.path.display().to_string(), cause);
        let temporary = Temporary::create(&self.folder, readers).map_err(failed)?;
        temporary.fill(bytes, readers).map_err(failed)?;
        if let Some(why) = self.refusal() {
            return Err(Error::config(why).context("output", self.path.display().to_string()));
        }
        temporary.rename(&self.name).map_err(failed)?;
        // Syncs the folder too, so that the name survives a power cut. Some file systems cannot sync a folder.
        let _ignored = self.folder.sync_all();
        Ok(())
    }

    /// Why the entry cannot be replaced. `None` if it is a file or does not exist.
    fn refusal(&self) -> Option<&'static str> {
        // If this lookup fails, the entry does not exist yet, or the write will fail and report it.
        let entry = statat(&self.folder, &self.name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        match FileType::from_raw_mode(entry.st_mode) {
            FileType::RegularFile => None,
            FileType::Directory => Some("the output is a folder"),
            FileType::Symlink => Some(
                "the output is a link, which is never replaced: give the path of the file that it leads to, or leave \
                 the output out to write to standard output",
            ),
            _ => Some("the output is a device or a pipe: leave it out to write to standard output"),
        }
    }
}

/// Writes a KEK to a file, without a line break, readable only by its owner.
///
/// # Errors
///
/// As [`OutputFile::at`] and [`OutputFile::replace`].
pub(crate) fn write_kek(path: &Path, kek: &Kek) -> Result<()> {
    OutputFile::at(path)?.replace(kek.expose_secret_bytes(), Readers::Owner)
}

/// A temporary file. Dropping it removes the file, unless the file was renamed to its final name.
struct Temporary<'a> {
    folder: &'a File,
    file: File,
    name: Option<String>,
}

impl<'a> Temporary<'a> {
    fn create(folder: &'a File, readers: Readers) -> io::Result<Self> {
        let random = Kek::generate().map_err(io::Error::other)?.fingerprint();
        // The name is hidden, and lacks the ending that Prometheus' node exporter reads.
        let name = format!(".kms-{random}");
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = openat(folder, &name, flags, readers.mode())?;
        Ok(Self { folder, file: File::from(file), name: Some(name) })
    }

    fn fill(&self, bytes: &[u8], readers: Readers) -> io::Result<()> {
        if readers == Readers::Owner {
            // The umask has restricted the mode of the new file.
            fchmod(&self.file, readers.mode())?;
        }
        (&self.file).write_all(bytes)?;
        self.file.sync_all()
    }

    fn rename(mut self, to: &OsString) -> io::Result<()> {
        if let Some(name) = &self.name {
            renameat(self.folder, name, self.folder, to)?;
            self.name = None;
        }
        Ok(())
    }
}

impl Readers {
    fn mode(self) -> Mode {
        Mode::from_raw_mode(if self == Self::Owner { 0o400 } else { 0o666 })
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            let _ignored = unlinkat(self.folder, name, AtFlags::empty());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{PermissionsExt as _, symlink},
    };

    use kms_core::ErrorKind;

    use super::*;

    fn write(path: &Path, text: &str) -> Result<()> {
        OutputFile::at(path)?.replace(text.as_bytes(), Readers::Owner)
    }

    fn names(folder: &Path) -> Vec<String> {
        let names = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> =
            names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn the_file_is_exact_and_only_for_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("luks_key");
        for text in ["first", "second, over one that is read-only"] {
            write(&path, text).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o400);
            assert_eq!(names(folder.path()), ["luks_key"]);
        }
    }

    #[test]
    fn what_is_no_file_is_refused_and_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let [target, link, dangling, device] =
            ["target", "link", "dangling", "device"].map(|name| folder.path().join(name));
        fs::write(&target, "old").unwrap();
        symlink(&target, &link).unwrap();
        symlink("nowhere", &dangling).unwrap();
        symlink("/dev/null", &device).unwrap();
        let own = Path::new("/proc/self/fd/0");
        for path in [&link, &dangling, &device, folder.path(), Path::new("/dev/null"), own] {
            let error = write(path, "canary").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConfigInvalid, "{}: {error}", path.display());
            assert!(!format!("{error:?}").contains("canary"));
        }
        for path in [&link, &dangling, &device] {
            assert!(fs::symlink_metadata(path).unwrap().is_symlink(), "{}", path.display());
        }
        assert_eq!(fs::read_to_string(&target).unwrap(), "old");
        assert_eq!(names(folder.path()), ["dangling", "device", "link", "target"]);
    }

    #[test]
    fn a_link_that_takes_the_place_of_the_file_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("luks_key");
        let place = OutputFile::at(&path).unwrap();
        symlink("nowhere", &path).unwrap();
        let error = place.replace(b"canary", Readers::Owner).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConfigInvalid, "{error}");
        assert_eq!(names(folder.path()), ["luks_key"]);
        assert!(fs::symlink_metadata(&path).unwrap().is_symlink());
    }

    #[test]
    fn a_failure_leaves_no_temporary_file() {
        let folder = tempfile::tempdir().unwrap();
        let error = write(&folder.path().join("no/such/folder"), "canary").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unexpected);
        // The file system refuses this name, but only at the rename.
        let long = folder.path().join("x".repeat(300));
        let error = write(&long, "canary").unwrap_err();
        assert!(!format!("{error:?}").contains("canary"));
        assert_eq!(names(folder.path()), [""; 0]);
    }
}
