//! The suite on the reference provider, and on broken providers, whose defects it must notice.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::StreamExt;
use kms_conformance::{Cut, Exception, Interference, ListCuts, Misled, Options, Outcome, Report, Subject};
use kms_core::{
    Capability, DeleteMode, Error, ErrorKind, Existing, Freshness, Guarantee, HistoryMode, Kek, KekState,
    KeyName, KeyStream, KeyVersion, KmsProvider, KmsProviderExt, PastKek, Probe, PutMode, Result, Retry,
    Stored, UpdateRight,
    layer::{self, LayerOptions},
    memory::Memory,
    provider::Deleted,
};
use kms_testkit::fake::{InjectedFault, Operation, Scripted};

const TOKEN: &str = "s.2kRt8wq0Zr9sWq81mB4vTnXc";
/// The token that a defect logs. All tests of this process share one log, so only the run with the defect searches for it.
const LOGGED_TOKEN: &str = "s.7hQm3ye5Lp2dXc64uJ9bKfVa";

/// The KEK of another client.
const OF_ANOTHER: &str = "of the other one";

/// A provider whose calls all fail in the same way.
fn failing(kind: ErrorKind) -> Arc<dyn KmsProvider> {
    use Operation::{Delete, Get, History, List, Probe, Put, Retire, Undelete};
    let scripted = Scripted::new();
    for operation in [Delete, Get, History, List, Probe, Put, Retire, Undelete] {
        scripted.push_times(100, operation, || InjectedFault::error(kind));
    }
    Arc::new(scripted)
}

/// The switch of a client whose calls fail without it.
#[derive(Debug)]
struct Idle;

impl Interference for Idle {
    fn habits(&self) -> Vec<&'static str> {
        vec!["nothing"]
    }

    fn begin(&self, _: usize, _: Misled) {}

    fn end(&self) {}
}

/// A store in memory cuts no list.
impl ListCuts for Idle {
    fn ways(&self) -> Vec<(&'static str, Cut)> {
        Vec::new()
    }

    fn begin(&self, _: usize) {}

    fn end(&self) {}
}

fn subject(provider: Arc<dyn KmsProvider>) -> Subject {
    Subject::new(provider)
        .with_cuts(Arc::new(Idle))
        .with_misled(failing(ErrorKind::Protocol), Arc::new(Idle))
        .with_unreachable(failing(ErrorKind::Unavailable))
        .with_denied(failing(ErrorKind::PermissionDenied))
}

fn options() -> Options {
    Options::default().with_secret("the token", TOKEN)
}

/// Only the cases about absent capabilities are skipped.
fn assert_complete(report: &Report) {
    report.assert_ok();
    for name in report.skipped() {
        let about_absence = name.contains("where_it_is_not_possible")
            || name == "a_kek_above_the_limit_is_refused_and_not_stored";
        assert!(about_absence, "{name} was skipped:\n{report}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_passes_every_case() {
    let store = Arc::new(Memory::new());
    assert_complete(&kms_conformance::run(&subject(store.clone()).with_second(store), &options()).await);
}

#[tokio::test]
async fn memory_passes_on_a_single_thread() {
    kms_conformance::suite(Arc::new(Memory::new())).await.assert_ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_behind_the_standard_layers_passes_every_case() {
    let store: Arc<dyn KmsProvider> = Arc::new(Memory::new());
    let client = || layer::standard(store.clone(), &LayerOptions::default());
    let subject = subject(client()).with_second(client());
    assert_complete(&kms_conformance::run(&subject, &options()).await);
}

/// What a [`Broken`] provider does wrong.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Defect {
    CreateIsCheckedTooEarly,
    CreateOverwrites,
    /// Its capability says that creates are not atomic.
    CreatorsRace,
    DebugShowsKeks,
    DeleteOfAbsentIsDone,
    DeleteIsSoftOnly,
    ErrorShowsKeks,
    ExistingIsGuessed,
    GetHangs,
    GetIsStale,
    GetPanics,
    HistoryForgetsOne,
    HistoryIsOldestFirst,
    HistoryRestores,
    KeksAreCut,
    KeksAreTrimmed,
    ListForgetsOne,
    LogShowsKeks,
    LogShowsToken,
    MayUpdateIsDenied,
    MayUpdateWrites,
    NamesAreCut,
    NamesAreLowerCase,
    NothingIsDeleted,
    ProbeWrites,
    /// Another client writes right after each put. Its capability says that creates are not atomic.
    PutIsOvertaken,
    RetireDestroysAll,
    UndeleteCreates,
    UndeleteTakesAnyVersion,
    UnsupportedIsTried,
    UpdateIgnoresTheVersion,
    UpdateOfAbsentCreates,
    UpdateWithTheSameKekIsSkipped,
}

/// A memory provider with a defect.
struct Broken {
    inner: Memory,
    defect: Defect,
    /// What was stored first under each name.
    first: Mutex<BTreeMap<KeyName, Kek>>,
}

impl Broken {
    fn new(defect: Defect) -> Self {
        Self { inner: Memory::new(), defect, first: Mutex::default() }
    }

    fn mapped(&self, name: &KeyName) -> KeyName {
        let text = name.as_str();
        match self.defect {
            Defect::NamesAreCut => KeyName::new(text.chars().take(63).collect::<String>()).unwrap(),
            Defect::NamesAreLowerCase => KeyName::new(text.to_lowercase()).unwrap(),
            _ => name.clone(),
        }
    }
}

impl fmt::Debug for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Broken")?;
        if self.defect == Defect::DebugShowsKeks {
            f.debug_list()
                .entries(
                    self.first
                        .lock()
                        .unwrap()
                        .values()
                        .map(|kek| kek.expose_secret_text().unwrap().as_bytes()),
                )
                .finish()?;
        }
        Ok(())
    }
}

#[async_trait]
impl KmsProvider for Broken {
    fn provider(&self) -> &'static str {
        "broken"
    }

    fn capability(&self) -> Capability {
        match self.defect {
            Defect::UnsupportedIsTried => Capability::full()
                .with_create(Guarantee::Unsupported)
                .with_update(Guarantee::Unsupported)
                .with_list(false)
                .with_soft_delete(false)
                .with_versions(false)
                .with_history(false)
                .with_max_kek_bytes(1024),
            Defect::CreatorsRace | Defect::PutIsOvertaken => {
                Capability::full().with_create(Guarantee::CheckThenAct)
            }
            _ => Capability::full(),
        }
    }

    async fn put(&self, name: &KeyName, kek: &Kek, mode: PutMode) -> Result<KeyVersion> {
        let name = &self.mapped(name);
        self.first.lock().unwrap().entry(name.clone()).or_insert_with(|| kek.duplicate());
        let create = mode == PutMode::Create;
        match self.defect {
            Defect::CreateIsCheckedTooEarly if create => {
                if self.inner.get(name, Freshness::Fresh).await.is_ok() {
                    return self.inner.put(name, kek, mode).await;
                }
                tokio::task::yield_now().await;
                self.inner.put(name, kek, PutMode::Overwrite).await
            }
            Defect::CreatorsRace => {
                if create && self.inner.get(name, Freshness::Fresh).await.is_ok() {
                    return Err(Error::already_exists(name, Existing::Unknown));
                }
                // Each writer takes a different time from its read to its write.
                let pause =
                    kek.expose_secret_text().unwrap().bytes().take(8).map(u64::from).sum::<u64>() % 200;
                tokio::time::sleep(Duration::from_millis(pause)).await;
                self.inner.put(name, kek, PutMode::Overwrite).await
            }
            Defect::PutIsOvertaken => {
                let version = self.inner.put(name, kek, mode).await?;
                self.inner.put(name, &Kek::parse(OF_ANOTHER)?, PutMode::Overwrite).await?;
                Ok(version)
            }
            Defect::CreateOverwrites if create => self.inner.put(name, kek, PutMode::Overwrite).await,
            Defect::ErrorShowsKeks => self.inner.put(name, kek, mode).await.map_err(|error| {
                error.source(std::io::Error::other(format!(
                    "body: {{\"key\":{:?}}}",
                    kek.expose_secret_text().unwrap()
                )))
            }),
            Defect::ExistingIsGuessed => match self.inner.put(name, kek, mode).await {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    Err(Error::already_exists(name, Existing::Same))
                }
                result => result,
            },
            Defect::KeksAreCut => {
                let cut: String = kek.expose_secret_text().unwrap().chars().take(4096).collect();
                self.inner.put(name, &Kek::parse(cut)?, mode).await
            }
            Defect::KeksAreTrimmed => {
                self.inner.put(name, &Kek::parse(kek.expose_secret_text().unwrap().trim())?, mode).await
            }
            Defect::LogShowsKeks => {
                let body: String = kek.expose_secret_text().unwrap().chars().take(40).collect();
                std::thread::spawn(move || tracing::trace!(body, "sending")).join().unwrap();
                self.inner.put(name, kek, mode).await
            }
            Defect::LogShowsToken => {
                log::debug!("x-vault-token: {LOGGED_TOKEN}");
                self.inner.put(name, kek, mode).await
            }
            Defect::UpdateIgnoresTheVersion if matches!(mode, PutMode::Update(_)) => {
                self.inner.get(name, Freshness::Fresh).await?;
                self.inner.put(name, kek, PutMode::Overwrite).await
            }
            Defect::UpdateOfAbsentCreates
                if matches!(mode, PutMode::Update(_))
                    && self.inner.get(name, Freshness::Any).await.is_err() =>
            {
                self.inner.put(name, kek, PutMode::Create).await
            }
            // The API server of Kubernetes does this if a write does not change an object.
            Defect::UpdateWithTheSameKekIsSkipped => {
                if let (PutMode::Update(expected), Ok(stored)) =
                    (&mode, self.inner.get(name, Freshness::Fresh).await)
                    && *expected == stored.version
                    && stored.kek.ct_eq(kek)
                {
                    return Ok(stored.version);
                }
                self.inner.put(name, kek, mode).await
            }
            _ => self.inner.put(name, kek, mode).await,
        }
    }

    async fn get(&self, name: &KeyName, freshness: Freshness) -> Result<Stored> {
        let name = &self.mapped(name);
        let mut stored = self.inner.get(name, freshness).await?;
        match self.defect {
            Defect::GetHangs => std::future::pending().await,
            Defect::GetIsStale => stored.kek = self.first.lock().unwrap().get(name).unwrap().duplicate(),
            Defect::GetPanics => panic!("the provider panics"),
            _ => {}
        }
        Ok(stored)
    }

    async fn delete(&self, name: &KeyName, mode: DeleteMode) -> Result<Deleted> {
        let name = &self.mapped(name);
        // The suite leaves keys behind.
        if self.defect == Defect::NothingIsDeleted {
            return self.inner.get(name, Freshness::Any).await.map(|_| Deleted::Destroyed);
        }
        match (self.defect, self.inner.delete(name, mode).await) {
            (Defect::DeleteOfAbsentIsDone, Err(error)) if error.kind() == ErrorKind::NotFound => {
                Ok(Deleted::Destroyed)
            }
            (Defect::DeleteIsSoftOnly, Ok(_)) => Ok(Deleted::Recoverable { until: None }),
            (_, result) => result,
        }
    }

    fn list(&self) -> KeyStream<'_> {
        let forgotten = usize::from(self.defect == Defect::ListForgetsOne);
        Box::pin(self.inner.list().skip(forgotten))
    }

    async fn undelete(&self, name: &KeyName) -> Result<KeyVersion> {
        let name = &self.mapped(name);
        match (self.defect, self.inner.undelete(name).await) {
            (Defect::UndeleteCreates, Err(error)) if error.kind() == ErrorKind::NotFound => {
                self.inner.put(name, &Kek::generate()?, PutMode::Create).await
            }
            (Defect::UndeleteTakesAnyVersion, Ok(_)) => {
                let first = self.first.lock().unwrap().get(name).unwrap().duplicate();
                self.inner.put(name, &first, PutMode::Overwrite).await
            }
            (_, result) => result,
        }
    }

    async fn history(&self, name: &KeyName, mode: HistoryMode) -> Result<Vec<PastKek>> {
        let name = &self.mapped(name);
        let mut past = self.inner.history(name, mode).await?;
        match self.defect {
            Defect::HistoryForgetsOne => drop(past.pop()),
            Defect::HistoryIsOldestFirst => past.reverse(),
            Defect::HistoryRestores if past.iter().all(|one| one.state == KekState::Deleted) => {
                self.inner.undelete(name).await?;
            }
            _ => {}
        }
        Ok(past)
    }

    async fn retire_superseded(&self, name: &KeyName, current: &KeyVersion) -> Result<usize> {
        let name = &self.mapped(name);
        let retired = self.inner.retire_superseded(name, current).await?;
        if self.defect == Defect::RetireDestroysAll {
            self.inner.delete(name, DeleteMode::Destroy).await?;
        }
        Ok(retired)
    }

    async fn may_update(&self, names: &[KeyName]) -> Result<Vec<UpdateRight>> {
        if self.defect == Defect::MayUpdateWrites {
            for name in names {
                let name = self.mapped(name);
                self.inner.put(&name, &Kek::generate().unwrap(), PutMode::Overwrite).await.unwrap();
            }
        }
        let mut rights = self.inner.may_update(names).await?;
        if self.defect == Defect::MayUpdateIsDenied {
            rights.fill(UpdateRight::Denied);
        }
        Ok(rights)
    }

    async fn probe(&self, probe: &mut Probe) {
        if self.defect == Defect::ProbeWrites {
            let mut list = self.inner.list();
            while let Some(info) = list.next().await {
                let name = info.unwrap().name;
                self.inner.put(&name, &Kek::generate().unwrap(), PutMode::Overwrite).await.unwrap();
            }
        }
        self.inner.probe(probe).await;
    }
}

async fn run_broken(defect: Defect) -> Report {
    let provider = Arc::new(Broken::new(defect));
    let limit = match defect {
        Defect::GetHangs => Duration::from_millis(20),
        _ => Duration::from_secs(60),
    };
    let mut options = options().with_case_limit(limit);
    if defect == Defect::LogShowsToken {
        options = options.with_secret("the token", LOGGED_TOKEN);
    }
    kms_conformance::run(&subject(provider), &options).await
}

/// The cases that must notice each defect. Further cases may fail too; these describe the defect best.
const NOTICED: &[(Defect, &[&str])] = &[
    (
        Defect::CreateIsCheckedTooEarly,
        &["many_who_ensure_one_key_get_the_same_kek", "many_who_create_one_key_have_one_winner"],
    ),
    (
        Defect::CreateOverwrites,
        &[
            "put_create_refuses_an_existing_key_with_another_kek",
            "put_create_refuses_an_existing_key_with_the_same_kek",
        ],
    ),
    (Defect::DebugShowsKeks, &["no_value_or_error_shows_a_kek_or_a_credential"]),
    (Defect::DeleteIsSoftOnly, &["delete_destroys_a_key"]),
    (
        Defect::DeleteOfAbsentIsDone,
        &["delete_of_an_absent_key_is_not_found", "soft_delete_of_an_absent_key_is_not_found"],
    ),
    (Defect::ErrorShowsKeks, &["no_value_or_error_shows_a_kek_or_a_credential"]),
    (
        Defect::ExistingIsGuessed,
        &["put_create_refuses_an_existing_key_with_another_kek", "many_who_create_one_key_have_one_winner"],
    ),
    (Defect::GetHangs, &["get_returns_the_same_each_time"]),
    (Defect::GetIsStale, &["put_overwrite_replaces_a_key", "get_sees_every_write_of_this_client"]),
    (Defect::GetPanics, &["get_returns_the_same_each_time"]),
    (Defect::HistoryForgetsOne, &["history_has_every_kek_the_newest_first"]),
    (Defect::HistoryIsOldestFirst, &["history_has_every_kek_the_newest_first"]),
    (Defect::HistoryRestores, &["history_of_a_deleted_key_leaves_it_deleted"]),
    (Defect::KeksAreCut, &["keks_of_every_size_come_back"]),
    (Defect::KeksAreTrimmed, &["keks_of_every_kind_of_text_come_back"]),
    (Defect::ListForgetsOne, &["list_shows_every_key_exactly_once_over_many_pages"]),
    (Defect::LogShowsKeks, &["no_log_shows_a_kek_or_a_credential"]),
    (Defect::LogShowsToken, &["no_log_shows_a_kek_or_a_credential"]),
    (
        Defect::NamesAreCut,
        &["names_of_every_length_work", "long_names_that_differ_at_the_end_are_different_keys"],
    ),
    (Defect::NamesAreLowerCase, &["names_that_look_alike_are_different_keys"]),
    (Defect::NothingIsDeleted, &["delete_destroys_a_key", "nothing_is_left_behind"]),
    (Defect::MayUpdateIsDenied, &["may_update_agrees_with_update"]),
    (Defect::MayUpdateWrites, &["may_update_changes_nothing"]),
    (Defect::ProbeWrites, &["probe_changes_nothing"]),
    (Defect::RetireDestroysAll, &["superseded_versions_are_retired_and_the_current_one_stays"]),
    (Defect::UndeleteCreates, &["undelete_of_an_absent_key_is_not_found"]),
    (Defect::UndeleteTakesAnyVersion, &["undelete_brings_back_the_same_kek"]),
    (
        Defect::UnsupportedIsTried,
        &[
            "history_is_unsupported_where_it_is_not_possible",
            "undelete_is_unsupported_where_it_is_not_possible",
            "list_is_unsupported_where_it_is_not_possible",
            "retire_is_unsupported_where_it_is_not_possible",
            "soft_delete_is_unsupported_where_it_is_not_possible",
        ],
    ),
    (
        Defect::UpdateIgnoresTheVersion,
        &[
            "put_update_with_a_stale_version_changes_nothing",
            "two_who_update_one_version_have_one_winner",
            "many_who_update_in_turn_lose_no_update",
        ],
    ),
    (Defect::UpdateOfAbsentCreates, &["put_update_of_an_absent_key_is_not_found"]),
    (Defect::UpdateWithTheSameKekIsSkipped, &["an_update_with_the_same_kek_makes_the_version_before_stale"]),
];

#[tokio::test]
async fn every_defect_is_noticed_by_the_case_that_is_about_it() {
    for (defect, cases) in NOTICED {
        let report = run_broken(*defect).await;
        let failed = report.failed();
        for case in *cases {
            assert!(failed.contains(case), "{case} does not notice {defect:?}:\n{report}");
        }
        // The other cases still show that the rest of the provider works.
        let breaks_everything = matches!(
            defect,
            Defect::GetHangs | Defect::GetIsStale | Defect::GetPanics | Defect::NothingIsDeleted
        );
        assert!(breaks_everything || failed.len() <= 9, "{defect:?} fails more than it should:\n{report}");
    }
}

/// A provider need not check its puts: the layer [`Contract`](kms_core::layer::Contract) does, for the suite too.
#[tokio::test]
async fn the_contract_layer_refuses_unsupported_puts_for_the_provider() {
    let report = run_broken(Defect::UnsupportedIsTried).await;
    for case in [
        "a_kek_above_the_limit_is_refused_and_not_stored",
        "put_create_is_unsupported_where_it_is_not_possible",
        "put_update_is_unsupported_where_it_is_not_possible",
    ] {
        let found = report.cases().iter().find(|found| found.name == case).unwrap();
        assert_eq!(found.outcome, Outcome::Passed, "{report}");
    }
}

#[tokio::test]
async fn a_failure_says_what_was_wrong_and_shows_no_secret() {
    for defect in [Defect::LogShowsToken, Defect::ErrorShowsKeks, Defect::GetPanics, Defect::GetHangs] {
        let report = run_broken(defect).await;
        let text = report.to_string();
        assert!(!text.contains(&TOKEN[2..18]), "{text}");
        assert!(!text.contains(&LOGGED_TOKEN[2..18]), "{text}");
        let says = match defect {
            Defect::LogShowsToken => "the token as it is: DEBUG memory: x-vault-token: <HERE>",
            Defect::ErrorShowsKeks => r#"error: "body: {\"key\":\"<HERE>"#,
            Defect::GetPanics => "panicked: the provider panics",
            _ => "not done within 20ms",
        };
        assert!(text.contains(says), "{text}");
    }
}

#[tokio::test]
#[should_panic(expected = "FAILED")]
async fn assert_ok_panics_with_a_table() {
    run_broken(Defect::ListForgetsOne).await.assert_ok();
}

#[tokio::test]
async fn the_ledger_excuses_what_fails_and_nothing_else() {
    let case = "list_shows_every_key_exactly_once_over_many_pages";
    let broken = || subject(Arc::new(Broken::new(Defect::ListForgetsOne)));
    let failing = run_broken(Defect::ListForgetsOne).await.failed();
    let excuse = |case| Exception::new("broken", case, "it forgets one").of_version("1");
    let options =
        || options().with_server_version("1.2").with_exceptions(failing.iter().map(|case| excuse(case)));

    let report = kms_conformance::run(&broken(), &options()).await;
    report.assert_ok();
    let excused = report.cases().iter().find(|found| found.name == case).unwrap();
    assert!(matches!(excused.outcome, Outcome::Excused { reason: "it forgets one", .. }), "{report}");

    // The next version of the server no longer has the defect.
    let whole = subject(Arc::new(Broken::new(Defect::ExistingIsGuessed)));
    let report = kms_conformance::run(&whole, &options()).await;
    assert!(report.ledger_problems().iter().any(|problem| problem.contains(case)), "{report}");
}

#[tokio::test]
async fn ensure_where_creating_is_check_then_act_returns_what_is_stored() {
    let (kms, name) = (Broken::new(Defect::PutIsOvertaken), KeyName::new("set1-data-0").unwrap());
    let ensured = kms.ensure(&name, Kek::generate().unwrap()).await.unwrap();
    assert!(!ensured.created);
    assert_eq!(ensured.stored.kek.expose_secret_text().unwrap(), OF_ANOTHER);
}

#[tokio::test(start_paused = true)]
async fn racers_agree_also_where_the_server_does_not_decide() {
    for round in 0..20 {
        let kms = Broken::new(Defect::CreatorsRace);
        let name = KeyName::new(format!("raced-{round}")).unwrap();
        let racers = (0..20).map(|_| kms.ensure(&name, Kek::generate().unwrap()));
        let found = futures_util::future::try_join_all(racers).await.unwrap();
        let prints: BTreeSet<_> = found.iter().map(|ensured| ensured.stored.kek.fingerprint()).collect();
        assert_eq!(prints.len(), 1);
        assert_eq!(found.iter().filter(|ensured| ensured.created).count(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn ensure_behind_the_layers_survives_a_lost_answer() {
    let scripted = Arc::new(Scripted::new());
    scripted
        .push(Operation::Put, InjectedFault::error(ErrorKind::Timeout).retry(Retry::IfIdempotent).applied());
    let kms = layer::standard(scripted.clone(), &LayerOptions::default());
    let name = KeyName::new("set1-data-0").unwrap();
    let candidate = Kek::generate().unwrap();
    let ensured = kms.ensure(&name, candidate.duplicate()).await.unwrap();
    assert!(ensured.created && ensured.stored.kek.ct_eq(&candidate));
    assert_eq!(scripted.count(Operation::Put), 1);
}
