//! Writes a KEK to a file.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use kms_core::{Error, Kek, Result};

use crate::output::not_written;

/// The owner may read the file, and no account may write it, as Rook does it.
const MODE: u32 = 0o400;

/// Writes the KEK to a file, without a line break.
///
/// Writes a temporary file beside the target and renames it. So the target is always whole or untouched, and a
/// read-only target of an earlier run is no obstacle.
/// If the target is a symbolic link, the file replaces the link; the file that the link points to stays unchanged.
/// If the target, or the file that the link points to, is not a regular file (a device, a pipe, a folder), the write
/// fails.
///
/// # Errors
///
/// `ConfigInvalid` if the target is not a regular file; `PermissionDenied` or `Unexpected` if the system refuses an
/// operation. No temporary file is left behind.
pub(crate) fn write(path: &Path, kek: &Kek) -> Result<()> {
    if let Some(refusal) = refusal(path) {
        return Err(Error::config(refusal).context("output", path.display().to_string()));
    }
    write_and_rename(path, kek.expose_secret().as_bytes())
        .map_err(|cause| not_written(path.display().to_string(), cause))
}

fn refusal(path: &Path) -> Option<&'static str> {
    // If this lookup fails, the target does not exist yet, or the write will fail and report it.
    let target = fs::metadata(path).ok()?;
    if target.is_dir() {
        return Some("the output is a folder");
    }
    (!target.is_file())
        .then_some("the output is a device or a pipe: leave it out to write to standard output")
}

fn write_and_rename(path: &Path, text: &[u8]) -> io::Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if path.file_name().is_none() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it has no file name"));
    }
    let mut temporary = Temporary::create(folder)?;
    temporary.fill(text)?;
    fs::rename(&temporary.path, path)?;
    temporary.renamed = true;
    // Syncs the folder too, so that the name survives a power cut. Some file systems cannot sync a folder.
    let _ignored = File::open(folder).and_then(|folder| folder.sync_all());
    Ok(())
}

/// A temporary file. Dropping it removes the file, unless the file was renamed to its final name.
struct Temporary {
    file: File,
    path: PathBuf,
    renamed: bool,
}

impl Temporary {
    fn create(folder: &Path) -> io::Result<Self> {
        let random = Kek::generate().map_err(io::Error::other)?.fingerprint();
        let path = folder.join(format!(".kms-{random}"));
        let file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(&path)?;
        Ok(Self { file, path, renamed: false })
    }

    fn fill(&self, text: &[u8]) -> io::Result<()> {
        // The umask has restricted the mode above.
        self.file.set_permissions(Permissions::from_mode(MODE))?;
        (&self.file).write_all(text)?;
        self.file.sync_all()
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.renamed {
            let _ignored = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use kms_core::ErrorKind;

    use super::*;

    fn kek(text: &str) -> Kek {
        Kek::parse(text).unwrap()
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
            write(&path, &kek(text)).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o400);
            assert_eq!(names(folder.path()), ["luks_key"]);
        }
    }

    #[test]
    fn a_link_is_replaced_and_its_target_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (target, link) = (folder.path().join("target"), folder.path().join("link"));
        fs::write(&target, "old").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        write(&link, &kek("new")).unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "old");
        assert!(fs::symlink_metadata(&link).unwrap().is_file());
        assert_eq!(fs::read_to_string(&link).unwrap(), "new");

        let dangling = folder.path().join("dangling");
        std::os::unix::fs::symlink("nowhere", &dangling).unwrap();
        write(&dangling, &kek("new")).unwrap();
        assert_eq!(names(folder.path()), ["dangling", "link", "target"]);
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("/dev/null", &link).unwrap();
        for path in [folder.path(), Path::new("/dev/null"), &link] {
            let error = write(path, &kek("canary")).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConfigInvalid, "{error}");
        }
        assert_eq!(names(folder.path()), ["link"]);
    }

    #[test]
    fn a_failure_leaves_no_temporary_file() {
        let folder = tempfile::tempdir().unwrap();
        let error = write(&folder.path().join("no/such/folder"), &kek("canary")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unexpected);
        // The file system refuses this name, but only at the rename.
        let long = folder.path().join("x".repeat(300));
        let error = write(&long, &kek("canary")).unwrap_err();
        assert!(!format!("{error:?}").contains("canary"));
        assert_eq!(names(folder.path()), [""; 0]);
    }
}
