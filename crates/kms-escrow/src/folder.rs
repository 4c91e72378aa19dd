//! The folder of an escrow, which appears as a whole or not at all.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
};

use kms_core::{Error, Result};
use tempfile::TempDir;

use crate::{
    error::{at, not_written},
    sidecar::{DRILL, HEADERS, KEKS, SIDECAR},
};

/// The names that a folder may have to be taken for an escrow.
const FILES: [&str; 4] = [KEKS, HEADERS, SIDECAR, DRILL];

/// Whether an escrow may take the place of an earlier one.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum Overwrite {
    /// The folder must be absent or empty.
    #[default]
    Never,
    /// The folder may be an escrow, which is removed when the new one is complete.
    Escrow,
}

/// A folder under a temporary name, beside its final place. Dropping it removes the folder.
#[derive(Debug)]
pub(crate) struct Staging {
    folder: TempDir,
    target: PathBuf,
    overwrite: Overwrite,
}

impl Staging {
    /// Makes the folder.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if there is something at `target` that must not be replaced.
    pub(crate) fn beside(target: &Path, overwrite: Overwrite) -> Result<Self> {
        is_escrow(target, overwrite)?;
        let folder = temporary(parent(target)).map_err(not_written(target))?;
        Ok(Self { folder, target: target.to_owned(), overwrite })
    }

    /// The path of a file in it.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Gives the folder its final name.
    pub(crate) fn commit(self) -> Result<()> {
        let Self { folder, target, overwrite } = self;
        let failed = not_written(&target);
        sync(folder.path()).map_err(&failed)?;
        let replaced = if is_escrow(&target, overwrite)? {
            let aside = temporary(parent(&target)).map_err(&failed)?;
            fs::rename(&target, aside.path()).map_err(&failed)?;
            Some(aside)
        } else {
            None
        };
        if let Err(cause) = fs::rename(folder.path(), &target) {
            if let Some(aside) = replaced {
                // The earlier escrow goes back, and stays under its temporary name if it cannot.
                let _ignored = fs::rename(aside.keep(), &target);
            }
            return Err(failed(cause));
        }
        // The folder has its name now, so that its temporary name leads nowhere.
        let _moved = folder.keep();
        // Some file systems cannot sync a folder.
        let _ignored = sync(parent(&target));
        Ok(())
    }
}

/// Writes a document into a folder, as a whole.
pub(crate) fn write_document(path: &Path, text: &[u8]) -> Result<()> {
    let written = tempfile::Builder::new().prefix(".kms-").tempfile_in(parent(path)).and_then(|mut file| {
        file.write_all(text)?;
        file.as_file().sync_all()?;
        file.persist(path).map(|_file| ()).map_err(|error| error.error)
    });
    written.map_err(not_written(path))
}

/// Whether there is an escrow that is to be replaced. `false` if there is nothing, or an empty folder.
fn is_escrow(target: &Path, overwrite: Overwrite) -> Result<bool> {
    let refused = |why: &'static str| Err(at(target)(Error::config(why)));
    match fs::symlink_metadata(target) {
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(cause) => return Err(not_written(target)(cause)),
        Ok(found) if !found.is_dir() => {
            return refused("the escrow needs a folder, and there is something else");
        }
        Ok(_) => {}
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(target).map_err(not_written(target))? {
        names.push(entry.map_err(not_written(target))?.file_name());
    }
    if names.is_empty() {
        return Ok(false);
    }
    let known = |name: &std::ffi::OsString| FILES.iter().any(|file| name == OsStr::new(file));
    if !names.iter().all(known) {
        return refused("the folder has other files: name a folder that does not exist yet");
    }
    match overwrite {
        Overwrite::Escrow => Ok(true),
        Overwrite::Never => {
            refused("there is an escrow already: name another folder, or replace it with --overwrite")
        }
    }
}

/// The folder of a path.
fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}

/// A hidden folder that only its owner can enter.
fn temporary(folder: &Path) -> std::io::Result<TempDir> {
    tempfile::Builder::new().prefix(".kms-escrow-").tempdir_in(folder)
}

fn sync(folder: &Path) -> std::io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let names = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> =
            names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn put(target: &Path, text: &str, overwrite: Overwrite) -> Result<()> {
        let staging = Staging::beside(target, overwrite)?;
        fs::write(staging.file(SIDECAR), text).unwrap();
        staging.commit()
    }

    #[test]
    fn an_escrow_is_replaced_only_on_request_and_nothing_is_left_behind() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("escrow");
        put(&target, "1", Overwrite::Never).unwrap();
        let error = put(&target, "2", Overwrite::Never).unwrap_err();
        assert!(error.to_string().contains("--overwrite"), "{error}");
        assert_eq!(fs::read_to_string(target.join(SIDECAR)).unwrap(), "1");
        put(&target, "3", Overwrite::Escrow).unwrap();
        assert_eq!(fs::read_to_string(target.join(SIDECAR)).unwrap(), "3");
        drop(Staging::beside(&target, Overwrite::Escrow).unwrap());
        assert_eq!(names(folder.path()), ["escrow"]);
        let empty = folder.path().join("empty");
        fs::create_dir(&empty).unwrap();
        put(&empty, "4", Overwrite::Never).unwrap();
        assert_eq!(names(&empty), [SIDECAR]);
    }

    #[test]
    fn what_is_not_an_escrow_is_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let [file, other, link] = ["file", "other", "link"].map(|name| folder.path().join(name));
        fs::write(&file, "x").unwrap();
        fs::create_dir(&other).unwrap();
        for name in [SIDECAR, "thesis.txt"] {
            fs::write(other.join(name), "x").unwrap();
        }
        std::os::unix::fs::symlink(&other, &link).unwrap();
        for target in [&file, &other, &link] {
            let error = put(target, "y", Overwrite::Escrow).unwrap_err();
            assert_eq!(error.kind(), kms_core::ErrorKind::ConfigInvalid, "{error}");
        }
        assert_eq!(names(&other), [SIDECAR, "thesis.txt"]);
        assert_eq!(names(folder.path()), ["file", "link", "other"]);
    }
}
