//! The report of a run.

use std::{fmt, time::Duration};

use super::case_names;
use crate::ledger::Exception;

/// The outcome of a case.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Outcome {
    /// The case failed, and an exception excuses it.
    Excused {
        /// The failure.
        failure: String,
        /// The reason of the exception.
        reason: &'static str,
    },
    /// The case failed for this reason.
    Failed(String),
    /// The case passed.
    Passed,
    /// The case was skipped for this reason.
    Skipped(String),
}

/// A case and its outcome.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct CaseReport {
    /// The name of the case: a sentence.
    pub name: &'static str,
    /// The outcome.
    pub outcome: Outcome,
    /// The time that the case took.
    pub took: Duration,
}

/// The report of a run. `Display` is a table.
#[derive(Clone, Debug)]
#[must_use = "a run proves nothing unless its report is checked"]
pub struct Report {
    provider: &'static str,
    server_version: String,
    cases: Vec<CaseReport>,
    ledger: Vec<String>,
}

impl Report {
    pub(super) fn new(
        provider: &'static str,
        server_version: &str,
        mut cases: Vec<CaseReport>,
        exceptions: &[Exception],
    ) -> Self {
        let mut ledger = Vec::new();
        for exception in exceptions.iter().filter(|exception| exception.concerns(provider, server_version)) {
            let Exception { case: name, reason, .. } = *exception;
            match cases.iter_mut().find(|case| case.name == name).map(|case| &mut case.outcome) {
                Some(Outcome::Excused { .. }) => {}
                Some(outcome @ Outcome::Failed(_)) => {
                    let Outcome::Failed(failure) = outcome else { continue };
                    *outcome = Outcome::Excused { failure: std::mem::take(failure), reason };
                }
                Some(Outcome::Passed) => ledger.push(format!("{name} passes: remove its exception")),
                Some(Outcome::Skipped(_)) => ledger.push(format!("{name} is not run: remove its exception")),
                None => {
                    ledger.push(format!("there is no case {name} among the {} cases", case_names().count()))
                }
            }
        }
        Self { provider, server_version: server_version.to_owned(), cases, ledger }
    }

    /// The name of the provider.
    pub fn provider(&self) -> &'static str {
        self.provider
    }

    /// All cases, in the order in which they ran.
    pub fn cases(&self) -> &[CaseReport] {
        &self.cases
    }

    /// The names of the cases that failed without an exception.
    pub fn failed(&self) -> Vec<&'static str> {
        self.named(|outcome| matches!(outcome, Outcome::Failed(_)))
    }

    /// The names of the skipped cases.
    pub fn skipped(&self) -> Vec<&'static str> {
        self.named(|outcome| matches!(outcome, Outcome::Skipped(_)))
    }

    /// Exceptions that are wrong: their cases pass, are skipped, or do not exist.
    pub fn ledger_problems(&self) -> &[String] {
        &self.ledger
    }

    /// Whether every failure has an exception, and every exception a failure.
    pub fn is_ok(&self) -> bool {
        self.failed().is_empty() && self.ledger.is_empty()
    }

    /// Panics with a table of all cases unless the run [is ok](Self::is_ok).
    ///
    /// # Panics
    ///
    /// If the run is not ok.
    pub fn assert_ok(&self) {
        assert!(self.is_ok(), "{self}");
    }

    fn named(&self, which: impl Fn(&Outcome) -> bool) -> Vec<&'static str> {
        self.cases.iter().filter(|case| which(&case.outcome)).map(|case| case.name).collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { provider, server_version, cases, ledger } = self;
        let count = |which: fn(&Outcome) -> bool| cases.iter().filter(|case| which(&case.outcome)).count();
        write!(f, "conformance of {provider}")?;
        if !server_version.is_empty() {
            write!(f, " on version {server_version}")?;
        }
        writeln!(
            f,
            ": {} passed, {} failed, {} excused, {} skipped",
            count(|outcome| matches!(outcome, Outcome::Passed)),
            count(|outcome| matches!(outcome, Outcome::Failed(_))),
            count(|outcome| matches!(outcome, Outcome::Excused { .. })),
            count(|outcome| matches!(outcome, Outcome::Skipped(_))),
        )?;
        let width = cases.iter().map(|case| case.name.len()).max().unwrap_or_default();
        for CaseReport { name, outcome, took } in cases {
            let took = took.as_millis();
            match outcome {
                Outcome::Excused { failure, reason } => {
                    writeln!(f, "  excused {took:>6} ms  {name:width$}  {failure} ({reason})")?;
                }
                Outcome::Failed(why) => writeln!(f, "  FAILED  {took:>6} ms  {name:width$}  {why}")?,
                Outcome::Passed => writeln!(f, "  passed  {took:>6} ms  {name}")?,
                Outcome::Skipped(why) => writeln!(f, "  skipped {took:>6} ms  {name:width$}  {why}")?,
            }
        }
        for problem in ledger {
            writeln!(f, "  LEDGER  {problem}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(exceptions: &[Exception]) -> Report {
        let case = |name, outcome| CaseReport { name, outcome, took: Duration::ZERO };
        let cases = vec![
            case("a", Outcome::Passed),
            case("b", Outcome::Failed("why".to_owned())),
            case("c", Outcome::Skipped("reason".to_owned())),
        ];
        Report::new("x", "1.0", cases, exceptions)
    }

    #[test]
    fn a_failure_fails_the_run_unless_it_is_excused() {
        assert_eq!(report(&[]).failed(), ["b"]);
        assert!(!report(&[]).is_ok());
        let excused = report(&[Exception::new("x", "b", "known")]);
        assert!(excused.is_ok(), "{excused}");
        assert!(!report(&[Exception::new("y", "b", "of another provider")]).is_ok());
        assert!(!report(&[Exception::new("x", "b", "of another version").of_version("2")]).is_ok());
    }

    #[test]
    fn an_entry_whose_case_does_not_fail_fails_the_run() {
        for (case, what) in [("a", "passes"), ("c", "not run"), ("d", "there is no case")] {
            let report =
                report(&[Exception::new("x", "b", "known"), Exception::new("x", case, "not true any more")]);
            assert!(!report.is_ok());
            assert!(report.ledger_problems()[0].contains(what), "{report}");
        }
    }
}
