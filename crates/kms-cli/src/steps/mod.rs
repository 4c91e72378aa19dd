//! The steps to a KMS: the settings, and the probe of the provider. `kms check` and `kms doctor` show them.

mod secrets;

use std::sync::Arc;

use kms_core::{Details, Error, KeyExchange, KmsProvider, KmsProviderExt, Probe};

use self::secrets::Secrets;
use crate::target::Target;

/// The step before the steps of the provider.
pub(crate) const SETTINGS: &str = "settings";
/// The step that presents the credentials.
const LOGIN: &str = "login";

/// How a step has ended.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    /// What was found.
    Passed(String),
    /// What deserves attention, though nothing failed.
    Warning(String),
    /// Why it failed.
    Failed(Error),
    /// A step before it failed.
    NotRun,
}

impl Outcome {
    /// The state in JSON.
    pub(crate) const fn as_str(&self) -> &'static str {
        match self {
            Self::Passed(_) => "passed",
            Self::Warning(_) => "warning",
            Self::Failed(_) => "failed",
            Self::NotRun => "not-run",
        }
    }
}

/// One step. A step that has several findings is listed several times.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) name: String,
    pub(crate) outcome: Outcome,
}

/// The steps so far.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    pub(crate) steps: Vec<Step>,
    /// The key exchange of each TLS session.
    pub(crate) key_exchanges: Vec<KeyExchange>,
    /// Whether a probe has found that the account may not destroy keys.
    pub(crate) cannot_destroy: bool,
    /// The Secrets that errors and warnings are about.
    secrets: Secrets,
}

/// A provider, and what is seen of its server.
#[derive(Debug)]
pub(crate) struct Connected {
    pub(crate) kms: Arc<dyn KmsProvider>,
    pub(crate) seen: Details,
}

impl Steps {
    /// Runs the steps to a KMS. `None` if the settings cannot be used.
    pub(crate) async fn to(target: &Target) -> (Self, Option<Connected>) {
        let mut steps = Self { secrets: Secrets::of(target), ..Self::default() };
        let kms = match target.connect().await {
            Ok(kms) => kms,
            Err(error) => {
                steps.fail(SETTINGS, &error);
                return (steps, None);
            }
        };
        let title = target.provider().as_ref().map_or("unknown", |provider| provider.title());
        let settings: Vec<_> =
            target.security().kms.connection_details.iter().map(|(name, _)| name).collect();
        let settings = if settings.is_empty() { "none needed".to_owned() } else { settings.join(", ") };
        let secret = steps.secrets.credentials().map(|name| format!("; credentials: {name}"));
        steps.pass(SETTINGS, format!("{title}: {settings}{}", secret.unwrap_or_default()));
        let seen = steps.probe(&*kms).await;
        (steps, Some(Connected { kms, seen }))
    }

    /// Runs the probe of a provider. Returns what is seen of the server.
    pub(crate) async fn probe(&mut self, kms: &dyn KmsProvider) -> Details {
        let probe = kms.probed().await;
        let seen = probe.details.clone();
        self.add(probe);
        seen
    }

    pub(crate) fn pass(&mut self, step: impl Into<String>, found: impl Into<String>) {
        self.push(step, Outcome::Passed(found.into()));
    }

    pub(crate) fn warn(&mut self, step: impl Into<String>, warning: impl Into<String>) {
        let (step, mut warning) = (step.into(), warning.into());
        if step == LOGIN
            && let Some(secret) = self.secrets.credentials()
        {
            warning = format!("{warning} ({secret})");
        }
        self.push(step, Outcome::Warning(warning));
    }

    pub(crate) fn fail(&mut self, step: impl Into<String>, error: &Error) {
        let error = self.secrets.add_to(error);
        self.push(step, Outcome::Failed(error));
    }

    pub(crate) fn not_run(&mut self, step: impl Into<String>) {
        self.push(step, Outcome::NotRun);
    }

    /// The first error. `None` if no step failed.
    pub(crate) fn error(&self) -> Option<&Error> {
        self.steps.iter().find_map(|step| match &step.outcome {
            Outcome::Failed(error) => Some(error),
            _ => None,
        })
    }

    /// Adds the steps of a probe, each with its warnings after it.
    pub(crate) fn add(&mut self, probe: Probe) {
        self.key_exchanges.extend(probe.key_exchanges);
        self.cannot_destroy |= probe.cannot_destroy;
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

    fn push(&mut self, name: impl Into<String>, outcome: Outcome) {
        self.steps.push(Step { name: name.into(), outcome });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_warnings_of_a_step_come_after_it() {
        let mut probe = Probe::new();
        probe.plan(&["login", "rights"]);
        probe.pass("login", "done");
        probe.warn("login", "the token ends soon");
        probe.pass("rights", "keys may be read");
        probe.warn("rights", "missing: update");
        let mut steps = Steps::default();
        steps.add(probe);
        let states: Vec<_> =
            steps.steps.iter().map(|step| (step.name.as_str(), step.outcome.as_str())).collect();
        let expected =
            [("login", "passed"), ("login", "warning"), ("rights", "passed"), ("rights", "warning")];
        assert_eq!(states, expected);
        assert!(steps.error().is_none());
    }
}
