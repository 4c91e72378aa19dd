//! Shows on standard error how far a run over many keys is.

use std::io::{self, Write as _};

use kms_core::{Error, KeyName, Result};
use kms_migrate::Observer;
use serde::Serialize;

use crate::output::{Format, ProgressLine, Tone, chain, on_stderr};

/// How many lines a run without failures shows, about.
const LINES: usize = 10;

/// Shows each failure, and about ten lines of progress.
#[derive(Debug)]
pub(super) struct Lines {
    quiet: bool,
    format: Format,
}

/// How far a step is.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Reached {
    done: usize,
    keys: usize,
}

impl Lines {
    /// With `--quiet` shows nothing.
    pub(super) fn new(quiet: bool, format: Format) -> Self {
        Self { quiet, format }
    }
}

/// Whether a line is due after this key: about every tenth part, and at the end.
fn is_due(done: usize, total: usize) -> bool {
    let step = total.div_ceil(LINES).max(1);
    done.is_multiple_of(step) || done == total
}

/// The line of progress for programs.
pub(crate) fn json(done: usize, keys: usize) -> String {
    ProgressLine { progress: Reached { done, keys } }.json()
}

impl Observer for Lines {
    fn ended(&self, name: &KeyName, outcome: Result<&'static str, &Error>, done: usize, total: usize) {
        let mut lines = Vec::new();
        if let (Err(error), Format::Text) = (outcome, self.format) {
            lines.push(format!("{}  {name}: {}", on_stderr(Tone::Bad, "FAILED"), chain(error)));
        }
        if is_due(done, total) {
            lines.push(match self.format {
                Format::Json => json(done, total),
                Format::Text => format!("[{done}/{total}] keys"),
            });
        }
        if !self.quiet {
            for line in lines {
                // If standard error is closed, the reader does not want the line.
                let _closed = writeln!(io::stderr(), "{line}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_shows_about_ten_lines_and_the_last_key_always() {
        for (total, shown) in [(1, 1), (7, 7), (10, 10), (1000, 10), (1005, 10)] {
            let due: Vec<usize> = (1..=total).filter(|done| is_due(*done, total)).collect();
            assert_eq!((due.len(), due.last()), (shown, Some(&total)), "{total}");
        }
    }
}
