//! The installed files, as they are below `/usr`.

use std::path::Path;

use anyhow::{Context as _, Result};
use xshell::{Shell, cmd};

use super::{NAME, quiet};
use crate::run::{root, run};

/// The completion scripts: the shell, and the place where it looks for them.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "share/bash-completion/completions/kms"),
    ("fish", "share/fish/vendor_completions.d/kms.fish"),
    ("zsh", "share/zsh/vendor-completions/_kms"),
];

/// The path of the program in the units.
const PROGRAM: &str = "/usr/bin/kms";

/// Lays the files into the folder `usr`.
pub(super) fn stage(sh: &Shell, kms: &Path, usr: &Path) -> Result<()> {
    let (bin, doc) = (usr.join("bin"), usr.join("share/doc").join(NAME));
    for folder in [&bin, &doc] {
        sh.create_dir(folder)?;
    }
    let program = bin.join("kms");
    run(cmd!(sh, "strip -o {program} {kms}"))?;
    // kubectl runs the program of this name as `kubectl kms`.
    std::os::unix::fs::symlink("kms", bin.join("kubectl-kms")).context("link kubectl-kms")?;
    let manual = usr.join("share/man/man1");
    run(cmd!(sh, "{program} man --all {manual}"))?;
    for (shell, place) in COMPLETIONS {
        let script = cmd!(sh, "{program} completions {shell}").quiet().output()?.stdout;
        sh.write_file(usr.join(place), script)?;
    }
    let units = usr.join("lib/systemd/system");
    sh.create_dir(&units)?;
    for unit in sh.read_dir(root().join("deploy/systemd"))? {
        sh.copy_file(unit, &units)?;
    }
    verify_units(sh, &program, &units)?;
    for (file, name) in [("LICENSE", "copyright"), ("README.md", "README.md"), ("CHANGELOG.md", "changelog")]
    {
        sh.copy_file(root().join(file), doc.join(name))?;
    }
    run(cmd!(sh, "chmod --recursive u=rwX,go=rX {usr}"))
}

/// Has systemd read the units, if this machine has it. The program is not installed, so they get its present path.
fn verify_units(sh: &Shell, program: &Path, units: &Path) -> Result<()> {
    if cmd!(sh, "systemd-analyze --version").quiet().ignore_stdout().ignore_stderr().run().is_err() {
        eprintln!("warning: this machine has no systemd-analyze, so nothing has read the units");
        return Ok(());
    }
    let place = sh.create_temp_dir()?;
    let mut paths = Vec::new();
    for unit in sh.read_dir(units)? {
        let path = place.path().join(unit.file_name().context("a unit without a name")?);
        sh.write_file(&path, sh.read_file(&unit)?.replace(PROGRAM, &program.display().to_string()))?;
        paths.push(path);
    }
    quiet(cmd!(sh, "systemd-analyze verify --man=no {paths...}"))
}
