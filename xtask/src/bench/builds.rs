//! Measures release builds of `kms` with each provider alone, from nothing.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike as _,
};
use serde_json::json;
use xshell::{Shell, cmd};

use crate::{provision, run::run};

/// The sets of features that are built.
const SETS: [&str; 6] = ["k8s-secret", "vault", "ibmkp", "azure", "kmip", "all-providers"];

/// Builds each set in a folder of its own, which is removed afterwards.
pub(super) fn measure(sh: &Shell, out: &Path) -> Result<()> {
    let target = provision::target_dir(sh).join("bench-builds");
    let mut rows = Vec::new();
    for features in SETS {
        if target.exists() {
            fs::remove_dir_all(&target)?;
        }
        let tree = cmd!(
            sh,
            "cargo tree --package kms-cli --no-default-features --features {features} --edges normal --prefix none"
        );
        let tree = tree.quiet().read()?;
        let mut crates: Vec<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
        crates.sort_unstable();
        crates.dedup();
        // What cargo downloads first is not part of the figure.
        run(cmd!(sh, "cargo fetch --locked"))?;
        let before = cpu_seconds()?;
        run(cmd!(
            sh,
            "cargo build --release --package kms-cli --no-default-features --features {features} --target-dir {target}"
        ))?;
        let seconds = cpu_seconds()? - before;
        let bytes = fs::metadata(target.join("release/kms")).context("look at kms")?.len();
        println!("{features:14} {:4} crates {seconds:7.1} s of CPU {bytes:10} bytes", crates.len());
        rows.push(
            json!({"features": features, "crates": crates.len(), "cpu_seconds": seconds, "bytes": bytes}),
        );
        // A run that is cut off keeps the sets that it has built.
        fs::write(out, format!("{:#}\n", json!({"rows": rows})))
            .with_context(|| out.display().to_string())?;
    }
    fs::remove_dir_all(&target).map_err(Into::into)
}

/// The CPU time of all ended children of this program so far, in seconds. Unlike the time that passes, it hardly depends on
/// what else the machine does.
fn cpu_seconds() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    #[expect(clippy::cast_precision_loss, reason = "for people to read")]
    let milliseconds = (usage.user_time() + usage.system_time()).num_milliseconds() as f64;
    Ok(milliseconds / 1000.0)
}
