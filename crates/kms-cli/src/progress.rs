//! Shows on standard error how far a run over many things is: a bar on a terminal, lines elsewhere.

use std::{
    fmt,
    io::{self, Write as _},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

/// How many lines a run shows where there is no terminal, about.
const LINES: usize = 10;
/// How often the estimate is drawn anew while nothing ends.
const TICK: Duration = Duration::from_secs(1);
/// No colours, so that `NO_COLOR` needs no other bar.
const TEMPLATE: &str = "{msg} [{bar:30}] {pos}/{len}  {per_sec}  {eta} left";

/// The bar that is on the terminal. Standard error belongs to the whole process, and so does its bar.
static BAR: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// Who reads the progress.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Audience {
    None,
    People,
    Programs,
}

/// A line on standard error that shows to programs how far a run is.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct ProgressLine<T> {
    pub(crate) progress: T,
}

impl<T: Serialize> ProgressLine<T> {
    /// One line of JSON, as `docs/json-output.md` describes it.
    pub(crate) fn json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// Shows how far a run is. Dropping it removes the bar.
#[derive(Debug)]
pub(crate) struct Progress(Audience);

impl Progress {
    /// Shows it to people as a bar or lines, to programs as documents.
    pub(crate) fn to(audience: Audience) -> Self {
        Self(audience)
    }

    /// Shows on a terminal that `done` of `total` things have ended. Returns whether there is a terminal.
    ///
    /// The first call begins the bar; a call with another `what` or `total` begins a new one. The last end removes it.
    pub(crate) fn bar(&self, what: &'static str, done: usize, total: usize) -> bool {
        self.is_for_people() && {
            let mut shown = BAR.lock().unwrap_or_else(PoisonError::into_inner);
            let same = |bar: &&ProgressBar| bar.message() == what && bar.length() == Some(count(total));
            let bar = match shown.as_ref().filter(same) {
                Some(bar) => bar,
                None => {
                    clear(&mut shown);
                    shown.insert(begin(what, done, total))
                }
            };
            bar.set_position(count(done));
            let is_shown = !bar.is_hidden();
            if done == total {
                clear(&mut shown);
            }
            is_shown
        }
    }

    /// Shows that `done` of `total` things have ended: on the bar, or where there is no terminal on one of about ten lines.
    pub(crate) fn reached(&self, what: &'static str, done: usize, total: usize) {
        if !self.bar(what, done, total) && is_due(done, total) {
            self.line(format_args!("[{done}/{total}] {what}"));
        }
    }

    /// Shows a line for people, above the bar.
    pub(crate) fn line(&self, line: impl fmt::Display) {
        if self.is_for_people() {
            write_line(line);
        }
    }

    /// Shows a document for programs, on one line.
    pub(crate) fn document(&self, progress: &impl Serialize) {
        if self.0 == Audience::Programs {
            write_line(ProgressLine { progress }.json());
        }
    }

    fn is_for_people(&self) -> bool {
        self.0 == Audience::People
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        clear(&mut BAR.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// A bar on standard error; hidden if that is not a terminal, or one that cannot move its cursor.
fn begin(what: &'static str, done: usize, total: usize) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(count(total)), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.set_style(style.progress_chars("=> "));
    bar.set_message(what);
    // What an earlier run has done says nothing about the rate of this one.
    let bar = bar.with_position(count(done));
    bar.reset_eta();
    if !bar.is_hidden() {
        bar.enable_steady_tick(TICK);
    }
    bar
}

fn clear(shown: &mut Option<ProgressBar>) {
    if let Some(bar) = shown.take() {
        bar.finish_and_clear();
    }
}

fn count(things: usize) -> u64 {
    u64::try_from(things).unwrap_or(u64::MAX)
}

/// Whether a line is due when so many have ended: about every tenth part, and at the end.
pub(crate) fn is_due(done: usize, total: usize) -> bool {
    let step = total.div_ceil(LINES).max(1);
    done.is_multiple_of(step) || done == total
}

/// Runs `write`, which writes to standard error, while the bar is not there.
pub(crate) fn beside_bar<R>(write: impl FnOnce() -> R) -> R {
    let bar = BAR.lock().unwrap_or_else(PoisonError::into_inner).clone();
    match bar {
        Some(bar) => bar.suspend(write),
        None => write(),
    }
}

/// Writes a line to standard error, above the bar.
pub(crate) fn write_line(line: impl fmt::Display) {
    // If standard error is closed, the reader does not want the line.
    let _closed = beside_bar(|| writeln!(io::stderr(), "{line}"));
}

/// Standard error for the log: a message stands above the bar.
pub(crate) struct Log;

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        beside_bar(|| io::stderr().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_shows_about_ten_lines_and_the_last_thing_always() {
        for (total, shown) in [(1, 1), (7, 7), (10, 10), (1000, 10), (1005, 10)] {
            let due: Vec<usize> = (1..=total).filter(|done| is_due(*done, total)).collect();
            assert_eq!((due.len(), due.last()), (shown, Some(&total)), "{total}");
        }
    }

    #[test]
    fn the_template_of_the_bar_is_valid() {
        ProgressStyle::with_template(TEMPLATE).unwrap();
    }
}
