//! `kms check`: checks whether the KMS works, and shows the step that fails.

#[cfg(feature = "k8s-secret")]
mod cluster;
mod secrets;

use std::collections::BTreeMap;

use kms_core::{Details, Error, KmsProvider, KmsProviderExt, Probe, Result};
use kms_dispatch::Provider;
use serde::Serialize;

use self::secrets::Secrets;
use super::canary::{self, RoundTrip};
use crate::{
    args::Files,
    exit::Exit,
    invocation::Invocation,
    output::{ErrorDocument, Format, Output, Tone, chain, table},
};

/// The step before the steps of the provider.
const SETTINGS: &str = "settings";
/// The step that presents the credentials.
const LOGIN: &str = "login";
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
pub(crate) struct Document {
    pub(crate) ok: bool,
    pub(crate) provider: &'static str,
    pub(crate) steps: Vec<Step>,
    pub(crate) warnings: Vec<String>,
    pub(crate) details: BTreeMap<&'static str, String>,
}

/// One step.
#[derive(Serialize)]
pub(crate) struct Step {
    pub(crate) step: String,
    pub(crate) state: &'static str,
    pub(crate) found: Option<String>,
    pub(crate) error: Option<ErrorDocument>,
}

/// The steps so far, and the first error.
#[derive(Default)]
struct Report {
    steps: Vec<Step>,
    exit: Option<Exit>,
    /// What was seen of the server, with `--verbose`.
    details: BTreeMap<&'static str, String>,
    /// The Secrets that errors and warnings are about.
    secrets: Secrets,
}

impl Report {
    fn pass(&mut self, step: impl Into<String>, found: impl Into<String>) {
        self.steps.push(Step { step: step.into(), state: "passed", found: Some(found.into()), error: None });
    }

    fn warn(&mut self, step: impl Into<String>, warning: impl Into<String>) {
        let (step, mut warning) = (step.into(), warning.into());
        if step == LOGIN
            && let Some(secret) = self.secrets.credentials()
        {
            warning = format!("{warning} (Secret {secret})");
        }
        self.steps.push(Step { step, state: WARNING, found: Some(warning), error: None });
    }

    /// Adds the steps of a probe, each with its warnings after it.
    fn add(&mut self, probe: Probe) {
        let mut warned = probe.warned;
        let mut passed = probe.passed.into_iter().peekable();
        while let Some((step, found)) = passed.next() {
            self.pass(step, found);
            if passed.peek().is_none_or(|(next, _)| *next != step) {
                for (step, warning) in warned.extract_if(.., |(of, _)| *of == step) {
                    self.warn(step, warning);
                }
            }
        }
        for (step, warning) in warned {
            self.warn(step, warning);
        }
        if let Some((step, error)) = &probe.failed {
            self.fail(*step, error);
        }
        for step in probe.not_run {
            self.not_run(step);
        }
    }

    fn fail(&mut self, step: impl Into<String>, error: &Error) {
        self.exit.get_or_insert_with(|| Exit::of(error));
        let error = Some(ErrorDocument::of(&self.secrets.add_to(error)));
        self.steps.push(Step { step: step.into(), state: "failed", found: None, error });
    }

    fn not_run(&mut self, step: impl Into<String>) {
        self.steps.push(Step { step: step.into(), state: "not-run", found: None, error: None });
    }

    fn failed(&self) -> bool {
        self.exit.is_some()
    }
}

/// Runs every step in order.
pub(crate) async fn run(args: Args, invocation: &Invocation<'_>, output: &mut Output<'_>) -> Result<Exit> {
    let target = invocation.target().await?;
    let mut warnings = target.warnings();
    let provider = target.provider();
    let name = provider.as_ref().map_or("unknown", |provider| match provider {
        // A downstream provider has no Cargo feature.
        Provider::Own { name, .. } => name,
        provider => provider.feature(),
    });
    let title = provider.as_ref().map_or("unknown", |provider| provider.title());
    let mut report = Report { secrets: Secrets::of(&target), ..Report::default() };
    match target.connect().await {
        Ok(kms) => {
            let settings: Vec<_> =
                target.security().kms.connection_details.iter().map(|(name, _)| name).collect();
            let settings = if settings.is_empty() { "none needed".to_owned() } else { settings.join(", ") };
            let secret = report.secrets.credentials().map(|name| format!("; credentials of Secret {name}"));
            report.pass(SETTINGS, format!("{title}: {settings}{}", secret.unwrap_or_default()));
            let seen = with_provider(&args, &*kms, &mut report, &mut warnings).await?;
            #[cfg(feature = "k8s-secret")]
            cluster::add(&invocation.global, &target, &*kms, &mut report).await;
            if invocation.global.verbose > 0 {
                // The canary has shown more than the probe.
                report.details = seen.read().into_iter().collect();
            }
        }
        Err(error) => {
            report.fail(SETTINGS, &error);
            report.not_run("connect");
            if !args.read_only {
                report.not_run(CANARY);
            }
        }
    }
    finish(report, name, warnings, args.strict, output)
}

/// The steps that need a provider. Returns what is seen of the server.
async fn with_provider(
    args: &Args,
    kms: &dyn KmsProvider,
    report: &mut Report,
    warnings: &mut Vec<String>,
) -> Result<Details> {
    let probe = kms.probed().await;
    let seen = probe.details.clone();
    report.add(probe);
    if args.read_only {
        return Ok(seen);
    }
    if report.failed() {
        report.not_run(CANARY);
        return Ok(seen);
    }
    let RoundTrip { name, failed, no_update, left_behind } = canary::round_trip(kms).await?;
    let mut failed = failed.as_ref();
    for step in canary::STEPS {
        match failed {
            Some((at, error)) if *at == step => report.fail(format!("{CANARY}: {step}"), error),
            _ if report.failed() => report.not_run(format!("{CANARY}: {step}")),
            _ if step == canary::UPDATE && no_update.is_some() => {
                let why = no_update.as_ref().map(chain).unwrap_or_default();
                report.warn(format!("{CANARY}: {step}"), format!("keys cannot be rotated: {why}"));
            }
            _ => report.pass(format!("{CANARY}: {step}"), name.as_str()),
        }
        if report.failed() {
            failed = None;
        }
    }
    warnings.extend(left_behind);
    Ok(seen)
}

fn finish(
    report: Report,
    provider: &'static str,
    warnings: Vec<String>,
    strict: bool,
    output: &mut Output<'_>,
) -> Result<Exit> {
    let has_warned = !warnings.is_empty() || report.steps.iter().any(|step| step.state == WARNING);
    let exit = report.exit.unwrap_or(if strict && has_warned { Exit::Failed } else { Exit::Done });
    match output.format() {
        Format::Json => {
            let ok = exit == Exit::Done;
            output.json(&Document {
                ok,
                provider,
                steps: report.steps,
                warnings,
                details: report.details,
            })?;
        }
        Format::Text => {
            let row = |step: &Step| {
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
            let rows: Vec<_> = report
                .steps
                .iter()
                .map(row)
                .chain(report.details.iter().map(detail))
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
    use kms_core::{ErrorKind, memory::Memory};
    use kms_testkit::fake::{InjectedFault, Operation, Scripted};

    use super::*;

    /// Returns the output of a check of this provider.
    pub(crate) async fn checked(kms: &dyn KmsProvider, format: Format, read_only: bool) -> (Exit, String) {
        let mut report = Report::default();
        let mut warnings = Vec::new();
        report.pass(SETTINGS, "none needed");
        with_provider(
            &Args { files: Files::default(), read_only, strict: false },
            kms,
            &mut report,
            &mut warnings,
        )
        .await
        .unwrap();
        let mut bytes = Vec::new();
        let exit = finish(report, "memory", warnings, false, &mut Output::to(format, &mut bytes)).unwrap();
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
    fn a_warning_of_a_step_is_shown_and_fails_nothing() {
        let mut probe = Probe::new();
        probe.plan(&["login", "rights"]);
        probe.pass("login", "done");
        probe.warn("login", "the token ends soon");
        probe.pass("rights", "keys may be read");
        probe.warn("rights", "missing: update");
        let mut report = Report::default();
        report.add(probe);
        let states: Vec<_> = report.steps.iter().map(|step| (step.step.as_str(), step.state)).collect();
        let expected =
            [("login", "passed"), ("login", "warning"), ("rights", "passed"), ("rights", "warning")];
        assert_eq!(states, expected);
        let mut bytes = Vec::new();
        let exit =
            finish(report, "memory", Vec::new(), false, &mut Output::to(Format::Text, &mut bytes)).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(exit, Exit::Done);
        assert!(
            text.lines().any(|line| line.starts_with("WARN") && line.contains("missing: update")),
            "{text}"
        );
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
    async fn the_step_that_fails_gives_the_exit_code_and_ends_the_check() {
        for (operation, kind, failing, exit, left) in [
            (Operation::Put, ErrorKind::PermissionDenied, "canary: store", Exit::Denied, 0),
            (Operation::Get, ErrorKind::Unavailable, "canary: read back", Exit::TryAgain, 0),
            (Operation::Delete, ErrorKind::PermissionDenied, "canary: delete", Exit::Denied, 1),
        ] {
            let memory = Arc::new(Memory::new());
            let kms = Scripted::around(memory.clone());
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
