//! The output of the steps of a migration. All steps have the same document.

use std::collections::BTreeMap;

use kms_core::Result;
use kms_migrate::{Cleared, Copied, Failed, Phase, Plan, Switched, Undone, Verified};
use serde::Serialize;

use crate::{
    exit::Exit,
    output::{ErrorDocument, Format, Output, Tone, table},
};

/// The result of a step.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Document {
    step: &'static str,
    ok: bool,
    phase: Option<&'static str>,
    keys: usize,
    outcomes: BTreeMap<&'static str, usize>,
    only_at_target: Option<usize>,
    devices: Option<usize>,
    stops: Vec<String>,
    notes: Vec<String>,
    change: Vec<String>,
    failures: Vec<FailedDocument>,
    #[serde(skip)]
    exit: Exit,
}

/// A key that failed.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct FailedDocument {
    name: String,
    error: ErrorDocument,
}

impl Document {
    fn new(step: &'static str, phase: Option<Phase>, keys: usize, failed: &[Failed]) -> Self {
        let failure = |failed: &Failed| FailedDocument {
            name: failed.name.to_string(),
            error: ErrorDocument::of(&failed.error),
        };
        Self {
            step,
            ok: failed.is_empty(),
            phase: phase.map(Phase::as_str),
            keys,
            outcomes: BTreeMap::new(),
            only_at_target: None,
            devices: None,
            stops: Vec::new(),
            notes: Vec::new(),
            change: Vec::new(),
            failures: failed.iter().map(failure).collect(),
            exit: Exit::of_all(failed.iter().map(|failed| Exit::of(&failed.error))),
        }
    }

    pub(super) fn of_plan(plan: Plan, phase: Option<Phase>, change: Vec<String>) -> Self {
        let outcomes =
            [("to-create", plan.to_create), ("equal", plan.equal), ("to-replace", plan.to_replace)];
        let mut document = Self {
            outcomes: outcomes.into_iter().filter(|(_, count)| *count > 0).collect(),
            only_at_target: Some(plan.only_at_target),
            change,
            ..Self::new("plan", phase, plan.keys, &plan.failed)
        };
        if !plan.stops.is_empty() {
            (document.ok, document.exit) = (false, Exit::Failed);
        }
        (document.stops, document.notes) = (plan.stops, plan.notes);
        document
    }

    pub(super) fn of_copy(copied: Copied, phase: Phase, notes: Vec<String>) -> Self {
        let document = Self::new("copy", Some(phase), copied.keys, &copied.failed);
        Self { outcomes: copied.outcomes, notes, ..document }
    }

    pub(super) fn of_verify(verified: Verified, phase: Phase, devices: Option<usize>) -> Self {
        Self {
            outcomes: [("equal", verified.equal)].into(),
            only_at_target: Some(verified.only_at_target),
            devices,
            ..Self::new("verify", Some(phase), verified.keys, &verified.failed)
        }
    }

    pub(super) fn of_abort(undone: Undone, phase: Phase) -> Self {
        Self { outcomes: undone.outcomes, ..Self::new("abort", Some(phase), undone.keys, &undone.failed) }
    }

    /// A switch. A comparison that failed comes before everything else.
    pub(super) fn of_switch(
        step: &'static str,
        switched: Switched,
        phase: Phase,
        change: Vec<String>,
    ) -> Self {
        let Switched { verified, osds, restarted, failed, .. } = switched;
        let mut document = match verified {
            // Without the change, which would lead OSDs to a KMS that does not have their keys.
            Some(verified) if !verified.is_proven() => {
                return Self::new(step, Some(phase), verified.keys, &verified.failed);
            }
            Some(verified) => Self::new(step, Some(phase), verified.keys, &failed),
            None => Self::new(step, Some(phase), osds, &failed),
        };
        if osds > 0 {
            document.outcomes = [("restarted", restarted)].into();
        }
        document.change = change;
        document
    }

    /// A switch that the user makes. Without the change if the sides differ: OSDs would not find their keys.
    pub(super) fn of_advice(verified: Verified, phase: Phase, change: Vec<String>) -> Self {
        let document = Self::new("cutover", Some(phase), verified.keys, &verified.failed);
        let document = Self { outcomes: [("equal", verified.equal)].into(), ..document };
        if !document.ok {
            return document;
        }
        let note = "apply the change to the CephCluster, see every OSD restart from the target, and then run kms migrate finish";
        Self { notes: vec![note.to_owned()], change, ..document }
    }

    pub(super) fn of_finish(cleared: Cleared, phase: Phase) -> Self {
        Self { outcomes: cleared.outcomes, ..Self::new("finish", Some(phase), cleared.keys, &cleared.failed) }
    }

    /// Writes it, and returns the exit code.
    pub(super) fn show(self, output: &mut Output<'_>) -> Result<Exit> {
        match output.format() {
            Format::Json => output.json(&self)?,
            Format::Text => self.text(output)?,
        }
        Ok(self.exit)
    }

    fn text(&self, output: &mut Output<'_>) -> Result<()> {
        let row = |what: &str, count: usize| [what.to_owned(), count.to_string()];
        let mut rows = vec![row("keys", self.keys)];
        rows.extend(self.outcomes.iter().map(|(outcome, count)| row(outcome, *count)));
        rows.extend(
            self.only_at_target.filter(|count| *count > 0).map(|count| row("only at the target", count)),
        );
        rows.extend(self.devices.map(|count| row("devices opened", count)));
        rows.push(row("failed", self.failures.len()));
        let failed = !self.failures.is_empty();
        table(&rows).into_iter().try_for_each(|line| match line.starts_with("failed ") {
            true if failed => output.state_line(Tone::Bad, line),
            _ => output.line(line),
        })?;
        if !self.change.is_empty() {
            output.line("the change of the CephCluster:")?;
            self.change.iter().try_for_each(|line| output.line(line))?;
        }
        self.notes.iter().try_for_each(|note| output.line(format!("note: {note}")))?;
        for FailedDocument { name, error } in &self.failures {
            output.line(format!("{name}: {}", error.message()))?;
        }
        self.stops.iter().try_for_each(|stop| output.state_line(Tone::Bad, format!("STOP: {stop}")))?;
        output.state_line(if self.ok { Tone::Good } else { Tone::Bad }, self.headline())
    }

    fn headline(&self) -> String {
        let word = if self.ok { "ok" } else { "FAILED" };
        let next = match (self.step, self.ok) {
            ("plan", true) => "nothing stands in the way: kms migrate copy",
            ("plan", false) => "something stands in the way, as shown above",
            ("copy", true) => "every key is at the target: kms migrate verify",
            ("copy", false) => "not every key is at the target: run it again after a look at the failures",
            ("verify", true) => "both sides hold the same KEKs",
            ("verify", false) => "the sides differ: kms migrate copy, and then verify",
            ("cutover", true) if self.phase == Some("switched") => {
                "every OSD has restarted from the target: make an escrow, and then kms migrate finish"
            }
            ("cutover", true) => "both sides hold the same KEKs, unchanged since kms migrate verify",
            ("cutover", false) if self.phase == Some("verified") => {
                "the sides differ, so nothing is switched: kms migrate copy, and then verify"
            }
            ("cutover", false) => "not every OSD has restarted from the target, as shown above",
            ("finish", true) => "the keys of the source are deleted",
            ("finish", false) => "some keys of the source stay",
            (_, true) => "the target has no copies of this migration any more",
            (_, false) => "some copies stay at the target",
        };
        format!("{word}  {next}")
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use kms_core::{Error, ErrorKind};

    use super::*;

    fn failed() -> Failed {
        let error = Error::new(ErrorKind::AlreadyExists, "another KEK").context("key", "b");
        Failed::new("b".parse().unwrap(), error)
    }

    fn documents() -> [Document; 2] {
        let mut plan = Plan::default();
        (plan.keys, plan.to_create, plan.equal, plan.only_at_target) = (3, 1, 1, 2);
        plan.stops.push("the account may not write".to_owned());
        plan.notes.push("to: tls: the certificate ends soon".to_owned());
        plan.failed.push(failed());
        let mut verified = Verified::default();
        (verified.keys, verified.equal) = (2, 2);
        let change = vec!["+       tokenSecretName: a".to_owned()];
        [Document::of_plan(plan, None, change), Document::of_verify(verified, Phase::Verified, Some(6))]
    }

    /// The output of each step, and its exit code.
    pub(crate) fn printed(format: Format) -> Vec<(Exit, String)> {
        let print = |document: Document| {
            let mut bytes = Vec::new();
            let mut output = Output::to(format, &mut bytes);
            let exit = document.show(&mut output).unwrap();
            drop(output);
            (exit, String::from_utf8(bytes).unwrap())
        };
        documents().into_iter().map(print).collect()
    }

    #[test]
    fn a_switch_whose_sides_differ_shows_no_change_to_apply() {
        let verified = || {
            let mut verified = Verified::default();
            (verified.keys, verified.equal) = (2, 1);
            verified.failed.push(failed());
            verified
        };
        let mut switched = Switched::default();
        switched.verified = Some(verified());
        let change = || vec!["+       tokenSecretName: a".to_owned()];
        for document in [
            Document::of_advice(verified(), Phase::Verified, change()),
            Document::of_switch("cutover", switched, Phase::Verified, change()),
        ] {
            let mut bytes = Vec::new();
            let exit = document.show(&mut Output::to(Format::Text, &mut bytes)).unwrap();
            let text = String::from_utf8(bytes).unwrap();
            assert_eq!(exit, Exit::Failed, "{text}");
            assert!(!text.contains("tokenSecretName") && text.contains("b: another KEK"), "{text}");
            assert!(text.ends_with("nothing is switched: kms migrate copy, and then verify\n"), "{text}");
        }
    }

    #[test]
    fn a_step_shows_its_figures_what_stops_it_and_what_to_do_next() {
        let [(stopped, plan), (done, verified)] = printed(Format::Text).try_into().unwrap();
        assert_eq!((stopped, done), (Exit::Failed, Exit::Done));
        assert_eq!(
            plan.lines().collect::<Vec<_>>(),
            [
                "keys                3",
                "equal               1",
                "to-create           1",
                "only at the target  2",
                "failed              1",
                "the change of the CephCluster:",
                "+       tokenSecretName: a",
                "note: to: tls: the certificate ends soon",
                "b: another KEK (key: b)",
                "STOP: the account may not write",
                "FAILED  something stands in the way, as shown above",
            ]
        );
        let lines: Vec<_> = verified.lines().collect();
        assert_eq!(
            lines[2..],
            ["devices opened  6", "failed          0", "ok  both sides hold the same KEKs"]
        );
    }
}
