//! One suite that every implementation of [`KmsProvider`] has to pass.
//!
//! The suite picks its cases by the provider's [`Capability`](kms_core::Capability), in both directions: what the
//! provider claims must work, and everything else must fail with `Unsupported`.
//! Each case uses random key names and deletes its keys, so the suite may run on a server that is in use, and several
//! runs may share a server.
//!
//! [`suite`] is all that most tests need:
//!
//! ```
//! # use kms_core::memory::Memory;
//! # use std::sync::Arc;
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! kms_conformance::suite(Arc::new(Memory::new())).await.assert_ok();
//! # }
//! ```
//!
//! [`run`] takes more: a second client of the same store, clients that must fail, and secrets that must not appear in
//! any log.
//!
//! ```
//! use kms_conformance::{Options, Subject};
//! use kms_core::memory::Memory;
//! # use std::sync::Arc;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let store = Arc::new(Memory::new());
//! let subject = Subject::new(store.clone()).with_second(store);
//! let options = Options::default().with_prefix("ci").with_secret("the token", "s.7hR2kkq0Zr9sWq81mB4vTnXc");
//! kms_conformance::run(&subject, &options).await.assert_ok();
//! # }
//! ```

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "this crate is only ever run by tests, and a panic is how a test fails"
)]

mod bench;
mod delete;
mod faults;
mod get;
mod history;
mod interference;
pub mod leak;
mod leaks;
mod ledger;
mod limits;
mod list;
mod misled;
mod names;
mod probe;
mod put;
mod race;
mod report;
mod rotate;

use std::{
    fmt,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use kms_core::{KmsProvider, layer::Contract};
use tokio::time::timeout;

use self::{
    bench::{Bench, Case, Stop},
    interference::MisledClient,
    leak::Canary,
};
pub use self::{
    interference::{Cut, Interference, ListCuts, Misled},
    ledger::Exception,
    report::{CaseReport, Outcome, Report},
};

/// The name of the check at the end of a run.
const NOTHING_LEFT: &str = "nothing_is_left_behind";

/// The provider under test, and further clients that some cases need.
#[derive(Clone, Debug)]
pub struct Subject {
    provider: Arc<dyn KmsProvider>,
    second: Option<Arc<dyn KmsProvider>>,
    unreachable: Option<Arc<dyn KmsProvider>>,
    denied: Option<Arc<dyn KmsProvider>>,
    misled: Option<MisledClient>,
    cuts: Option<Arc<dyn ListCuts>>,
}

impl Subject {
    /// Tests a provider, without further clients.
    pub fn new(provider: Arc<dyn KmsProvider>) -> Self {
        let provider = contract(provider);
        Self { provider, second: None, unreachable: None, denied: None, misled: None, cuts: None }
    }

    /// Adds a second client of the same store that shares nothing with the first. Races then run between the two.
    #[must_use]
    pub fn with_second(mut self, provider: Arc<dyn KmsProvider>) -> Self {
        self.second = Some(contract(provider));
        self
    }

    /// Adds a client whose server does not answer.
    #[must_use]
    pub fn with_unreachable(mut self, provider: Arc<dyn KmsProvider>) -> Self {
        self.unreachable = Some(contract(provider));
        self
    }

    /// Adds a client whose credentials the server rejects.
    #[must_use]
    pub fn with_denied(mut self, provider: Arc<dyn KmsProvider>) -> Self {
        self.denied = Some(contract(provider));
        self
    }

    /// Adds a client of the same store, without a layer that retries, and a switch that replaces the responses of its
    /// server. The switch may affect the other clients too.
    #[must_use]
    pub fn with_misled(mut self, provider: Arc<dyn KmsProvider>, switch: Arc<dyn Interference>) -> Self {
        self.misled = Some(MisledClient { provider: contract(provider), switch });
        self
    }

    /// Adds a switch that cuts the lists of the server.
    #[must_use]
    pub fn with_cuts(mut self, cuts: Arc<dyn ListCuts>) -> Self {
        self.cuts = Some(cuts);
        self
    }
}

/// Wraps a provider in the innermost standard layer, which refuses unsupported puts and names operation and key in errors
/// on behalf of every provider.
fn contract(provider: Arc<dyn KmsProvider>) -> Arc<dyn KmsProvider> {
    Arc::new(Contract::new(provider))
}

impl From<Arc<dyn KmsProvider>> for Subject {
    fn from(provider: Arc<dyn KmsProvider>) -> Self {
        Self::new(provider)
    }
}

/// Settings of a run.
#[derive(Clone)]
pub struct Options {
    prefix: String,
    list_count: usize,
    racers: usize,
    rounds: usize,
    case_limit: Duration,
    server_version: String,
    exceptions: Vec<Exception>,
    secrets: Vec<Arc<Canary>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            prefix: "conformance".to_owned(),
            list_count: 30,
            racers: 50,
            rounds: 5,
            case_limit: Duration::from_secs(60),
            server_version: String::new(),
            exceptions: Vec::new(),
            secrets: Vec::new(),
        }
    }
}

impl Options {
    /// Sets how the names of all keys begin; a random part follows. Default: `conformance`.
    ///
    /// # Panics
    ///
    /// If no key name can begin with the prefix, or if it is longer than 20 bytes.
    #[must_use]
    pub fn with_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        assert!(self.prefix.len() <= 20, "the prefix leaves too little of the shorter names");
        kms_core::KeyName::new(format!("{}0", self.prefix)).expect("a key name can begin with the prefix");
        self
    }

    /// Sets how many keys the list case creates; choose more than fit on one page of the server. Default: 30.
    #[must_use]
    pub fn with_list_count(mut self, count: usize) -> Self {
        self.list_count = count.max(1);
        self
    }

    /// Sets how many tasks take part in a race. Default: 50.
    #[must_use]
    pub fn with_racers(mut self, racers: usize) -> Self {
        self.racers = racers.max(2);
        self
    }

    /// Sets how often each race runs. Default: 5.
    #[must_use]
    pub fn with_rounds(mut self, rounds: usize) -> Self {
        self.rounds = rounds.max(1);
        self
    }

    /// Sets the time limit of a case. Default: 60 seconds.
    #[must_use]
    pub fn with_case_limit(mut self, limit: Duration) -> Self {
        self.case_limit = limit;
        self
    }

    /// Sets the version of the server, which exceptions may depend on.
    #[must_use]
    pub fn with_server_version(mut self, version: impl Into<String>) -> Self {
        self.server_version = version.into();
        self
    }

    /// Adds cases that the server cannot pass.
    #[must_use]
    pub fn with_exceptions(mut self, exceptions: impl IntoIterator<Item = Exception>) -> Self {
        self.exceptions.extend(exceptions);
        self
    }

    /// Adds a credential of the provider, which must not appear in any log, value or error.
    ///
    /// # Panics
    ///
    /// If the secret has fewer than 8 bytes, since so short a text is found by chance.
    #[must_use]
    pub fn with_secret(mut self, label: &'static str, secret: &str) -> Self {
        self.secrets.push(Arc::new(Canary::new(label, secret)));
        self
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { prefix, list_count, racers, rounds, case_limit, server_version, exceptions, secrets } =
            self;
        f.debug_struct("Options")
            .field("prefix", prefix)
            .field("list_count", list_count)
            .field("racers", racers)
            .field("rounds", rounds)
            .field("case_limit", case_limit)
            .field("server_version", server_version)
            .field("exceptions", exceptions)
            .field("secrets", secrets)
            .finish()
    }
}

/// Runs the suite on a provider with the default options.
///
/// Cases that need further clients are skipped; see [`run`].
pub async fn suite(provider: Arc<dyn KmsProvider>) -> Report {
    run(&Subject::new(provider), &Options::default()).await
}

/// Runs the suite, one case after the other.
///
/// It needs a tokio runtime with a timer; races are harder on a runtime with several threads.
/// A panic of the provider fails the case, not the run; [`Report::assert_ok`] panics if a case failed.
pub async fn run(subject: &Subject, options: &Options) -> Report {
    let run = bench::random_text();
    let mut cases = Vec::new();
    for case in groups().into_iter().flatten() {
        let start = Instant::now();
        let bench = Bench::new(subject, options, &run);
        let outcome = tried(case, &bench, options.case_limit).await;
        cases.push(CaseReport { name: case.name, outcome, took: start.elapsed() });
    }
    let start = Instant::now();
    let last = Case { name: NOTHING_LEFT, run: |bench| Box::pin(nothing_left(bench)) };
    let bench = Bench::new(subject, options, &run);
    let outcome = tried(&last, &bench, options.case_limit).await;
    cases.push(CaseReport { name: last.name, outcome, took: start.elapsed() });
    Report::new(subject.provider.provider(), &options.server_version, cases, &options.exceptions)
}

/// Returns the names of all cases, in the order in which they run.
pub fn case_names() -> impl Iterator<Item = &'static str> {
    groups().into_iter().flatten().map(|case| case.name).chain([NOTHING_LEFT])
}

fn groups() -> [&'static [Case]; 13] {
    [
        probe::CASES,
        put::CASES,
        get::CASES,
        delete::CASES,
        history::CASES,
        list::CASES,
        rotate::CASES,
        names::CASES,
        limits::CASES,
        race::CASES,
        faults::CASES,
        misled::CASES,
        leaks::CASES,
    ]
}

/// Runs a case, and deletes its keys even if it fails.
async fn tried(case: &Case, bench: &Bench, limit: Duration) -> Outcome {
    let verdict = guarded((case.run)(bench), limit).await;
    let cleaned = guarded(bench.clean_up(), limit).await;
    match (verdict, cleaned) {
        (Ok(()), Ok(())) => Outcome::Passed,
        (Ok(()), Err(Stop::Fail(why) | Stop::Skip(why))) => Outcome::Failed(format!("clean-up: {why}")),
        (Err(Stop::Skip(why)), _) => Outcome::Skipped(why),
        (Err(Stop::Fail(why)), _) => Outcome::Failed(why),
    }
}

async fn guarded(work: impl Future<Output = bench::Verdict>, limit: Duration) -> bench::Verdict {
    match AssertUnwindSafe(timeout(limit, work)).catch_unwind().await {
        Ok(Ok(verdict)) => verdict,
        Ok(Err(_)) => Err(Stop::Fail(format!("not done within {limit:?}"))),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            Err(Stop::Fail(format!("panicked: {text}")))
        }
    }
}

async fn nothing_left(bench: &Bench) -> bench::Verdict {
    bench.need(bench.capability().list, "keys cannot be listed")?;
    let left: Vec<_> = bench.listed(&bench.run_prefix()).await?.into_iter().map(|info| info.name).collect();
    check!(left.is_empty(), "the suite has left keys behind: {left:?}");
    Ok(())
}

/// Fails a case unless the condition is true.
macro_rules! check {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err($crate::bench::Stop::Fail(format!($($message)+)));
        }
    };
}
use check;

/// Declares the table of cases of a group; each case has the name of its function.
macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        pub(super) const CASES: &[$crate::bench::Case] = &[$(
            $crate::bench::Case { name: stringify!($name), run: |bench| Box::pin($name(bench)) },
        )*];
    };
}
use cases;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_has_a_name_of_its_own() {
        let mut names: Vec<_> = case_names().collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
