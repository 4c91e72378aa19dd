//! What `kms doctor` reports, as tests name it.

use serde_json::Value;

/// A finding that is not `ok`.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[expect(clippy::exhaustive_structs, reason = "these are the columns of a report")]
pub struct Finding {
    /// The code of the check.
    pub code: String,
    /// `error`, `warning` or `not-checked`.
    pub state: String,
    /// The object; the code of the reason if it was not checked.
    pub object: String,
    /// The next command; empty if it was not checked.
    pub next: String,
}

/// A finding that a test expects in a report. A test of `kms` reads the sources for calls of this function, and fails for a
/// code that no call names: write the code as a literal.
///
/// # Panics
///
/// If `state` is neither `error` nor `warning`.
#[must_use]
pub fn finding(code: &str, state: &str, object: &str, next: impl Into<String>) -> Finding {
    assert!(["error", "warning"].contains(&state), "{state} is not the state of a finding");
    Finding { code: code.to_owned(), state: state.to_owned(), object: object.to_owned(), next: next.into() }
}

/// The checks that were not made because of `code`, as a test expects them in a report.
#[must_use]
pub fn because(code: &str, checks: &[&str]) -> Vec<Finding> {
    let not_checked = |check: &&str| Finding {
        code: (*check).to_owned(),
        state: "not-checked".to_owned(),
        object: code.to_owned(),
        next: String::new(),
    };
    checks.iter().map(not_checked).collect()
}

/// What is not in order in a report, and what was not checked.
///
/// # Panics
///
/// If the document is not a report.
#[must_use]
pub fn found(report: &Value) -> Vec<Finding> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let findings = report["findings"].as_array().expect("findings").iter();
    findings
        .filter(|finding| finding["state"] != "ok")
        .map(|finding| {
            let object =
                if finding["state"] == "not-checked" { &finding["because"] } else { &finding["object"] };
            Finding {
                code: text(&finding["code"]),
                state: text(&finding["state"]),
                object: text(object),
                next: text(&finding["next"]),
            }
        })
        .collect()
}

/// What is not in order in a report, without what was not checked.
///
/// # Panics
///
/// If the document is not a report.
#[must_use]
pub fn wrong(report: &Value) -> Vec<Finding> {
    found(report).into_iter().filter(|finding| finding.state != "not-checked").collect()
}
