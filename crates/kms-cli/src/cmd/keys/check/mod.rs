//! `kms check`: checks whether the KMS works, and shows the step that fails.

#[cfg(feature = "k8s-secret")]
mod cluster;

use std::collections::BTreeMap;

use kms_core::{KmsProvider, Result};
use kms_dispatch::Provider;
use serde::Serialize;

use super::canary::{self, RoundTrip};
use crate::{
    args::Files,
    exit::Exit,
    invocation::Invocation,
    output::{ErrorDocument, Format, Output, Tone, chain, table},
    steps::{Connected, Outcome, Step, Steps},
};

/// The state of a step that has a warning.
const WARNING: &str = "warning";

/// The common name of the canary's steps before any of them has run.
const CANARY: &str = "canary";

/// The arguments.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) files: Files,

    /// Store nothing: connect and log in only
    #[arg(long)]
    pub(crate) read_only: bool,

    /// Exit with code 1 if there is a warning
    #[arg(long)]
    pub(crate) strict: bool,
}

/// The result of the check.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Document {
    pub(crate) ok: bool,
    pub(crate) provider: &'static str,
    pub(crate) steps: Vec<StepDocument>,
    pub(crate) warnings: Vec<String>,
    pub(crate) details: BTreeMap<&'static str, String>,
}

/// One step.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct StepDocument {
    pub(crate) step: String,
    pub(crate) state: &'static str,
    pub(crate) found: Option<String>,
    pub(crate) error: Option<ErrorDocument>,
}

impl From<Step> for StepDocument {
    fn from(Step { name, outcome }: Step) -> Self {
        let state = outcome.as_str();
        let (found, error) = match outcome {
            Outcome::Passed(text) | Outcome::Warning(text) => (Some(text), None),
            Outcome::Failed(error) => (None, Some(ErrorDocument::of(&error))),
            Outcome::NotRun => (None, None),
        };
        Self { step: name, state, found, error }
    }
}

/// What a check shows beside its steps.
#[derive(Default)]
struct Shown {
    provider: &'static str,
    warnings: Vec<String>,
    /// What was seen of the server, with `--verbose`.
    details: BTreeMap<&'static str, String>,
    strict: bool,
}

/// Runs every step in order.
pub(crate) async fn run(args: Args, invocation: &Invocation<'_>, output: &mut Output<'_>) -> Result<Exit> {
    let target = invocation.target().await?;
    let provider = target.provider();
    let provider = provider.as_ref().map_or("unknown", |provider| match provider {
        // A downstream provider has no Cargo feature.
        Provider::Own { name, .. } => name,
        provider => provider.feature(),
    });
    let mut shown = Shown { provider, warnings: target.warnings(), strict: args.strict, ..Shown::default() };
    let (mut steps, connected) = Steps::to(&target).await;
    match connected {
        Some(Connected { kms, seen }) => {
            if !args.read_only {
                try_canary(&*kms, &mut steps, &mut shown.warnings).await?;
            }
            #[cfg(feature = "k8s-secret")]
            cluster::add(&invocation.global, &target, &*kms, &mut steps).await;
            if invocation.global.verbose > 0 {
                // The canary has shown more than the probe.
                shown.details = seen.read().into_iter().collect();
            }
        }
        None => {
            steps.not_run("connect");
            if !args.read_only {
                steps.not_run(CANARY);
            }
        }
    }
    finish(steps, shown, output)
}

/// The steps of the canary.
async fn try_canary(kms: &dyn KmsProvider, steps: &mut Steps, warnings: &mut Vec<String>) -> Result<()> {
    if steps.error().is_some() {
        steps.not_run(CANARY);
        return Ok(());
    }
    let name = canary::unused_name()?;
    if let Err(error) = canary::check_removable(kms, &name, steps.cannot_destroy).await {
        steps.fail(CANARY, &error);
        return Ok(());
    }
    let RoundTrip { name, failed, no_update, left_behind } = canary::round_trip(kms, name).await?;
    for step in canary::STEPS {
        let of_canary = format!("{CANARY}: {step}");
        match &failed {
            Some((at, error)) if *at == step => steps.fail(of_canary, error),
            _ if steps.error().is_some() => steps.not_run(of_canary),
            _ if step == canary::UPDATE && no_update.is_some() => {
                let why = no_update.as_ref().map(chain).unwrap_or_default();
                steps.warn(of_canary, format!("keys cannot be rotated: {why}"));
            }
            _ => steps.pass(of_canary, name.as_str()),
        }
    }
    warnings.extend(left_behind);
    Ok(())
}

fn finish(steps: Steps, shown: Shown, output: &mut Output<'_>) -> Result<Exit> {
    let Shown { provider, warnings, details, strict } = shown;
    let exit = steps.error().map(Exit::of);
    let steps: Vec<_> = steps.steps.into_iter().map(StepDocument::from).collect();
    let has_warned = !warnings.is_empty() || steps.iter().any(|step| step.state == WARNING);
    let exit = exit.unwrap_or(if strict && has_warned { Exit::Failed } else { Exit::Done });
    match output.format() {
        Format::Json => {
            output.json(&Document { ok: exit == Exit::Done, provider, steps, warnings, details })?;
        }
        Format::Text => {
            let row = |step: &StepDocument| {
                let detail = match (&step.found, &step.error) {
                    (Some(found), _) => found.as_str(),
                    (None, Some(error)) => error.message(),
                    (None, None) => "",
                };
                let state = match step.state {
                    "passed" => "ok",
                    WARNING => "WARN",
                    "failed" => "FAILED",
                    other => other,
                };
                [state, &step.step, detail].map(str::to_owned)
            };
            let warning = |warning: &String| ["warning", "", warning].map(str::to_owned);
            let detail = |(name, seen): (&&'static str, &String)| ["seen", name, seen].map(str::to_owned);
            let rows: Vec<_> = steps
                .iter()
                .map(row)
                .chain(details.iter().map(detail))
                .chain(warnings.iter().map(warning))
                .collect();
            for line in table(&rows) {
                match line.split(' ').next() {
                    Some("ok") => output.state_line(Tone::Good, line)?,
                    Some("WARN" | "warning") => output.state_line(Tone::Warning, line)?,
                    Some("FAILED") => output.state_line(Tone::Bad, line)?,
                    _ => output.line(line)?,
                }
            }
        }
    }
    Ok(exit)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use futures_util::TryStreamExt;
    use kms_core::{ErrorKind, Probe, memory::Memory};
    use kms_testkit::fake::{InjectedFault, Operation, Scripted};

    use super::*;
    use crate::steps::SETTINGS;

    /// Returns the output of a check of this provider.
    pub(crate) async fn checked(kms: &dyn KmsProvider, format: Format, read_only: bool) -> (Exit, String) {
        let mut steps = Steps::default();
        steps.pass(SETTINGS, "none needed");
        let _seen = steps.probe(kms).await;
        let mut shown = Shown { provider: "memory", ..Shown::default() };
        if !read_only {
            try_canary(kms, &mut steps, &mut shown.warnings).await.unwrap();
        }
        let mut bytes = Vec::new();
        let exit = finish(steps, shown, &mut Output::to(format, &mut bytes)).unwrap();
        (exit, String::from_utf8(bytes).unwrap())
    }

    #[tokio::test]
    async fn a_check_that_passes_leaves_nothing_behind() {
        let kms = Memory::new();
        let (exit, text) = checked(&kms, Format::Text, false).await;
        assert_eq!(exit, Exit::Done);
        assert!(text.contains("canary: delete"), "{text}");
        assert_eq!(kms.list().try_collect::<Vec<_>>().await.unwrap().len(), 0);
        let (_, text) = checked(&kms, Format::Text, true).await;
        assert!(!text.contains("canary"), "{text}");
    }

    #[test]
    fn a_warning_of_a_step_is_shown_and_fails_nothing_unless_the_check_is_strict() {
        for (strict, expected) in [(false, Exit::Done), (true, Exit::Failed)] {
            let mut steps = Steps::default();
            steps.pass("rights", "keys may be read");
            steps.warn("rights", "missing: update");
            let mut bytes = Vec::new();
            let shown = Shown { provider: "memory", strict, ..Shown::default() };
            let exit = finish(steps, shown, &mut Output::to(Format::Text, &mut bytes)).unwrap();
            let text = String::from_utf8(bytes).unwrap();
            assert_eq!(exit, expected);
            assert!(
                text.lines().any(|line| line.starts_with("WARN") && line.contains("missing: update")),
                "{text}"
            );
        }
    }

    #[tokio::test]
    async fn an_update_that_is_not_allowed_is_a_warning_and_one_that_fails_is_a_failure() {
        for (kind, exit, state) in [
            (ErrorKind::PermissionDenied, Exit::Done, "WARN"),
            (ErrorKind::Unsupported, Exit::Done, "WARN"),
            (ErrorKind::Protocol, Exit::Failed, "FAILED"),
        ] {
            let memory = Arc::new(Memory::new());
            let kms = Scripted::around(memory.clone());
            // The first put creates the canary.
            kms.push(Operation::Put, InjectedFault::pass());
            kms.push(Operation::Put, InjectedFault::error(kind));
            let (found, text) = checked(&kms, Format::Text, false).await;
            assert_eq!(found, exit, "{text}");
            let line = text.lines().find(|line| line.contains("canary: update")).unwrap();
            assert!(line.starts_with(state), "{text}");
            assert_eq!(memory.list().try_collect::<Vec<_>>().await.unwrap().len(), 0, "{text}");
        }
    }

    #[tokio::test]
    async fn an_account_that_may_not_delete_leaves_no_test_key() {
        for (known, kind) in [
            (false, ErrorKind::PermissionDenied),
            (false, ErrorKind::Unauthenticated),
            (true, ErrorKind::PermissionDenied),
        ] {
            let memory = Arc::new(Memory::new());
            let kms = Scripted::around(memory.clone());
            kms.push(Operation::Delete, InjectedFault::error(kind));
            let mut probe = Probe::new();
            probe.cannot_destroy = known;
            let mut steps = Steps::default();
            steps.add(probe);
            let mut warnings = Vec::new();
            try_canary(&kms, &mut steps, &mut warnings).await.unwrap();
            let error = steps.error().unwrap();
            assert_eq!((steps.steps.len(), error.kind()), (1, ErrorKind::PermissionDenied), "{steps:?}");
            assert!(error.to_string().contains("no test key was stored"), "{error}");
            assert!(warnings.is_empty(), "{warnings:?}");
            assert_eq!(memory.list().try_collect::<Vec<_>>().await.unwrap().len(), 0);
        }
    }

    #[tokio::test]
    async fn the_step_that_fails_gives_the_exit_code_and_ends_the_check() {
        for (operation, kind, failing, exit, left) in [
            (Operation::Put, ErrorKind::PermissionDenied, "canary: store", Exit::Denied, 0),
            (Operation::Get, ErrorKind::Unavailable, "canary: read back", Exit::TryAgain, 0),
            (Operation::Delete, ErrorKind::PermissionDenied, "canary: delete", Exit::Denied, 1),
        ] {
            let memory = Arc::new(Memory::new());
            let kms = Scripted::around(memory.clone());
            if operation == Operation::Delete {
                // The look whether the account may delete.
                kms.push(operation, InjectedFault::pass());
            }
            kms.push(operation, InjectedFault::error(kind));
            let (found, text) = checked(&kms, Format::Text, false).await;
            assert_eq!(found, exit, "{text}");
            let line = text.lines().find(|line| line.starts_with("FAILED")).unwrap();
            assert!(line.contains(failing), "{text}");
            assert_eq!(memory.list().try_collect::<Vec<_>>().await.unwrap().len(), left, "{text}");
            assert_eq!(text.contains("may still be there"), left == 1, "{text}");
        }
    }
}
