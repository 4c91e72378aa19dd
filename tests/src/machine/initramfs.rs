//! The file system of a guest: busybox, kernel modules, our init, and either programs of this machine with their shared
//! libraries or the tree of an image.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt as _,
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
        archive.link("bin/sh", "/harness/busybox");
        Self::with_harness(archive, folder)
    }

    /// Returns a file system with everything in `tree`, which is that of an image, and with the harness in `/harness`. All
    /// files belong to root. The kernel makes the devices, so those of the tree are left out.
    ///
    /// # Errors
    ///
    /// If a file cannot be read, or is missing in `folder`, which xtask has provisioned.
    pub fn of_image(folder: &Path, tree: &Path) -> Result<Self> {
        let mut archive = Archive::default();
        add(&mut archive, tree, tree)?;
        Self::with_harness(archive, folder)
    }

    fn with_harness(mut archive: Archive, folder: &Path) -> Result<Self> {
        archive.file("init", 0o755, INIT.as_bytes());
        archive.file("harness/busybox", 0o755, &read(&folder.join("busybox"))?);
        archive.folder("harness/bin");
        let modules = folder.join("modules");
        let mut names = Vec::new();
        for entry in fs::read_dir(&modules).with_context(|| format!("read {}", modules.display()))? {
            names.push(entry.context("read the folder of modules")?.file_name());
        }
        for name in names {
            let content = read(&modules.join(&name))?;
            archive.file(&format!("harness/modules/{}", name.to_string_lossy()), 0o644, &content);
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

/// Adds everything in `folder`, under its path below `tree`.
fn add(archive: &mut Archive, tree: &Path, folder: &Path) -> Result<()> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        paths.push(entry.with_context(|| format!("read {}", folder.display()))?.path());
    }
    paths.sort();
    for path in paths {
        let name = path.strip_prefix(tree)?.to_str().with_context(|| path.display().to_string())?;
        let about = path.symlink_metadata().with_context(|| path.display().to_string())?;
        if about.is_symlink() {
            archive.link(name, &fs::read_link(&path)?.to_string_lossy());
        } else if about.is_dir() {
            archive.folder(name);
            add(archive, tree, &path)?;
        } else if about.is_file() {
            archive.file(name, about.permissions().mode() & 0o7777, &read(&path)?);
        }
    }
    Ok(())
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
    use super::{super::cpio::tests::read as read_entries, *};

    #[test]
    fn an_image_keeps_its_links_and_modes_beside_the_harness() {
        let place = tempfile::tempdir().unwrap();
        let (harness, tree) = (place.path().join("harness"), place.path().join("tree"));
        fs::create_dir_all(harness.join("modules")).unwrap();
        fs::write(harness.join("busybox"), "harness").unwrap();
        fs::create_dir_all(tree.join("usr/bin")).unwrap();
        fs::write(tree.join("usr/bin/kms"), "kms").unwrap();
        fs::set_permissions(tree.join("usr/bin/kms"), fs::Permissions::from_mode(0o750)).unwrap();
        std::os::unix::fs::symlink("usr/bin", tree.join("bin")).unwrap();
        let _special = std::os::unix::net::UnixListener::bind(tree.join("usr/socket")).unwrap();
        let entries = read_entries(&Initramfs::of_image(&harness, &tree).unwrap().into_bytes());
        let entries: Vec<_> = entries.iter().map(|(name, mode, _)| (name.as_str(), *mode)).collect();
        let expected = [
            ("bin", 0o120_777),
            ("usr", 0o040_755),
            ("usr/bin", 0o040_755),
            ("usr/bin/kms", 0o100_750),
            ("init", 0o100_755),
            ("harness", 0o040_755),
            ("harness/busybox", 0o100_755),
            ("harness/bin", 0o040_755),
        ];
        assert_eq!(entries, expected);
    }

    #[test]
    fn a_program_brings_its_loader_and_its_libraries() {
        let found = libraries(&find_program("sh").unwrap()).unwrap();
        assert!(found.iter().any(|path| path.to_string_lossy().contains("libc.so")), "{found:?}");
        assert!(found.iter().all(|path| path.exists()), "{found:?}");
    }
}
