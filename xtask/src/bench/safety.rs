//! Counts the cases of the conformance suite that every provider passes, and the kills that everything survives.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use kms_testkit::servers;
use serde_json::{Value, json};
use xshell::{Shell, cmd};

use crate::{
    crash,
    live::{Live, Needs},
    run::run,
};

/// The crates whose tests run the suite.
const PROVIDERS: [&str; 5] = ["kms-vault", "kms-k8s-secret", "kms-kmip", "kms-ibmkp", "kms-azure"];
/// The kills in each of the two classes of providers.
const KILLS: usize = 150;
/// The live tests that kill something else.
const OTHERS: [&str; 2] = [
    "migrate::every_pair_survives_kills_at_random_moments",
    "operator::no_osd_is_rotated_twice_or_forgotten_when_leaders_are_killed",
];

/// Runs the tests that count, and writes what they have counted.
pub(super) fn measure(sh: &Shell, out: &Path, short: bool) -> Result<()> {
    let folder = out.with_extension("");
    sh.remove_path(&folder)?;
    sh.create_dir(&folder)?;
    let needs = Needs { kms: true, cryptsetup: true, faketime: true, pykmip: true, ..Needs::NONE };
    let mut live = Live::start(sh, needs)?;
    live.set(servers::FIGURES, folder.clone());
    for package in PROVIDERS {
        // Some need a server, and those on doubles need none.
        run(live
            .apply(cmd!(sh, "cargo test --package {package} --test it -- --include-ignored conformance::")))?;
    }
    for test in OTHERS {
        run(live.apply(cmd!(sh, "cargo test --package kms-tests --test it -- --ignored --exact {test}")))?;
    }
    crash::kill(sh, &mut live, if short { 6 } else { KILLS }, 1, None)?;
    let lines = |name: &str| -> Result<Vec<Value>> {
        let path = folder.join(format!("{name}.jsonl"));
        let text =
            fs::read_to_string(&path).with_context(|| format!("{} was not written", path.display()))?;
        text.lines().map(|line| serde_json::from_str(line).context("what a test has counted")).collect()
    };
    let figures = json!({"conformance": lines("conformance")?, "kills": lines("kills")?});
    fs::write(out, format!("{figures:#}\n")).with_context(|| format!("write {}", out.display()))?;
    println!("written to {}", out.display());
    Ok(())
}
