//! The steps of a probe as findings.

use kms_rook::doctor::{
    Code, Diagnosis, Finding,
    codes::{
        API_CERTIFICATE, API_DNS, API_LOGIN, API_SERVER, API_TCP, API_TLS, CERTIFICATE, CLOCK_OF_API,
        CLOCK_OF_KMS, CREDENTIALS, DNS, KEY_EXCHANGE, LOGIN, PLACE, READ, RIGHTS, SERVER, SETTINGS, TCP, TLS,
    },
};

use kms_core::KeyExchange;

use super::FOLLOWING;
use crate::steps::{Outcome, SETTINGS as SETTINGS_STEP, Step, Steps};

/// The checks that a step stands for: that it passes, and that it has no warning.
type Checks = (Code, Code);

/// Which checks the steps to a server stand for.
pub(super) struct Map {
    steps: fn(&str) -> Checks,
}

/// The steps to a KMS.
pub(super) const fn of_kms() -> Map {
    Map { steps: to_kms }
}

/// The steps to the API server.
pub(super) const fn of_api_server() -> Map {
    Map { steps: to_api_server }
}

/// The checks of a step to a KMS. A step to a server beside the KMS has the name of the server before it: `iam: dns`.
fn to_kms(step: &str) -> Checks {
    match step.rsplit(": ").next().unwrap_or_default() {
        "dns" => (DNS, DNS),
        "tcp" => (TCP, TCP),
        "tls" => (TLS, CERTIFICATE),
        "clock" => (CLOCK_OF_KMS, CLOCK_OF_KMS),
        "login" | "token" | "iam" => (LOGIN, CREDENTIALS),
        "mount" | "vault" | "instance" => (PLACE, RIGHTS),
        "rights" | "permissions" => (READ, RIGHTS),
        // What the settings say, before any request.
        SETTINGS_STEP | "addresses" | "authentication" | "client certificate" | "cluster" | "config"
        | "credential" | "namespace" => (SETTINGS, CREDENTIALS),
        // The server itself: `server`, `connect`, `versions`, and steps of providers that are not known here.
        _ => (SERVER, RIGHTS),
    }
}

fn to_api_server(step: &str) -> Checks {
    match step {
        "dns" => (API_DNS, API_DNS),
        "tcp" => (API_TCP, API_TCP),
        "tls" => (API_TLS, API_CERTIFICATE),
        "clock" => (CLOCK_OF_API, CLOCK_OF_API),
        "login" => (API_LOGIN, API_LOGIN),
        _ => (API_SERVER, API_SERVER),
    }
}

impl Map {
    /// Adds the steps to a server. A step that was not run gets no entry: the diagnosis finds out because of which.
    pub(super) fn add(&self, steps: Steps, server: &str, next: &str, diagnosis: &mut Diagnosis) {
        for Step { name, outcome } in steps.steps {
            let (passes, has_no_warning) = (self.steps)(&name);
            let object = object_of(&name, server);
            match outcome {
                Outcome::Passed(found) => diagnosis.pass(passes, object, found),
                Outcome::Warning(text) => {
                    let is_clock = [CLOCK_OF_API, CLOCK_OF_KMS].contains(&has_no_warning);
                    let next = if is_clock { "timedatectl" } else { next };
                    diagnosis.add(Finding::new(has_no_warning, object, text, next));
                }
                Outcome::Failed(error) => diagnosis.add(Finding::failed(passes, object, error, next)),
                Outcome::NotRun => {}
            }
        }
        for (before, following) in FOLLOWING {
            let is_made = diagnosis.has_made(before) && !diagnosis.has_found(before);
            if is_made && !diagnosis.has_made(following) {
                diagnosis.pass(following, server, "nothing to note");
            }
        }
    }
}

/// The object of a step: the server, or another one that the step names.
pub(super) fn object_of(step: &str, server: &str) -> String {
    match step.split_once(": ") {
        Some((other, _)) => format!("{server}: {other}"),
        None => server.to_owned(),
    }
}

/// Adds the key exchanges with a KMS. One that is not post-quantum is a finding only if the user asks for that.
pub(super) fn key_exchanges(
    made: &[KeyExchange],
    server: &str,
    is_wanted: bool,
    next: &str,
    diagnosis: &mut Diagnosis,
) {
    for KeyExchange { step, group, is_post_quantum, .. } in made {
        let object = object_of(step, server);
        match (is_post_quantum, is_wanted) {
            (true, _) => diagnosis.pass(KEY_EXCHANGE, object, format!("{group}, post-quantum")),
            (false, false) => diagnosis.pass(KEY_EXCHANGE, object, format!("{group}, not post-quantum")),
            (false, true) => {
                let text = format!(
                    "the server has chosen the key exchange {group}: who records this connection now can read the keys with a \
                     quantum computer later"
                );
                diagnosis.add(Finding::new(KEY_EXCHANGE, object, text, next));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use kms_core::{Error, ErrorKind, Probe};
    use kms_rook::doctor::{State, codes::ALL};

    use super::*;

    #[test]
    fn a_step_that_fails_is_an_error_and_what_comes_after_it_names_it() {
        let mut probe = Probe::new();
        probe.plan(&["authentication", "dns", "tcp", "tls", "server", "login", "mount", "rights"]);
        for step in ["authentication", "dns", "tcp"] {
            probe.pass(step, "good");
        }
        probe.fail("tls", Error::new(ErrorKind::ConfigInvalid, "the certificate has expired"));
        let mut steps = Steps::default();
        steps.pass(SETTINGS_STEP, "good");
        steps.add(probe);
        let mut diagnosis = Diagnosis::new();
        of_kms().add(steps, "vault", "kms check", &mut diagnosis);
        let wanted = [SETTINGS, DNS, TCP, TLS, CERTIFICATE, SERVER, LOGIN, CREDENTIALS, PLACE, READ, RIGHTS];
        let states: Vec<_> = diagnosis
            .settle(ALL, &[])
            .iter()
            .filter(|entry| wanted.contains(&entry.code))
            .map(|entry| (entry.code, entry.state))
            .collect();
        let because = State::NotChecked(TLS);
        let expected = [
            [(SETTINGS, State::Ok), (DNS, State::Ok), (TCP, State::Ok), (TLS, State::Error)].as_slice(),
            &[CERTIFICATE, SERVER, LOGIN, CREDENTIALS, PLACE, READ, RIGHTS].map(|code| (code, because)),
        ];
        assert_eq!(states, expected.concat());
    }

    #[test]
    fn a_key_exchange_that_is_not_post_quantum_is_a_finding_if_the_user_asks_for_it() {
        let made =
            [KeyExchange::new("tls", "X25519MLKEM768", true), KeyExchange::new("iam: tls", "X25519", false)];
        let states = |is_wanted| {
            let mut diagnosis = Diagnosis::new();
            key_exchanges(&made, "ibmkeyprotect", is_wanted, "kms check", &mut diagnosis);
            let entries = diagnosis.settle(&[], &[]).into_iter();
            entries.map(|entry| (entry.object.unwrap(), entry.state)).collect::<Vec<_>>()
        };
        let is = |object: &str, state| (object.to_owned(), state);
        let (first, other) = ("ibmkeyprotect", "ibmkeyprotect: iam");
        assert_eq!(states(false), [is(first, State::Ok), is(other, State::Ok)]);
        assert_eq!(states(true), [is(first, State::Ok), is(other, State::Warning)]);
    }

    #[test]
    fn a_warning_belongs_to_a_check_of_its_own() {
        let mut steps = Steps::default();
        steps.pass("tls", "good");
        steps.warn("tls", "the certificate ends soon");
        steps.pass("login", "good");
        steps.pass("iam: tls", "good");
        let mut diagnosis = Diagnosis::new();
        of_kms().add(steps, "vault", "kms check", &mut diagnosis);
        let states: Vec<_> = diagnosis
            .settle(&[], &[])
            .into_iter()
            .map(|entry| (entry.code, entry.state, entry.object.unwrap()))
            .collect();
        let expected = [
            (TLS, State::Ok, "vault"),
            (TLS, State::Ok, "vault: iam"),
            (CERTIFICATE, State::Warning, "vault"),
            (LOGIN, State::Ok, "vault"),
            (CREDENTIALS, State::Ok, "vault"),
        ];
        assert_eq!(states, expected.map(|(code, state, object)| (code, state, object.to_owned())));
    }
}
