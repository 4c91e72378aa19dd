//! The Debian package, by `dpkg-deb`.

use std::path::Path;

use anyhow::{Context as _, Result};
use xshell::{Shell, cmd};

use super::{NAME, Profile, VERSION};
use crate::{provision, run::run};

/// Packs `root`, which has the folder `usr`, into a package in `folder`. Changes `root`.
pub(super) fn build(sh: &Shell, root: &Path, profile: Profile, epoch: &str, folder: &Path) -> Result<()> {
    let machine = cmd!(sh, "dpkg --print-architecture").quiet().read()?;
    let depends = depends(sh, &root.join("usr/bin/kms"))?;
    // Debian's policy wants manual pages and the changelog compressed.
    let doc = root.join("usr/share/doc").join(NAME);
    let pages = sh.read_dir(root.join("usr/share/man/man1"))?;
    let changelog = doc.join("changelog");
    cmd!(sh, "gzip --no-name -9 {changelog} {pages...}").quiet().run()?;
    // Settings with credentials belong here.
    let settings = root.join("etc/kms/open");
    sh.create_dir(&settings)?;
    let etc = root.join("etc/kms");
    let control = root.join("DEBIAN");
    sh.create_dir(&control)?;
    let homepage = env!("CARGO_PKG_REPOSITORY");
    sh.write_file(
        control.join("control"),
        format!(
            "Package: {NAME}
Version: {VERSION}
Architecture: {machine}
Maintainer: rook-kms ({homepage})
Depends: {depends}
Recommends: ca-certificates, cryptsetup-bin (>= 2:2.4)
Section: admin
Priority: optional
Homepage: {homepage}
Description: keys of encrypted Ceph OSDs
 kms creates the key encryption keys of encrypted Ceph OSDs, keeps them in the
 KMS that a Rook CephCluster names, opens devices with them and rotates them.
"
        ),
    )?;
    run(cmd!(sh, "chmod --recursive u=rwX,go=rX {root}"))?;
    run(cmd!(sh, "chmod --recursive u=rwX,go= {etc}"))?;
    let package = folder.join(format!("{NAME}_{VERSION}_{machine}.deb"));
    let (compression, level) = (profile.compression(), profile.level());
    // One thread, since the number of threads changes the bytes.
    run(cmd!(
        sh,
        "dpkg-deb --root-owner-group --threads-max=1 -Z{compression} -z{level} --build {root} {package}"
    )
    .env("SOURCE_DATE_EPOCH", epoch))
}

/// The packages with the libraries that the program is linked to.
fn depends(sh: &Shell, program: &Path) -> Result<String> {
    provision::need(sh, "dpkg-shlibdeps", &["--version"], &["dpkg-dev"])?;
    // It wants the source of a package around it.
    let place = sh.create_temp_dir()?;
    let source = format!("Source: {NAME}\n\nPackage: {NAME}\nArchitecture: any\n");
    sh.write_file(place.path().join("debian/control"), source)?;
    let _folder = sh.push_dir(place.path());
    let answer = cmd!(sh, "dpkg-shlibdeps -O -e{program}").read()?;
    let depends = answer.trim().strip_prefix("shlibs:Depends=").map(str::to_owned);
    depends.context("dpkg-shlibdeps names no packages")
}
