//! Tests the layers around a provider that fails on demand, in paused time.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a panic is how a test fails"
)]

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures_util::{StreamExt, TryStreamExt};
use kms_conformance::leak::Recording;
use kms_core::{
    DeleteMode, Error, ErrorKind, Existing, Freshness, HistoryMode, Kek, KeyName, KeyVersion, KmsProvider,
    KmsProviderExt, PutMode, Result, Retry,
    layer::{self, LayerOptions, Retried, RetryPolicy},
    provider::Deleted,
};
use kms_testkit::fake::{InjectedFault, Operation, Scripted};
use tokio::time::Instant;

const OPERATIONS: [Operation; 9] = [
    Operation::Delete,
    Operation::Get,
    Operation::History,
    Operation::List,
    Operation::Rights,
    Operation::Probe,
    Operation::Put,
    Operation::Retire,
    Operation::Undelete,
];
const RETRIES: [Retry; 3] = [Retry::Never, Retry::IfIdempotent, Retry::Always];

/// A provider that fails on demand, and the standard layers around it.
struct Bench {
    scripted: Arc<Scripted>,
    kms: Arc<dyn KmsProvider>,
    policy: RetryPolicy,
}

impl Bench {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut LayerOptions)) -> Self {
        let mut options = LayerOptions::default();
        change(&mut options);
        let scripted = Arc::new(Scripted::new());
        let kms = layer::standard(scripted.clone(), &options);
        Self { scripted, kms, policy: options.retry }
    }

    /// Stores a key directly, without the script.
    async fn stored(&self, text: &str) -> KeyVersion {
        self.scripted.inner().put(&name(), &kek(text), PutMode::Create).await.unwrap()
    }

    /// Reads the stored text directly, without the script.
    async fn text(&self) -> String {
        self.scripted
            .inner()
            .get(&name(), Freshness::Fresh)
            .await
            .unwrap()
            .kek
            .expose_secret_text()
            .unwrap()
            .to_owned()
    }

    async fn create(&self, text: &str) -> Result<KeyVersion> {
        self.kms.put(&name(), &kek(text), PutMode::Create).await
    }

    async fn update(&self, text: &str, version: &KeyVersion) -> Result<KeyVersion> {
        self.kms.put(&name(), &kek(text), PutMode::Update(version.clone())).await
    }

    async fn get(&self) -> Result<String> {
        Ok(self.kms.get(&name(), Freshness::Any).await?.kek.expose_secret_text().unwrap().to_owned())
    }
}

fn name() -> KeyName {
    KeyName::new("set1-data-0x7dwl").unwrap()
}

fn kek(text: &str) -> Kek {
    Kek::parse(text).unwrap()
}

/// A failure of a call that was certainly not applied.
fn refused() -> InjectedFault {
    InjectedFault::error(ErrorKind::Unavailable).retry(Retry::Always)
}

/// A failure whose response does not arrive, so that the outcome is unknown.
fn lost() -> InjectedFault {
    InjectedFault::error(ErrorKind::Unavailable).retry(Retry::IfIdempotent)
}

fn throttled(wait: Duration) -> InjectedFault {
    InjectedFault::error(ErrorKind::RateLimited).retry(Retry::Always).wait(wait)
}

fn outcome(error: &Error) -> Option<&str> {
    error.contexts().find(|(name, _)| *name == "outcome").map(|(_, value)| value)
}

/// Calls an operation and returns its error, if it fails.
async fn call(kms: &dyn KmsProvider, operation: Operation) -> Option<Error> {
    match operation {
        Operation::Delete => kms.delete(&name(), DeleteMode::Destroy).await.err(),
        Operation::Get => kms.get(&name(), Freshness::Fresh).await.err(),
        Operation::History => kms.history(&name(), HistoryMode::ReadOnly).await.err(),
        Operation::Undelete => kms.undelete(&name()).await.err(),
        Operation::Rights => kms.may_update(&[name()]).await.err(),
        Operation::List => kms.list().try_next().await.err(),
        Operation::Probe => kms.probed().await.failed.map(|(_, error)| error),
        Operation::Put => kms.put(&name(), &kek("new"), PutMode::Overwrite).await.err(),
        _ => kms.retire_superseded(&name(), &KeyVersion::new("1")).await.err(),
    }
}

// Pauses.

#[tokio::test(start_paused = true)]
async fn pauses_are_between_the_floor_and_three_times_the_one_before_and_below_the_cap() {
    let slack = Duration::from_millis(2);
    let mut all = BTreeSet::new();
    for _ in 0..20 {
        let bench = Bench::new();
        bench.stored("a").await;
        bench.scripted.push_times(9, Operation::Get, lost);
        assert_eq!(bench.get().await.unwrap(), "a");
        let RetryPolicy { floor, cap, .. } = bench.policy;
        let pauses = bench.scripted.pauses(Operation::Get);
        assert_eq!(pauses.len(), 9);
        let mut before = floor;
        for pause in pauses {
            let highest = (before * 3).min(cap) + slack;
            assert!(floor <= pause && pause <= highest, "{pause:?} is not within {floor:?} and {highest:?}");
            before = pause;
            all.insert(pause);
        }
    }
    assert!(all.len() > 50, "only {} different pauses", all.len());
}

#[tokio::test(start_paused = true)]
async fn tries_are_as_many_as_the_policy_says_and_the_error_says_how_many() {
    for attempts in [1, 2, 5] {
        let bench = Bench::with(|options| options.retry.attempts = attempts);
        bench.scripted.push_times(20, Operation::Get, refused);
        let error = bench.get().await.unwrap_err();
        assert_eq!(bench.scripted.count(Operation::Get), attempts as usize);
        assert_eq!((error.kind(), error.retryable()), (ErrorKind::Unavailable, Retry::Never));
        let tries = error.contexts().find(|(name, _)| *name == "tries").unwrap().1.to_owned();
        assert_eq!(tries, attempts.to_string());
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_after_of_zero_cannot_spin() {
    let bench = Bench::with(|options| options.retry.attempts = 12);
    bench.scripted.push_times(100, Operation::Get, || throttled(Duration::ZERO));
    bench.get().await.unwrap_err();
    let pauses = bench.scripted.pauses(Operation::Get);
    assert_eq!(pauses.len(), bench.policy.attempts as usize - 1);
    assert!(pauses.iter().all(|pause| *pause >= bench.policy.floor), "{pauses:?}");
}

#[tokio::test(start_paused = true)]
async fn a_retry_after_is_waited_for() {
    let bench = Bench::new();
    bench.stored("a").await;
    let seven = Duration::from_secs(7);
    bench.scripted.push_times(3, Operation::Get, || throttled(seven));
    assert_eq!(bench.get().await.unwrap(), "a");
    for pause in bench.scripted.pauses(Operation::Get) {
        assert!(seven <= pause && pause <= seven + bench.policy.cap, "{pause:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn those_who_were_turned_away_together_do_not_come_back_together() {
    let bench = Bench::new();
    bench.stored("a").await;
    bench.scripted.push_times(50, Operation::Get, || throttled(Duration::from_secs(1)));
    let calls = (0..50).map(|_| bench.get());
    for result in futures_util::future::join_all(calls).await {
        result.unwrap();
    }
    let times: BTreeSet<_> = bench.scripted.calls().iter().skip(50).map(|call| call.at).collect();
    assert!(times.len() > 20, "50 calls came back at {} different times", times.len());
}

#[tokio::test(start_paused = true)]
async fn a_retry_after_beyond_the_deadline_is_given_up_at_once() {
    for wait in [Duration::from_secs(61), Duration::from_secs(u64::MAX), Duration::MAX] {
        let bench = Bench::new();
        bench.scripted.push_times(5, Operation::Get, || throttled(wait));
        let start = Instant::now();
        let error = bench.get().await.unwrap_err();
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert_eq!((error.kind(), error.retryable()), (ErrorKind::RateLimited, Retry::Never));
        // The caller may want to know when a retry is worthwhile.
        assert_eq!(error.wait(), Some(wait));
        assert_eq!(bench.scripted.count(Operation::Get), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn retries_end_at_the_deadline_and_not_after_a_count() {
    let bench = Bench::new();
    let start = Instant::now();
    bench.scripted.push_times(1000, Operation::Get, refused);
    let error = bench.get().await.unwrap_err();
    let (took, deadline) = (start.elapsed(), bench.policy.deadline);
    assert!(deadline - bench.policy.cap <= took && took <= deadline, "it gave up after {took:?}: {error}");
}

#[tokio::test(start_paused = true)]
async fn the_last_error_shows_the_wait_that_the_server_asked_for() {
    let bench = Bench::new();
    bench.scripted.push(Operation::Get, throttled(Duration::from_secs(120)));
    let error = bench.get().await.unwrap_err();
    assert!(error.to_string().contains("the server asks to wait: 120s"), "{error}");
    bench.scripted.push(Operation::Get, InjectedFault::error(ErrorKind::RateLimited));
    let error = bench.get().await.unwrap_err();
    assert!(!error.to_string().contains("asks to wait"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn retries_are_seen_after_two_seconds() {
    let recording = Recording::start().unwrap();
    let name = KeyName::new("watched-name").unwrap();
    // Other tests write to the same log.
    let seen = || -> Vec<String> {
        let is_ours = |line: &&str| line.contains("retrying (") && line.contains("watched-name");
        recording.text().lines().filter(is_ours).map(str::to_owned).collect()
    };
    let bench = Bench::new();
    bench.scripted.push(Operation::Get, refused());
    bench.kms.get(&name, Freshness::Any).await.unwrap_err();
    assert_eq!(seen(), Vec::<String>::new(), "a short retry is silent");
    bench.scripted.push_times(3, Operation::Get, || throttled(Duration::from_secs(3)));
    bench.kms.get(&name, Freshness::Any).await.unwrap_err();
    let lines = seen();
    assert_eq!(lines.len(), 3, "{lines:?}");
    let text = "retrying (try 1, 0 s of 60 s): memory: get: as the script says";
    assert!(lines[0].contains("WARN") && lines[0].contains(text), "{lines:?}");
    let counted = Bench::with(|options| options.retry.attempts = 4);
    counted.scripted.push_times(3, Operation::Get, || throttled(Duration::from_secs(3)));
    counted.kms.get(&name, Freshness::Any).await.unwrap_err();
    assert!(seen()[4].contains("retrying (2 of 4): "), "{:?}", seen());
}

#[tokio::test(start_paused = true)]
async fn a_longer_deadline_reaches_each_try_and_each_step_and_a_shorter_one_too() {
    let limits = |seconds| {
        let options = LayerOptions::default().with_deadline(Duration::from_secs(seconds));
        (options.retry.deadline.as_secs_f64(), options.try_limit().as_secs_f64())
    };
    assert_eq!(limits(300), (300.0, 100.0));
    assert_eq!(limits(60), (60.0, 20.0));
    assert_eq!(limits(5), (5.0, 2.5));
    let mut own = LayerOptions::default();
    own.attempt_timeout = Duration::from_secs(7);
    assert_eq!(own.with_deadline(Duration::from_secs(300)).try_limit(), Duration::from_secs(7));

    let usual = Duration::from_secs(10);
    assert_eq!(layer::step_limit(usual), usual);
    let mut policy = RetryPolicy::default();
    for (deadline, limit) in [(300, 50), (60, 10), (5, 10)] {
        policy.deadline = Duration::from_secs(deadline);
        let found = layer::retry(&policy, "read", || async { Ok(layer::step_limit(usual)) }).await;
        assert_eq!(found.unwrap(), Duration::from_secs(limit), "{deadline}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_time_out_names_the_server_that_was_slow() {
    let slow = |server| layer::waiting_for(move || server, std::future::pending::<Result<()>>());
    let limit = Duration::from_secs(3);
    let error = layer::limited(limit, slow("https://kms.example")).await.unwrap_err();
    assert_eq!(error.to_string(), "https://kms.example did not answer within 3s");
    // The name that says more stays.
    let error =
        layer::limited(limit, layer::waiting_for(|| "IAM", slow("https://iam.example"))).await.unwrap_err();
    assert_eq!(error.to_string(), "IAM did not answer within 3s");
    // A server that has answered is not to blame for what comes later.
    let later = async {
        layer::waiting_for(|| "https://quick.example", async {}).await;
        std::future::pending::<Result<()>>().await
    };
    assert_eq!(layer::limited(limit, later).await.unwrap_err().to_string(), "no answer within 3s");

    let mut policy = RetryPolicy::default();
    policy.deadline = Duration::from_secs(7);
    // Equal pauses: two long ones would leave no time for the third try.
    policy.cap = policy.floor;
    let tries = || async { layer::limited(limit, slow("Entra ID")).await };
    let error = layer::retry(&policy, "read", tries).await.unwrap_err();
    let text = error.to_string();
    assert!(
        text == "read: not done within 7s: Entra ID has not answered (the try before: Entra ID did not answer within \
                 3s, tries: 3)",
        "{text}"
    );
}

/// Options for one try with this limit.
fn one_try(limit: Duration) -> LayerOptions {
    let mut options = LayerOptions::default();
    options.attempt_timeout = limit;
    options.retry.attempts = 1;
    options
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_is_cut_off_keeps_its_steps() {
    let scripted = Arc::new(Scripted::new());
    // The limit of a try, and the deadline.
    for limit in [Duration::from_secs(3), Duration::MAX] {
        let kms = Retried::new(scripted.clone(), one_try(limit));
        scripted.push(Operation::Probe, InjectedFault::hang());
        let probe = kms.probed().await;
        let passed: Vec<_> = probe.passed.iter().map(|(step, _)| *step).collect();
        assert_eq!(passed, ["begun"]);
        let (step, error) = probe.failed.unwrap();
        assert_eq!((step, error.kind(), probe.not_run), ("script", ErrorKind::Timeout, vec!["store"]));
    }
}

#[tokio::test(start_paused = true)]
async fn limits_beyond_the_clock_are_no_limits() {
    let bench = Bench::with(|options| {
        options.retry.deadline = Duration::MAX;
        options.attempt_timeout = Duration::MAX;
    });
    bench.stored("a").await;
    bench.scripted.push(Operation::Get, refused());
    assert_eq!(bench.get().await.unwrap(), "a");
    assert!(call(bench.kms.as_ref(), Operation::List).await.is_none());
}

// Limits.

#[tokio::test(start_paused = true)]
async fn the_overall_deadline_holds_whatever_fails_and_however() {
    let deadline = Duration::from_secs(60);
    let faults: [fn() -> InjectedFault; 4] =
        [InjectedFault::hang, refused, lost, || throttled(Duration::from_secs(9))];
    for operation in OPERATIONS {
        for fault in faults {
            let scripted = Arc::new(Scripted::new());
            scripted.push_times(1000, operation, fault);
            // The read of the stored KEK may fail too.
            scripted.push_times(1000, Operation::Get, fault);
            let mut policy = RetryPolicy::default();
            policy.deadline = deadline;
            policy.attempts = u32::MAX;
            let mut options = LayerOptions::default();
            options.retry = policy;
            for limit in [options.attempt_timeout, Duration::MAX] {
                options.attempt_timeout = limit;
                let kms = layer::standard(scripted.clone(), &options);
                let start = Instant::now();
                let error = call(kms.as_ref(), operation).await.expect("it fails");
                let took = start.elapsed();
                assert_eq!(error.retryable(), Retry::Never, "{operation:?}: {error}");
                assert!(
                    error.failed_provider().is_some() || !error.to_string().contains("not done"),
                    "{error}"
                );
                // The operation ends early if the next pause would not end in time, and a probe after three tries.
                let earliest = match operation {
                    Operation::Probe => Duration::ZERO,
                    _ => deadline - Duration::from_secs(14),
                };
                assert!(
                    earliest <= took && took <= deadline.mul_f64(1.1),
                    "{operation:?}: {took:?}: {error}"
                );
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_hanging_call_is_cut_off_and_tried_again() {
    for operation in OPERATIONS {
        let bench = Bench::with(|options| options.attempt_timeout = Duration::from_secs(3));
        bench.stored("a").await;
        bench.scripted.push(operation, InjectedFault::hang());
        let start = Instant::now();
        if let Some(error) = call(bench.kms.as_ref(), operation).await {
            panic!("{operation:?}: {error}");
        }
        let took = start.elapsed();
        let (least, most) = (Duration::from_millis(3100), Duration::from_millis(3310));
        assert!(least <= took && took <= most, "{operation:?}: {took:?}");
        assert_eq!(bench.scripted.count(operation), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_try_that_hangs_leaves_time_for_another_whatever_the_deadline() {
    for seconds in [1, 5, 20, 39] {
        let bench = Bench::with(|options| options.retry.deadline = Duration::from_secs(seconds));
        bench.stored("a").await;
        bench.scripted.push(Operation::Get, InjectedFault::hang());
        assert_eq!(bench.get().await.unwrap(), "a", "{seconds} s");
        assert_eq!(bench.scripted.count(Operation::Get), 2);
    }
    // If no second try is allowed, the first one has all the time.
    let bench = Bench::with(|options| {
        options.retry.deadline = Duration::from_secs(10);
        options.retry.attempts = 1;
    });
    bench.scripted.push(Operation::Get, InjectedFault::hang());
    let start = Instant::now();
    bench.get().await.unwrap_err();
    assert_eq!(start.elapsed(), Duration::from_secs(10));
}

#[tokio::test(start_paused = true)]
async fn what_was_too_late_names_the_key_that_it_was_about() {
    for operation in OPERATIONS {
        for limit in [Duration::from_secs(3), Duration::MAX] {
            let scripted = Scripted::new();
            scripted.push_times(9, operation, InjectedFault::hang);
            let kms = Retried::new(scripted, one_try(limit));
            let error = call(&kms, operation).await.expect("it hangs");
            assert_eq!(error.kind(), ErrorKind::Timeout);
            let key = error.contexts().find(|(name, _)| *name == "key").map(|(_, key)| key.to_owned());
            let expected = match operation {
                Operation::List | Operation::Rights | Operation::Probe => None,
                _ => Some(name().to_string()),
            };
            assert_eq!(key, expected, "{operation:?}: {error}");
        }
    }
}

/// Retries a call that fails `times` times before it succeeds, and returns the result and the number of calls.
async fn failing(times: u32, policy: &RetryPolicy, error: impl Fn() -> Error) -> (Result<u32>, u32) {
    let calls = std::sync::atomic::AtomicU32::new(0);
    let result = layer::retry(policy, "read", || async {
        let made = calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if made < times { Err(error()) } else { Ok(made) }
    })
    .await;
    (result, calls.into_inner())
}

#[tokio::test(start_paused = true)]
async fn a_call_that_belongs_to_no_provider_is_repeated_by_the_same_rules() {
    let mut policy = RetryPolicy::default();
    policy.attempts = 12;
    let unavailable = |retry| move || Error::new(ErrorKind::Unavailable, "away").retry(retry);
    for retry in [Retry::Always, Retry::IfIdempotent] {
        let (result, calls) = failing(3, &policy, unavailable(retry)).await;
        assert_eq!((result.unwrap(), calls), (3, 4));
    }
    let (result, calls) = failing(3, &policy, unavailable(Retry::Never)).await;
    assert_eq!((result.unwrap_err().kind(), calls), (ErrorKind::Unavailable, 1));

    let (result, calls) = failing(u32::MAX, &policy, unavailable(Retry::Always)).await;
    assert_eq!((result.unwrap_err().retryable(), calls), (Retry::Never, policy.attempts));

    let start = Instant::now();
    let seven = Some(Duration::from_secs(7));
    let (result, _) = failing(1, &policy, || unavailable(Retry::Always)().retry_after(seven)).await;
    result.unwrap();
    assert!(start.elapsed() >= Duration::from_secs(7));
    let beyond = Some(Duration::from_secs(61));
    let (result, calls) = failing(1, &policy, || unavailable(Retry::Always)().retry_after(beyond)).await;
    assert_eq!((result.unwrap_err().kind(), calls), (ErrorKind::Unavailable, 1));

    let start = Instant::now();
    let error = layer::retry(&policy, "read", std::future::pending::<Result<()>>).await.unwrap_err();
    assert_eq!((error.kind(), start.elapsed()), (ErrorKind::Timeout, policy.deadline));
    assert_eq!(error.to_string(), "read: not done within 60s (tries: 1)");
}

#[tokio::test(start_paused = true)]
async fn a_time_limit_is_for_each_page_of_a_list() {
    let scripted = Scripted::new();
    scripted.inner().put(&name(), &kek("a"), PutMode::Create).await.unwrap();
    scripted.push(Operation::List, InjectedFault::hang().after_items(1));
    let limit = Duration::from_secs(3);
    let kms = Retried::new(scripted, one_try(limit));
    let mut list = kms.list();
    list.next().await.unwrap().unwrap();
    // The caller may read the list slowly.
    tokio::time::advance(Duration::from_secs(100)).await;
    let start = Instant::now();
    let error = list.next().await.unwrap().unwrap_err();
    assert_eq!((start.elapsed(), error.kind()), (limit, ErrorKind::Timeout));
    assert!(list.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn the_time_before_a_list_is_read_does_not_count() {
    let bench = Bench::new();
    bench.stored("a").await;
    bench.scripted.push(Operation::List, refused());
    let list = bench.kms.list();
    tokio::time::advance(Duration::from_secs(600)).await;
    assert_eq!(list.count().await, 1);
    assert_eq!(bench.scripted.count(Operation::List), 2);
}

// Which errors are retried.

#[tokio::test(start_paused = true)]
async fn what_is_not_worth_repeating_is_tried_once() {
    for operation in OPERATIONS {
        for kind in ErrorKind::ALL {
            let bench = Bench::new();
            bench.scripted.push_times(3, operation, || InjectedFault::error(kind));
            let start = Instant::now();
            let error = call(bench.kms.as_ref(), operation).await.expect("it fails");
            assert_eq!(error.kind(), kind);
            assert_eq!(bench.scripted.calls().len(), 1, "{operation:?} {kind}");
            assert_eq!(start.elapsed(), Duration::ZERO);
            assert_eq!(outcome(&error), None);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn every_class_of_error_survives_all_layers() {
    for operation in OPERATIONS {
        for kind in ErrorKind::ALL {
            for retry in RETRIES {
                let bench = Bench::with(|options| options.retry.attempts = 1);
                bench
                    .scripted
                    .push(operation, InjectedFault::error(kind).retry(retry).wait(Duration::from_secs(7)));
                let error = call(bench.kms.as_ref(), operation).await.expect("it fails");
                assert_eq!((error.kind(), error.retryable()), (kind, Retry::Never));
                assert_eq!(error.wait(), Some(Duration::from_secs(7)));
                assert_eq!(error.message(), "as the script says");
                assert_eq!(error.failed_provider(), Some("memory"));
                let named = format!("{operation:?}").to_lowercase();
                assert_eq!(error.failed_operation(), Some(named.as_str()));
            }
        }
    }
    let bench = Bench::new();
    bench.stored("a").await;
    for (text, existing) in [("a", Existing::Same), ("b", Existing::Different)] {
        let error = bench.create(text).await.unwrap_err();
        assert_eq!((error.kind(), error.existing()), (ErrorKind::AlreadyExists, Some(existing)));
    }
}

// Creating.

#[tokio::test(start_paused = true)]
async fn a_create_whose_answer_was_lost_is_not_doubled() {
    let bench = Bench::new();
    bench.scripted.push(Operation::Put, lost().applied());
    let version = bench.create("ours").await.unwrap();
    assert_eq!((version.as_str(), bench.text().await.as_str()), ("1", "ours"));
    assert_eq!(bench.scripted.count(Operation::Put), 1);
}

#[tokio::test(start_paused = true)]
async fn a_create_that_was_cut_off_is_not_doubled() {
    let bench = Bench::new();
    bench.scripted.push(Operation::Put, InjectedFault::hang().applied());
    let version = bench.create("ours").await.unwrap();
    assert_eq!((version.as_str(), bench.text().await.as_str()), ("1", "ours"));
    assert_eq!(bench.scripted.count(Operation::Put), 1);
}

#[tokio::test(start_paused = true)]
async fn a_create_that_was_lost_on_the_way_is_repeated() {
    let bench = Bench::new();
    bench.scripted.push_times(2, Operation::Put, lost);
    assert_eq!(bench.create("ours").await.unwrap().as_str(), "1");
    assert_eq!(bench.scripted.count(Operation::Put), 3);
}

#[tokio::test(start_paused = true)]
async fn a_create_that_arrives_after_we_looked_is_ours_all_the_same() {
    let bench = Bench::new();
    // The first call after the lost put is the read, and the second call is the second put.
    bench.scripted.push(Operation::Put, lost().applied_before_call(2));
    assert_eq!(bench.create("ours").await.unwrap().as_str(), "1");
    assert_eq!(bench.text().await, "ours");
    assert_eq!(bench.scripted.count(Operation::Put), 2);
}

#[tokio::test(start_paused = true)]
async fn a_create_that_was_lost_while_another_writer_won_says_that_the_keks_differ() {
    for fault in [lost(), lost().applied_before_call(9), InjectedFault::hang()] {
        let bench = Bench::new();
        bench.scripted.push(Operation::Put, fault.overtaken_by(kek("theirs")));
        let error = bench.create("ours").await.unwrap_err();
        assert_eq!((error.kind(), error.existing()), (ErrorKind::AlreadyExists, Some(Existing::Different)));
        assert_eq!((error.retryable(), outcome(&error)), (Retry::Never, None));
        assert_eq!(bench.text().await, "theirs");
    }
}

#[tokio::test(start_paused = true)]
async fn a_create_overtaken_after_we_looked_says_that_the_keks_differ() {
    let bench = Bench::new();
    bench.scripted.push(Operation::Put, lost());
    // The read finds no key, and then another writer is faster than our second try.
    bench
        .scripted
        .push(Operation::Put, InjectedFault::error(ErrorKind::AlreadyExists).overtaken_by(kek("theirs")));
    let error = bench.create("ours").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert_eq!(bench.text().await, "theirs");
}

#[tokio::test(start_paused = true)]
async fn a_create_surely_not_applied_is_repeated_without_a_look() {
    let bench = Bench::new();
    bench.scripted.push_times(3, Operation::Put, refused);
    bench.create("ours").await.unwrap();
    assert_eq!((bench.scripted.count(Operation::Put), bench.scripted.count(Operation::Get)), (4, 0));
}

// Updating and overwriting.

#[tokio::test(start_paused = true)]
async fn an_update_whose_answer_was_lost_has_succeeded() {
    let bench = Bench::new();
    let version = bench.stored("old").await;
    bench.scripted.push(Operation::Put, lost().applied());
    assert_eq!(bench.update("new", &version).await.unwrap().as_str(), "2");
    assert_eq!(bench.scripted.count(Operation::Put), 1);
}

#[tokio::test(start_paused = true)]
async fn an_update_that_was_lost_on_the_way_is_repeated() {
    let bench = Bench::new();
    let version = bench.stored("old").await;
    bench.scripted.push(Operation::Put, lost());
    assert_eq!(bench.update("new", &version).await.unwrap().as_str(), "2");
    assert_eq!(bench.text().await, "new");
}

#[tokio::test(start_paused = true)]
async fn an_update_that_arrives_after_we_looked_is_ours_all_the_same() {
    let bench = Bench::new();
    let version = bench.stored("old").await;
    bench.scripted.push(Operation::Put, lost().applied_before_call(2));
    assert_eq!(bench.update("new", &version).await.unwrap().as_str(), "2");
    assert_eq!((bench.text().await.as_str(), bench.scripted.count(Operation::Put)), ("new", 2));
}

#[tokio::test(start_paused = true)]
async fn an_update_that_was_lost_while_another_writer_won_is_a_conflict() {
    for fault in [lost(), lost().applied()] {
        let bench = Bench::new();
        let version = bench.stored("old").await;
        bench.scripted.push(Operation::Put, fault.overtaken_by(kek("theirs")));
        let error = bench.update("ours", &version).await.unwrap_err();
        assert_eq!((error.kind(), error.retryable()), (ErrorKind::Conflict, Retry::Never));
        assert_eq!(bench.text().await, "theirs");
        assert_eq!(bench.scripted.count(Operation::Put), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn an_update_that_was_lost_while_another_deleted_the_key_is_not_found() {
    for fault in [lost(), lost().applied()] {
        let bench = Bench::new();
        let version = bench.stored("old").await;
        bench.scripted.push(Operation::Put, fault.overtaken_by_delete());
        let error = bench.update("ours", &version).await.unwrap_err();
        assert_eq!((error.kind(), bench.scripted.count(Operation::Put)), (ErrorKind::NotFound, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn an_overwrite_whose_answer_was_lost_is_looked_at_before_it_is_repeated() {
    for (fault, puts) in [(lost().applied(), 1), (lost(), 2)] {
        let bench = Bench::new();
        bench.stored("old").await;
        bench.scripted.push(Operation::Put, fault);
        let version = bench.kms.put(&name(), &kek("new"), PutMode::Overwrite).await.unwrap();
        assert_eq!((version.as_str(), bench.text().await.as_str()), ("2", "new"));
        assert_eq!(bench.scripted.count(Operation::Put), puts);
    }
}

// Deleting.

#[tokio::test(start_paused = true)]
async fn a_delete_whose_answer_was_lost_has_succeeded() {
    for (mode, left) in
        [(DeleteMode::Destroy, Deleted::Destroyed), (DeleteMode::Soft, Deleted::Recoverable { until: None })]
    {
        let bench = Bench::new();
        bench.stored("a").await;
        bench.scripted.push(Operation::Delete, lost().applied());
        assert_eq!(bench.kms.delete(&name(), mode).await.unwrap(), left);
        assert_eq!(bench.scripted.count(Operation::Delete), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_delete_that_was_surely_not_applied_still_finds_no_key() {
    let bench = Bench::new();
    bench.scripted.push(Operation::Delete, refused());
    let error = bench.kms.delete(&name(), DeleteMode::Destroy).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test(start_paused = true)]
async fn an_undelete_whose_answer_was_lost_has_succeeded() {
    let bench = Bench::new();
    let version = bench.stored("a").await;
    bench.kms.delete(&name(), DeleteMode::Soft).await.unwrap();
    bench.scripted.push(Operation::Undelete, lost().applied());
    assert_eq!(bench.kms.undelete(&name()).await.unwrap(), version);
    assert_eq!(bench.scripted.count(Operation::Undelete), 2);
    let error = bench.kms.undelete(&name()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "no try of this call has done anything");
}

// The last error.

#[tokio::test(start_paused = true)]
async fn a_final_failure_says_whether_the_outcome_is_unknown() {
    let bench = Bench::with(|options| options.retry.attempts = 3);
    bench.scripted.push_times(3, Operation::Put, lost);
    bench.scripted.push_times(3, Operation::Get, lost);
    let error = bench.create("ours").await.unwrap_err();
    assert_eq!(error.retryable(), Retry::Never);
    assert_eq!(outcome(&error), Some("unknown: it may have been stored"), "{error}");

    let bench = Bench::with(|options| options.retry.attempts = 3);
    bench.scripted.push_times(3, Operation::Delete, lost);
    let error = bench.kms.delete(&name(), DeleteMode::Destroy).await.unwrap_err();
    assert_eq!(outcome(&error), Some("unknown: it may have been deleted"), "{error}");

    let bench = Bench::with(|options| options.retry.attempts = 3);
    bench.scripted.push_times(3, Operation::Put, refused);
    bench.scripted.push_times(3, Operation::Delete, refused);
    assert_eq!(outcome(&bench.create("ours").await.unwrap_err()), None);
    let error = bench.kms.delete(&name(), DeleteMode::Destroy).await.unwrap_err();
    assert_eq!(outcome(&error), None);
}

#[tokio::test(start_paused = true)]
async fn a_lost_put_that_may_not_be_read_back_says_that_its_outcome_is_unknown() {
    for kind in [ErrorKind::PermissionDenied, ErrorKind::Unauthenticated, ErrorKind::Protocol] {
        let bench = Bench::new();
        bench.scripted.push(Operation::Put, lost().applied());
        bench.scripted.push(Operation::Get, InjectedFault::error(kind));
        let error = bench.create("ours").await.unwrap_err();
        assert_eq!((error.kind(), error.retryable()), (kind, Retry::Never));
        assert_eq!(outcome(&error), Some("unknown: it may have been stored"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_put_whose_look_fails_for_a_passing_reason_is_looked_at_again() {
    let bench = Bench::new();
    bench.scripted.push(Operation::Put, lost().applied());
    bench.scripted.push_times(3, Operation::Get, refused);
    assert_eq!(bench.create("ours").await.unwrap().as_str(), "1");
    assert_eq!((bench.scripted.count(Operation::Put), bench.scripted.count(Operation::Get)), (1, 4));
}

// Lists, probes, retiring.

#[tokio::test(start_paused = true)]
async fn a_list_is_started_anew_only_before_its_first_key() {
    let bench = Bench::new();
    bench.stored("a").await;
    bench.scripted.push_times(2, Operation::List, lost);
    let keys: Vec<_> = bench.kms.list().collect().await;
    assert!(keys.len() == 1 && keys[0].is_ok());
    assert_eq!(bench.scripted.count(Operation::List), 3);

    bench.scripted.reset();
    bench.scripted.push(Operation::List, lost().after_items(1));
    let keys: Vec<_> = bench.kms.list().collect().await;
    assert!(keys.len() == 2 && keys[0].is_ok());
    assert_eq!(keys[1].as_ref().unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(bench.scripted.count(Operation::List), 1);
}

#[tokio::test(start_paused = true)]
async fn a_list_that_goes_on_failing_ends_with_one_error() {
    let bench = Bench::with(|options| options.retry.attempts = 3);
    bench.scripted.push_times(9, Operation::List, refused);
    let keys: Vec<_> = bench.kms.list().collect().await;
    assert_eq!(keys.len(), 1);
    assert_eq!(keys[0].as_ref().unwrap_err().retryable(), Retry::Never);
    assert_eq!(bench.scripted.count(Operation::List), 3);
}

#[tokio::test(start_paused = true)]
async fn an_empty_list_is_empty() {
    let bench = Bench::new();
    assert_eq!(bench.kms.list().count().await, 0);
    assert_eq!(bench.scripted.count(Operation::List), 1);
}

#[tokio::test(start_paused = true)]
async fn a_probe_is_repeated_and_keeps_its_steps() {
    let bench = Bench::new();
    bench.scripted.push_times(2, Operation::Probe, refused);
    assert!(bench.kms.probed().await.failed.is_none());
    // A person who looks for a fault is not kept waiting until the deadline.
    bench.scripted.push_times(100, Operation::Probe, refused);
    let start = Instant::now();
    let probe = bench.kms.probed().await;
    let (step, error) = probe.failed.unwrap();
    assert_eq!((step, error.retryable(), probe.not_run), ("script", Retry::Never, vec!["store"]));
    assert_eq!(bench.scripted.count(Operation::Probe), 6);
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn retiring_is_repeated_since_it_does_no_harm_twice() {
    let bench = Bench::new();
    let version = bench.stored("old").await;
    let version = bench.update("new", &version).await.unwrap();
    bench.scripted.push(Operation::Retire, lost());
    assert_eq!(bench.kms.retire_superseded(&name(), &version).await.unwrap(), 1);
    bench.scripted.push(Operation::Retire, lost().applied());
    assert_eq!(bench.kms.retire_superseded(&name(), &version).await.unwrap(), 0);
    assert_eq!(bench.text().await, "new");
}

// Trace.

#[tokio::test(start_paused = true)]
async fn every_try_leaves_an_event_one_that_was_cut_off_too() {
    let recording = Recording::start().unwrap();
    let bench = Bench::new();
    let name = KeyName::new("traced-name").unwrap();
    bench.scripted.push(Operation::Put, InjectedFault::hang());
    bench.scripted.push(Operation::Put, refused());
    bench.kms.put(&name, &kek("a canary that is not to be seen"), PutMode::Create).await.unwrap();
    bench.kms.delete(&name, DeleteMode::Destroy).await.unwrap();
    let text = recording.text();
    let events: Vec<_> =
        text.lines().filter(|line| line.contains("traced-name") && line.contains("tried")).collect();
    let outcomes = ["timeout", "not-found", "unavailable", "not-found", "done", "done"];
    assert_eq!(events.len(), outcomes.len(), "{events:#?}");
    for (event, outcome) in events.iter().zip(outcomes) {
        assert!(event.contains(&format!("outcome={outcome}")), "{event} is not {outcome}");
    }
    assert!(!text.contains("canary that"));
}
