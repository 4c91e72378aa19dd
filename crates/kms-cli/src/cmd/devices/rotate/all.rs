//! Rotates many OSDs: progress, a journal, and a summary.

use std::{
    collections::BTreeMap,
    num::NonZeroUsize,
    time::{Instant, SystemTime},
};

use kms_core::{KeyName, KmsProvider, Result};
use kms_rotation::{Options, Report, rotate_all};
use serde::Serialize;
use tracing::warn;

use super::{
    document,
    find::Found,
    journal::Journal,
    progress::{OsdEnded, Rotation},
    sink::{Ended, ResultSink, note_everywhere},
};
use crate::{
    exit::Exit,
    output::{ErrorDocument, Format, Output, Tone, chain, table},
};

/// A run over many OSDs.
pub(super) struct All<'a> {
    pub(super) options: &'a Options,
    pub(super) jobs: NonZeroUsize,
    pub(super) sinks: Vec<Box<dyn ResultSink>>,
    pub(super) journal: Option<Journal>,
}

/// The result of the run.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Document {
    ok: bool,
    osds: usize,
    skipped: usize,
    outcomes: BTreeMap<&'static str, usize>,
    failures: Vec<Failed>,
}

/// An OSD that failed.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Failed {
    name: String,
    error: ErrorDocument,
    #[serde(skip)]
    exit: Exit,
}

/// The results so far: numbers and failures.
struct Summary {
    total: usize,
    skipped: usize,
    outcomes: BTreeMap<&'static str, usize>,
    failures: Vec<Failed>,
    /// The worst exit code of the OSDs that did not fail.
    exit: Exit,
}

impl All<'_> {
    /// Rotates all OSDs, and prints the summary.
    pub(super) async fn run(
        mut self,
        kms: &dyn KmsProvider,
        found: Vec<Found>,
        progress: &Rotation,
        output: &mut Output<'_>,
    ) -> Result<Exit> {
        let begin = Instant::now();
        if let Some(journal) = &mut self.journal {
            journal.resume(found.iter().map(|(name, _)| name))?;
        }
        let mut summary = Summary {
            total: found.len(),
            skipped: 0,
            outcomes: BTreeMap::new(),
            failures: Vec::new(),
            exit: Exit::Done,
        };
        let mut osds = Vec::with_capacity(found.len());
        for (name, osd) in found {
            if self.journal.as_ref().is_some_and(|journal| journal.has(&name)) {
                summary.skipped += 1;
                continue;
            }
            match osd {
                Ok(osd) => osds.push(osd),
                Err(error) => {
                    self.ended(&mut summary, begin, &name, Err(error)).await;
                    progress.ended(&summary.ended(&name));
                }
            }
        }
        progress.line(format_args!(
            "{} OSDs, {} done before, {} at a time",
            summary.total, summary.skipped, self.jobs
        ));
        progress.reached(summary.done(), summary.total);
        let all = rotate_all(kms, osds, self.options, self.jobs, progress, async |name, result| {
            self.ended(&mut summary, begin, name, result).await;
            progress.ended(&summary.ended(name));
        });
        all.await?;
        if let Some(journal) = self.journal {
            journal.close(!summary.failures.is_empty())?;
        }
        summary.print(output)
    }

    async fn ended(&mut self, summary: &mut Summary, begin: Instant, name: &KeyName, result: Result<Report>) {
        let ended = Ended { name, result: result.as_ref(), at: SystemTime::now(), took: begin.elapsed() };
        note_everywhere(&mut self.sinks, &ended).await;
        match result {
            Ok(report) => {
                for warning in &report.warnings {
                    warn!("{name}: {warning}");
                }
                let exit = document::exit(&report, self.options);
                if exit == Exit::Done
                    && let Some(journal) = &mut self.journal
                    && let Err(error) = journal.note(name)
                {
                    warn!("{}", chain(&error));
                }
                if exit != Exit::Done {
                    summary.exit = exit;
                }
                *summary.outcomes.entry(report.outcome.as_str()).or_default() += 1;
            }
            Err(error) => {
                let exit = Exit::of(&error);
                let error = ErrorDocument::of(&error);
                summary.failures.push(Failed { name: name.to_string(), error, exit });
            }
        }
    }
}

impl Summary {
    fn done(&self) -> usize {
        self.skipped + self.failures.len() + self.outcomes.values().sum::<usize>()
    }

    /// The progress for an OSD that has just ended.
    fn ended<'a>(&'a self, name: &'a KeyName) -> OsdEnded<'a> {
        let failed = self.failures.last().filter(|failed| failed.name == name.as_str());
        OsdEnded {
            name: name.as_str(),
            done: self.done(),
            osds: self.total,
            error: failed.map(|failed| &failed.error),
        }
    }

    fn print(self, output: &mut Output<'_>) -> Result<Exit> {
        let exit = match self.failures.as_slice() {
            [] => self.exit,
            failures => Exit::of_all(failures.iter().map(|failed| failed.exit)),
        };
        match output.format() {
            Format::Json => output.json(&Document {
                ok: exit == Exit::Done,
                osds: self.total,
                skipped: self.skipped,
                outcomes: self.outcomes,
                failures: self.failures,
            })?,
            Format::Text => {
                let row = |what: &str, count: usize| [what.to_owned(), count.to_string()];
                let mut rows = vec![row("OSDs", self.total)];
                if self.skipped > 0 {
                    rows.push(row("done before", self.skipped));
                }
                rows.extend(self.outcomes.iter().map(|(outcome, count)| row(outcome, *count)));
                rows.push(row("failed", self.failures.len()));
                let failed = !self.failures.is_empty();
                table(&rows).into_iter().try_for_each(|line| match line.starts_with("failed ") {
                    true if failed => output.state_line(Tone::Bad, line),
                    _ => output.line(line),
                })?;
                for Failed { name, error, .. } in &self.failures {
                    output.line(format!("{name}: {}", error.message()))?;
                }
            }
        }
        Ok(exit)
    }
}
