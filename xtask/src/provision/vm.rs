//! The parts of a virtual machine: QEMU, Debian's kernel with device-mapper, busybox, cryptsetup.
//!
//! The kernel and busybox are unpacked below `target/`, never installed. The folder is created once.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use xshell::{Shell, cmd};

use super::{apt, need};
use crate::run::{run, servers_dir};

/// Debian's package that depends on its newest kernel for virtual machines.
const KERNEL: &str = "linux-image-cloud-amd64";

/// The kernel modules that the guest needs: for a disk, a network card, encrypted mappings, loop devices.
const MODULES: [&str; 9] = [
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "dm-crypt",
    "xts",
    "aesni-intel",
    "algif_skcipher",
    "af_alg",
    "loop",
];

/// The programs and files of a virtual machine.
#[derive(Debug)]
pub(crate) struct Vm {
    /// The emulator.
    pub(crate) qemu: PathBuf,
    /// A folder with `vmlinuz`, `busybox`, and `modules` in the order in which they are loaded.
    pub(crate) folder: PathBuf,
}

/// Provisions all parts.
///
/// # Errors
///
/// If this machine cannot run the guest, or if a package is missing and xtask may not install it.
pub(crate) fn vm(sh: &Shell) -> Result<Vm> {
    // The guest runs our own build of kms.
    if !cfg!(all(target_arch = "x86_64", target_os = "linux")) {
        bail!("the guest is Linux on x86_64, and runs programs of this machine");
    }
    let qemu = "qemu-system-x86_64";
    need(sh, qemu, &["--version"], &["qemu-system-x86"])?;
    super::cryptsetup(sh)?;
    // These folders are not in every user's search path.
    if !["/usr/sbin/dmsetup", "/sbin/dmsetup"].iter().any(|path| sh.path_exists(path)) {
        apt(sh, &["dmsetup"]).context("dmsetup is missing")?;
    }
    let folder = servers_dir().join("vm");
    let done = folder.join("done");
    if !done.exists() {
        let part = servers_dir().join("vm.part");
        sh.remove_path(&part)?;
        sh.create_dir(part.join("modules"))?;
        let kernel = unpack(sh, &part)?;
        sh.write_file(part.join("done"), kernel)?;
        sh.remove_path(&folder)?;
        std::fs::rename(&part, &folder).context("move the kernel into place")?;
    }
    Ok(Vm { qemu: PathBuf::from(qemu), folder })
}

/// Downloads and unpacks the packages, and copies the required files into `folder`. Returns the kernel's name.
fn unpack(sh: &Shell, folder: &Path) -> Result<String> {
    if cmd!(sh, "apt-get --version").quiet().ignore_stderr().read().is_err() {
        bail!("the guest's kernel is a Debian package, and there is no apt-get to download it");
    }
    let newest = || -> Result<Option<String>> {
        let depends =
            cmd!(sh, "apt-cache depends {KERNEL}").quiet().ignore_stderr().read().unwrap_or_default();
        let name = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: ").map(str::to_owned));
        Ok(name.filter(|name| name.starts_with("linux-image-")))
    };
    let kernel = if let Some(kernel) = newest()? {
        kernel
    } else {
        // A fresh machine has empty package lists.
        run(cmd!(sh, "apt-get update -q"))?;
        newest()?.with_context(|| format!("no apt source of this machine has {KERNEL}, Debian's kernel"))?
    };
    eprintln!("downloading {kernel} and busybox-static, once");
    let root = folder.join("unpacked");
    {
        let _folder = sh.push_dir(folder);
        let download = || run(cmd!(sh, "apt-get download -q {kernel} busybox-static"));
        // Old package lists name packages that are no longer in the archive.
        if download().is_err() {
            run(cmd!(sh, "apt-get update -q"))?;
            download()?;
        }
        for package in sh.read_dir(folder)?.iter().filter(|path| has_extension(path, "deb")) {
            run(cmd!(sh, "dpkg-deb --extract {package} {root}"))?;
            sh.remove_path(package)?;
        }
    }
    let version = kernel.trim_start_matches("linux-image-");
    sh.copy_file(root.join(format!("boot/vmlinuz-{version}")), folder.join("vmlinuz"))?;
    let busybox = [root.join("bin/busybox"), root.join("usr/bin/busybox")];
    let busybox = busybox.iter().find(|path| path.exists()).context("busybox-static has no busybox")?;
    sh.copy_file(busybox, folder.join("busybox"))?;
    let lib = [root.join("lib/modules"), root.join("usr/lib/modules")].map(|lib| lib.join(version));
    let lib = lib.iter().find(|lib| lib.exists()).with_context(|| format!("{kernel} has no modules"))?;
    super::modules::copy(sh, lib, &MODULES, &folder.join("modules"))?;
    sh.remove_path(root)?;
    Ok(version.to_owned())
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found == extension)
}
