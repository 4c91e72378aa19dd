//! What tests count, for the page of figures: `cargo xtask bench safety` hands a folder over, and other runs keep nothing.

use std::{fs::File, io::Write as _};

use kms_conformance::{Outcome, Report};
use serde_json::{Value, json};

use crate::servers::{FIGURES, optional_setting};

/// Panics unless the report is ok, and keeps its counts.
///
/// # Panics
///
/// If a case failed, or an exception is wrong.
pub fn passed(report: &Report) {
    report.assert_ok();
    let count =
        |which: fn(&Outcome) -> bool| report.cases().iter().filter(|case| which(&case.outcome)).count();
    keep(
        "conformance",
        &json!({
            "provider": report.provider(),
            "passed": count(|outcome| matches!(outcome, Outcome::Passed)),
            "excused": count(|outcome| matches!(outcome, Outcome::Excused { .. })),
            "skipped": count(|outcome| matches!(outcome, Outcome::Skipped(_))),
        }),
    );
}

/// Keeps that this was killed so often, and that every check afterwards held.
///
/// # Panics
///
/// If the file cannot be written.
pub fn survived(what: &str, kills: usize) {
    keep("kills", &json!({"what": what, "kills": kills}));
}

/// Adds a line to a file of the folder.
fn keep(name: &str, line: &Value) {
    let Some(folder) = optional_setting(FIGURES) else { return };
    let path = folder.join(format!("{name}.jsonl"));
    let file = File::options().create(true).append(true).open(&path);
    // One write, so that lines of tests that run beside each other stay whole.
    file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()))
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
