//! A Debian tree with cryptsetup, by mmdebstrap: the lower layer of the image.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use xshell::{Shell, cmd};

use super::need;
use crate::run::{run, servers_dir};

/// The packages beside the essential ones: the program that works on LUKS devices, and the roots of public certificates.
const PACKAGES: &str = "ca-certificates,cryptsetup-bin";

/// Files that the image does without. The copyrights stay.
const EXCLUDED: [&str; 6] = [
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/lintian/*",
];

/// Files that differ from run to run. mmdebstrap removes the lists and packages of apt itself.
const REMOVED: &str = "rm -rf \"$1\"/var/log/* \"$1\"/var/cache/* \"$1\"/etc/*- \"$1\"/var/lib/dpkg/*-old";

/// The time of the files in a tree that is kept.
const KEPT_EPOCH: &str = "1767225600";

/// Makes the Debian tree of this machine's own release, so that kms finds the libc that it was linked to.
pub(crate) fn tree(sh: &Shell, epoch: &str, tar: &Path) -> Result<()> {
    need(sh, "mmdebstrap", &["--version"], &["mmdebstrap"])?;
    let suite = suite(sh)?;
    let excluded = EXCLUDED.map(|option| format!("--dpkgopt={option}"));
    run(cmd!(
        sh,
        "mmdebstrap --quiet --variant=essential --format=tar --include={PACKAGES} {excluded...}
        --customize-hook={REMOVED} {suite} {tar}"
    )
    .env("SOURCE_DATE_EPOCH", epoch))
}

/// The tree for tests, which is made once and again when something about it changes here.
pub(crate) fn kept(sh: &Shell) -> Result<PathBuf> {
    let folder = servers_dir().join("debian");
    let (tar, done) = (folder.join("debian.tar"), folder.join("done"));
    let about = format!("{}\n{PACKAGES}\n{EXCLUDED:?}\n{REMOVED}\n", suite(sh)?);
    if sh.read_file(&done).is_ok_and(|found| found == about) {
        return Ok(tar);
    }
    eprintln!("downloading a Debian tree, half a minute, once");
    sh.remove_path(&folder)?;
    sh.create_dir(&folder)?;
    tree(sh, KEPT_EPOCH, &tar)?;
    sh.write_file(done, about)?;
    Ok(tar)
}

/// The name of this machine's release of Debian.
fn suite(sh: &Shell) -> Result<String> {
    let about = sh.read_file("/etc/os-release")?;
    let suite = about.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    suite
        .map(str::to_owned)
        .context("this machine runs no release of Debian, so there is no tree that fits its libc")
}
