//! `cargo xtask dist`: makes the files of a release in `target/dist`.
//!
//! Two runs on one machine make the same bytes: every time in an archive is that of the commit, owners are numbers, names
//! are sorted.

mod deb;
mod tree;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use sha2::{Digest as _, Sha256};
use xshell::{Cmd, Shell, cmd};

use crate::{
    provision::{self, target_dir},
    run::{root, run},
};

/// The name of the package and of the archives.
const NAME: &str = "rook-kms";

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Make the files of a release: archive, Debian package, chart, manifests, bill of materials, checksums
#[derive(Args, Debug)]
pub(crate) struct Dist {
    /// How to build kms
    #[arg(long, value_enum, default_value_t = Profile::Release)]
    profile: Profile,
}

/// How kms is built.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Profile {
    /// As `cargo build` does, without a list of dependencies in the program, for a look at the files
    Dev,
    /// As it is released
    Release,
}

impl Dist {
    pub(crate) fn run(self, sh: &Shell) -> Result<()> {
        let source = Source::of_commit(sh)?;
        let kms = self.profile.build(sh, &source)?;
        let folder = target_dir(sh).join("dist");
        let release = Release { sh, kms: &kms, source: &source, profile: self.profile };
        release.make(&folder)?;
        print!("{}", sh.read_file(folder.join(SUMS))?);
        Ok(())
    }
}

impl Profile {
    /// Builds kms.
    pub(crate) fn build(self, sh: &Shell, source: &Source) -> Result<PathBuf> {
        if self == Self::Dev { provision::kms_dev(sh) } else { release(sh, source) }
    }

    /// Writes the bill of materials of a release, which is the list of dependencies in the program, in the form of CycloneDX.
    pub(crate) fn materials(self, sh: &Shell, kms: &Path, to: &Path) -> Result<()> {
        const AUDITABLE2CDX: &str = "0.1.0";
        if self == Self::Release {
            let convert = provision::cargo_tool(sh, "auditable2cdx", AUDITABLE2CDX)?;
            sh.write_file(to, cmd!(sh, "{convert} {kms}").quiet().output()?.stdout)?;
        }
        Ok(())
    }

    /// The level of compression.
    fn level(self) -> &'static str {
        if self == Self::Dev { "1" } else { "9" }
    }

    /// The compression of the Debian package.
    fn compression(self) -> &'static str {
        if self == Self::Dev { "gzip" } else { "xz" }
    }
}

/// Builds kms as it is released, with the list of its dependencies inside, which `cargo audit bin` and scanners read.
fn release(sh: &Shell, source: &Source) -> Result<PathBuf> {
    const CARGO_AUDITABLE: &str = "0.7.7";
    let auditable = provision::cargo_tool(sh, "cargo-auditable", CARGO_AUDITABLE)?;
    run(cmd!(sh, "{auditable} auditable build --locked --release --package kms-cli")
        .env("KMS_COMMIT", &source.commit)
        .env("SOURCE_DATE_EPOCH", &source.epoch))?;
    Ok(target_dir(sh).join("release/kms"))
}

/// What a release is made of.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) commit: String,
    /// The time of the commit, in seconds since 1970.
    pub(crate) epoch: String,
}

impl Source {
    pub(crate) fn of_commit(sh: &Shell) -> Result<Self> {
        let text = cmd!(sh, "git log -1 --format=%H/%ct").quiet().read()?;
        let (commit, epoch) = text.split_once('/').context("git names no commit")?;
        if !cmd!(sh, "git status --porcelain --untracked-files=no").quiet().read()?.is_empty() {
            eprintln!("warning: files differ from the commit {commit}, whose name and time the release has");
        }
        Ok(Self { commit: commit.to_owned(), epoch: epoch.to_owned() })
    }
}

const SUMS: &str = "SHA256SUMS";

/// A release that is being made.
struct Release<'a> {
    sh: &'a Shell,
    kms: &'a Path,
    source: &'a Source,
    profile: Profile,
}

impl Release<'_> {
    /// Makes all files in `folder`, which is emptied first.
    fn make(&self, folder: &Path) -> Result<()> {
        let sh = self.sh;
        sh.remove_path(folder)?;
        sh.create_dir(folder)?;
        let place = sh.create_temp_dir()?;
        let usr = place.path().join("usr");
        tree::stage(sh, self.kms, &usr)?;
        let machine = format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS);
        self.archive(
            &usr,
            &format!("{NAME}-{VERSION}"),
            &folder.join(format!("{NAME}-{VERSION}-{machine}.tar.gz")),
        )?;
        let deploy = root().join("deploy");
        let chart = deploy.join("helm/kms-operator");
        self.archive(&chart, "kms-operator", &folder.join(format!("kms-operator-{VERSION}.tgz")))?;
        self.archive(
            &deploy,
            &format!("{NAME}-deploy"),
            &folder.join(format!("{NAME}-deploy-{VERSION}.tar.gz")),
        )?;
        deb::build(sh, place.path(), self.profile, &self.source.epoch, folder)?;
        self.profile.materials(sh, self.kms, &folder.join(format!("{NAME}-{VERSION}.cdx.json")))?;
        sh.write_file(folder.join(SUMS), sums(sh, folder)?)?;
        Ok(())
    }

    /// Packs a folder under the name `inside`.
    fn archive(&self, from: &Path, inside: &str, to: &Path) -> Result<()> {
        let Self { sh, source, profile, .. } = self;
        let (part, level) = (to.with_extension("part"), profile.level());
        tar(sh, from, inside, &source.epoch, &part)?;
        let packed = cmd!(sh, "gzip --no-name -{level} --stdout {part}").output()?.stdout;
        sh.write_file(to, packed)?;
        sh.remove_path(part)?;
        Ok(())
    }
}

/// Packs a folder under the name `inside`, without compression.
pub(crate) fn tar(sh: &Shell, from: &Path, inside: &str, epoch: &str, to: &Path) -> Result<()> {
    let name = format!("s,^\\.,{inside},SH");
    run(cmd!(
        sh,
        "tar --create --file {to} --directory {from} --transform {name} --sort=name --format=ustar --owner=0 --group=0
        --numeric-owner --mode=u=rwX,go=rX --mtime=@{epoch} ."
    ))
}

/// The checksums of the files in a folder, as `sha256sum --check` reads them.
fn sums(sh: &Shell, folder: &Path) -> Result<String> {
    let mut text = String::new();
    for path in sh.read_dir(folder)? {
        let sum: String =
            Sha256::digest(sh.read_binary_file(&path)?).iter().map(|byte| format!("{byte:02x}")).collect();
        let name = path.file_name().and_then(|name| name.to_str()).context("a file without a name")?;
        text.push_str(&format!("{sum}  {name}\n"));
    }
    Ok(text)
}

/// Runs a program, and fails if it says anything.
fn quiet(command: Cmd<'_>) -> Result<()> {
    let text = command.to_string();
    let output = command.ignore_status().output()?;
    let said = [output.stdout, output.stderr].concat();
    if !output.status.success() || !said.is_empty() {
        bail!("{text}: {}: {}", output.status, String::from_utf8_lossy(&said));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use kms_testkit::servers;

    use super::*;

    #[test]
    #[ignore = "needs kms, Helm's libraries, dpkg-deb and GNU tar: cargo xtask it operator"]
    fn two_runs_make_the_same_files_which_people_can_use() {
        let sh = Shell::new().unwrap();
        sh.change_dir(root());
        let kms = servers::setting(servers::KMS).unwrap();
        let source = Source::of_commit(&sh).unwrap();
        let release = Release { sh: &sh, kms: &kms, source: &source, profile: Profile::Dev };
        let (one, two) = (sh.create_temp_dir().unwrap(), sh.create_temp_dir().unwrap());
        let (one, two) = (one.path().join("dist"), two.path().join("dist"));
        release.make(&one).unwrap();
        release.make(&two).unwrap();
        let sums = sh.read_file(one.join(SUMS)).unwrap();
        assert_eq!(sums, sh.read_file(two.join(SUMS)).unwrap());
        let _folder = sh.push_dir(&one);
        cmd!(sh, "sha256sum --check --strict --quiet {SUMS}").run().unwrap();

        let chart = format!("kms-operator-{VERSION}.tgz");
        let go = servers::setting("KMS_IT_GO_INSTALL").unwrap();
        let values = r#"{"image": "mirror.example.com/kms:v9"}"#;
        let objects = cmd!(sh, "{go} helm {chart} storage {values}").read().unwrap();
        assert!(objects.contains("image: \"mirror.example.com/kms:v9\""), "{objects}");

        let package = sh.read_dir(".").unwrap();
        let package = package.iter().find(|path| path.extension().is_some_and(|end| end == "deb")).unwrap();
        let field = |field: &str| cmd!(sh, "dpkg-deb --field {package} {field}").read().unwrap();
        assert_eq!((field("Package"), field("Version")), (NAME.to_owned(), VERSION.to_owned()));
        assert!(field("Depends").contains("libc6 (>= "), "{}", field("Depends"));
        let root = sh.create_temp_dir().unwrap();
        let root = root.path();
        cmd!(sh, "dpkg-deb --extract {package} {root}").run().unwrap();
        let said = cmd!(sh, "{root}/usr/bin/kubectl-kms version").read().unwrap();
        assert_eq!(said, format!("kms {VERSION}"));
        for path in [
            "usr/share/man/man1/kms-open.1.gz",
            "usr/share/bash-completion/completions/kms",
            "usr/share/zsh/vendor-completions/_kms",
            "usr/share/fish/vendor_completions.d/kms.fish",
            "usr/lib/systemd/system/kms-open@.service",
            "usr/lib/systemd/system/kms-rotate.service",
            "usr/lib/systemd/system/kms-rotate.timer",
            "usr/share/doc/rook-kms/copyright",
        ] {
            assert!(root.join(path).metadata().unwrap().len() > 100, "{path}");
        }
    }
}
