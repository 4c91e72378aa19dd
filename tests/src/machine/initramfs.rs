//! The file system of a guest: busybox, kernel modules, our init, and programs of this machine with their shared
//! libraries.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::cpio::Archive;

/// The first program of the guest. Its comments describe the commands that it accepts.
const INIT: &str = include_str!("init.sh");

/// An unfinished file system. Clone it to add files for one boot only.
#[derive(Clone, Debug)]
pub struct Initramfs {
    archive: Archive,
    libraries: BTreeSet<PathBuf>,
}

impl Initramfs {
    /// Returns a file system with busybox, the kernel's modules and our init, from the folder that xtask has provisioned.
    ///
    /// # Errors
    ///
    /// If a file is missing in the folder.
    pub fn new(folder: &Path) -> Result<Self> {
        let mut archive = Archive::default();
        for path in ["dev", "mnt", "proc", "run", "sys", "tmp"] {
            archive.folder(path);
        }
        archive.file("init", 0o755, INIT.as_bytes());
        archive.file("bin/busybox", 0o755, &read(&folder.join("busybox"))?);
        archive.link("bin/sh", "busybox");
        let modules = folder.join("modules");
        let mut names = Vec::new();
        for entry in fs::read_dir(&modules).with_context(|| format!("read {}", modules.display()))? {
            names.push(entry.context("read the folder of modules")?.file_name());
        }
        for name in names {
            let content = read(&modules.join(&name))?;
            archive.file(&format!("modules/{}", name.to_string_lossy()), 0o644, &content);
        }
        Ok(Self { archive, libraries: BTreeSet::new() })
    }

    /// Adds a program of this machine as `/sbin/NAME`, with its shared libraries.
    ///
    /// # Errors
    ///
    /// If the program cannot be read, or a library is missing.
    pub fn program(&mut self, program: &Path) -> Result<()> {
        let name = program.file_name().with_context(|| format!("{} is no program", program.display()))?;
        for library in libraries(program)? {
            if self.libraries.insert(library.clone()) {
                let path = library.to_string_lossy();
                self.archive.file(path.trim_start_matches('/'), 0o755, &read(&library)?);
            }
        }
        self.archive.file(&format!("sbin/{}", name.to_string_lossy()), 0o755, &read(program)?);
        Ok(())
    }

    /// Adds a file. Programs in `bin` are found before those in `sbin`.
    pub fn file(&mut self, path: &str, mode: u32, content: impl AsRef<[u8]>) {
        self.archive.file(path.trim_start_matches('/'), mode, content.as_ref());
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.archive.finish()
    }
}

/// Finds a program by its name in `/usr/sbin`, `/sbin`, `/usr/bin` or `/bin`.
///
/// # Errors
///
/// If there is no such program.
pub fn find_program(name: &str) -> Result<PathBuf> {
    let paths = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(|folder| Path::new(folder).join(name));
    paths.into_iter().find(|path| path.exists()).with_context(|| format!("there is no program {name}"))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("read {}", path.display()))
}

/// The shared libraries of a program, the loader among them: those that `ldd` lists with a path.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).env("LC_ALL", "C").output().context("run ldd")?;
    // `ldd` fails on a program that is linked statically; such a program needs no libraries.
    let text = String::from_utf8_lossy(&output.stdout);
    if let Some(line) = text.lines().find(|line| line.contains("not found")) {
        bail!("{} lacks a library: {}", program.display(), line.trim());
    }
    let paths = text.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    Ok(paths.map(PathBuf::from).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_brings_its_loader_and_its_libraries() {
        let found = libraries(&find_program("sh").unwrap()).unwrap();
        assert!(found.iter().any(|path| path.to_string_lossy().contains("libc.so")), "{found:?}");
        assert!(found.iter().all(|path| path.exists()), "{found:?}");
    }
}
