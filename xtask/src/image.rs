//! `cargo xtask image`: makes the image with kms and cryptsetup, without a daemon and without a base image.
//!
//! mmdebstrap makes a Debian tree, umoci packs it and kms as two layers, skopeo reads the result. Two runs make the same
//! digest while Debian's archive stays the same: every time is that of the commit.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::Args;
use xshell::{Shell, cmd};

use crate::{
    dist::{self, Profile, Source},
    provision::{debian, need, target_dir},
    run::{Steps, run},
};

/// The user of the image. Jobs that open devices say themselves that they are root.
const USER: &str = "65532:65532";

/// The program in the image.
const PROGRAM: &str = "/usr/local/bin/kms";

/// Where the image looks for programs. A pod names `kms` without a path.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Make the image with kms and cryptsetup without a container engine, as an OCI layout in target/image
#[derive(Args, Debug)]
pub(crate) struct Image {
    /// How to build kms
    #[arg(long, value_enum, default_value_t = Profile::Release)]
    profile: Profile,
    /// Make the image twice, and fail if the digests differ
    #[arg(long)]
    twice: bool,
}

impl Image {
    pub(crate) fn run(self, sh: &Shell) -> Result<()> {
        tools(sh)?;
        let source = Source::of_commit(sh)?;
        let kms = self.profile.build(sh, &source)?;
        let layout = target_dir(sh).join("image");
        let make = || make(sh, self.profile, &kms, &source, &layout);
        let digest = make()?;
        if self.twice {
            let second = make()?;
            if second != digest {
                bail!("the digests of two runs differ: {digest} and {second}");
            }
        }
        println!("oci:{}:{VERSION} {digest}", layout.display());
        Ok(())
    }
}

/// Makes the image of this development build twice as a step of the tests. Skips it if this machine cannot make an image.
pub(crate) fn step(sh: &Shell, steps: &mut Steps) -> Result<()> {
    const NAME: &str = "test: the image has the same digest twice";
    if let Err(error) = tools(sh).and_then(|()| debian::kept(sh)) {
        steps.skip(NAME, &format!("{error:#}"));
        return Ok(());
    }
    steps.step(NAME, || Image { profile: Profile::Dev, twice: true }.run(sh))
}

/// Makes the image of this development build in the empty folder `place`, and returns its unpacked root. Debian's tree is that
/// of the first run.
pub(crate) fn unpacked(sh: &Shell, kms: &Path, place: &Path) -> Result<PathBuf> {
    tools(sh)?;
    let (debian, layout) = (debian::kept(sh)?, place.join("layout"));
    let image = pack(sh, Profile::Dev, kms, &Source::of_commit(sh)?, &debian, &layout)?;
    let root = unpack(sh, &image, &place.join("bundle"))?;
    sh.remove_path(layout)?;
    Ok(root)
}

/// Makes the image as the folder `layout`, runs kms in it, and returns its digest.
fn make(sh: &Shell, profile: Profile, kms: &Path, source: &Source, layout: &Path) -> Result<String> {
    let place = sh.create_temp_dir()?;
    let debian = place.path().join("debian.tar");
    debian::tree(sh, &source.epoch, &debian)?;
    let image = pack(sh, profile, kms, source, &debian, layout)?;
    check(sh, &image)?;
    let digest = "{{.Digest}}";
    Ok(cmd!(sh, "skopeo inspect --format {digest} oci:{image}").read()?)
}

/// Finds the programs that pack and read an image.
fn tools(sh: &Shell) -> Result<()> {
    ["umoci", "skopeo"].into_iter().try_for_each(|program| need(sh, program, &["--version"], &[program]))
}

/// Packs Debian's tree and kms as the folder `layout`, and returns the name that umoci has for the image.
fn pack(
    sh: &Shell,
    profile: Profile,
    kms: &Path,
    source: &Source,
    debian: &Path,
    layout: &Path,
) -> Result<String> {
    let place = sh.create_temp_dir()?;
    let place = place.path();
    let Source { commit, epoch } = source;
    let ours = place.join("kms.tar");
    program(sh, profile, kms, &place.join("kms"))?;
    dist::tar(sh, &place.join("kms"), ".", epoch, &ours)?;
    sh.remove_path(layout)?;
    let image = format!("{}:{VERSION}", layout.display());
    run(cmd!(sh, "umoci init --layout {layout}"))?;
    run(cmd!(sh, "umoci new --image {image}"))?;
    let created = cmd!(sh, "date --utc --date=@{epoch} +%Y-%m-%dT%H:%M:%SZ").quiet().read()?;
    for (layer, by) in [(debian, "mmdebstrap"), (&ours, "cargo xtask image")] {
        run(cmd!(
            sh,
            "umoci raw add-layer --image {image} --history.created {created} --history.created_by {by} {layer}"
        ))?;
    }
    let labels = [
        ("title", "rook-kms"),
        ("version", VERSION),
        ("revision", commit),
        ("source", env!("CARGO_PKG_REPOSITORY")),
        ("licenses", env!("CARGO_PKG_LICENSE")),
    ];
    let labels =
        labels.map(|(name, value)| format!("--config.label=org.opencontainers.image.{name}={value}"));
    run(cmd!(
        sh,
        "umoci config --no-history --image {image} --created {created} --os linux --config.user {USER}
        --config.entrypoint {PROGRAM} --config.workingdir / --config.env {PATH} {labels...}"
    ))?;
    // Removes what the steps have left behind.
    run(cmd!(sh, "umoci gc --layout {layout}"))?;
    Ok(image)
}

/// Unpacks the image into the folder `bundle`, and returns the folder with its root. Only root can give files to other users.
fn unpack(sh: &Shell, image: &str, bundle: &Path) -> Result<PathBuf> {
    let rootless = (!rustix::process::geteuid().is_root()).then_some("--rootless");
    let rootless = rootless.as_slice();
    run(cmd!(sh, "umoci unpack {rootless...} --image {image} {bundle}"))?;
    Ok(bundle.join("rootfs"))
}

/// Lays kms, its licence and its bill of materials into the folder `root`.
fn program(sh: &Shell, profile: Profile, kms: &Path, root: &Path) -> Result<()> {
    let program = root.join(PROGRAM.trim_start_matches('/'));
    let doc = root.join("usr/share/doc/rook-kms");
    for folder in [program.parent().unwrap_or(root), &doc] {
        sh.create_dir(folder)?;
    }
    run(cmd!(sh, "strip -o {program} {kms}"))?;
    sh.copy_file("LICENSE", doc.join("copyright"))?;
    profile.materials(sh, kms, &doc.join("sbom.cdx.json"))
}

/// Unpacks the image and runs kms in it, which says its version and which cryptsetup it finds.
fn check(sh: &Shell, image: &str) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("warning: only root can run kms in the image, so nothing has");
        return Ok(());
    }
    let place = sh.create_temp_dir()?;
    let root = unpack(sh, image, &place.path().join("bundle"))?;
    let said = cmd!(sh, "chroot --userspec={USER} {root} {PROGRAM} version -v").read()?;
    eprintln!("{said}");
    if !said.contains(&format!("kms {VERSION}")) || !said.contains("\ncryptsetup  2.") {
        bail!("kms does not run in the image, or finds no cryptsetup");
    }
    Ok(())
}
