//! Migrations by the program between all pairs of providers, killed at random moments and resumed.
//!
//! The short run takes each provider once as source and once as target. `cargo xtask it migrate --sweep` takes all ordered
//! pairs with a hundred keys and two hundred kills.
#![expect(clippy::print_stdout, reason = "the figures are what a long run is for")]

use std::{
    path::PathBuf,
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use kms_core::{Freshness, HistoryMode, Kek, KeyName, KmsProvider, PutMode};
use kms_testkit::{figures, servers};
use kms_tests::{
    Kms, Ran,
    crash::{Dice, End},
    documents::keep_file,
    stores::{self, Store, Which},
};
use tokio::{sync::Mutex, task::block_in_place};

/// How many keys the setup of a store writes at a time.
const AT_A_TIME: usize = 8;
/// How many kills in a row a copy has to survive at most.
const CHAIN: usize = 4;

/// What a run covers.
struct Extent {
    keys: usize,
    /// The kills for each pair.
    kills: usize,
    pairs: Vec<(usize, usize)>,
}

impl Extent {
    fn new() -> Self {
        let count = Which::ALL.len();
        let all = (0..count).flat_map(|from| (0..count).map(move |to| (from, to)));
        let pairs: Vec<_> = all.filter(|(from, to)| from != to).collect();
        if servers::sweeps() {
            // 30 pairs, 220 kills.
            Self { keys: 100, kills: 8, pairs }
        } else {
            // Each store once as source and once as target.
            let ring = pairs.into_iter().filter(|(from, to)| (from + 1) % count == *to).collect();
            Self { keys: 12, kills: 2, pairs: ring }
        }
    }
}

/// A store with its own keys.
struct Side {
    store: Store,
    names: Vec<KeyName>,
}

impl Side {
    async fn start(which: Which, keys: usize) -> Self {
        let store = Store::start(which).await.unwrap();
        let names: Vec<KeyName> =
            (0..keys).map(|number| format!("{which}-data-{number}").parse().unwrap()).collect();
        let provider = &store.provider;
        stream::iter(&names)
            .map(|name| async move { provider.put(name, &Kek::generate().unwrap(), PutMode::Create).await })
            .buffer_unordered(AT_A_TIME)
            .try_for_each(|_| async { Ok(()) })
            .await
            .unwrap();
        Self { store, names }
    }

    /// The files of the store, each after `option`; and the other arguments.
    fn arguments(&self, option: &str) -> (Vec<String>, Vec<String>) {
        let all = stores::arguments(&self.store.kms);
        let (files, others): (Vec<&[String]>, Vec<&[String]>) =
            all.chunks(2).partition(|pair| pair[0] == "-f");
        let files = files.into_iter().flat_map(|pair| [option.to_owned(), pair[1].clone()]).collect();
        (files, others.concat())
    }
}

/// A pair of stores, and the program.
struct Migration<'a> {
    from: &'a Side,
    to: &'a Side,
    kms: Kms,
    arguments: Vec<String>,
}

impl<'a> Migration<'a> {
    fn new(from: &'a Side, to: &'a Side) -> Self {
        let ((files, mut others), (more, of_target)) = (from.arguments("--from"), to.arguments("--to"));
        // Both stores of a pair are on the same API server.
        if others.is_empty() {
            others = of_target;
        }
        Self { from, to, kms: Kms::new(), arguments: [files, more, others].concat() }
    }

    fn line<'b>(&'b self, step: &'b str, more: &[&'b str]) -> Vec<&'b str> {
        let mut line = vec!["-o", "json", "migrate", step];
        line.extend(self.arguments.iter().map(String::as_str));
        line.extend(more);
        line
    }

    fn run(&self, step: &str, more: &[&str]) -> Ran {
        // The doubles go on in other threads.
        block_in_place(|| self.kms.run(&self.line(step, more)))
    }

    fn step(&self, step: &str) -> Ran {
        self.run(step, &["--journal", "journal"]).want(0)
    }

    /// Copies, and kills the run at a moment.
    async fn killed(&self, after: Duration) -> End {
        let line = self.line("copy", &["--journal", "journal"]);
        let mut command = self.kms.command(&line);
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        tokio::time::sleep(after).await;
        let _gone = child.kill();
        End::of(&block_in_place(|| child.wait_with_output()).unwrap())
    }

    fn journal(&self) -> PathBuf {
        self.kms.folder().join("journal")
    }

    /// Checks that each key of the source has the same KEK at the target, and that the target never had another one.
    async fn assert_equal(&self, when: &str) {
        let (from, to) = (&self.from.store.provider, &self.to.store.provider);
        let wrong = stream::iter(self.from.names.clone())
            .map(|name| async move {
                let kek = from.get(&name, Freshness::Fresh).await.unwrap().kek;
                let there = to.get(&name, Freshness::Fresh).await.unwrap().kek;
                let past = to.history(&name, HistoryMode::ReadOnly).await.unwrap();
                let others =
                    past.iter().filter_map(|past| past.kek.as_ref()).filter(|past| !past.ct_eq(&kek));
                (!kek.ct_eq(&there) || others.count() > 0).then_some(name)
            })
            .buffer_unordered(AT_A_TIME)
            .filter_map(|name| async move { name })
            .collect::<Vec<_>>();
        assert_eq!(wrong.await, Vec::<KeyName>::new(), "{self}: {when}");
    }

    /// Takes the migration back, and checks that both sides have their own keys alone.
    async fn take_back(&self) {
        let undone = self.step("abort").json();
        assert_eq!(undone["ok"], true, "{self}: {undone}");
        for side in [self.from, self.to] {
            let listed = side.store.provider.list().map_ok(|info| info.name).try_collect::<Vec<_>>();
            let mut listed = listed.await.unwrap();
            listed.sort();
            let mut own = side.names.clone();
            own.sort();
            assert_eq!(listed, own, "{self}: {}", side.store.which);
        }
        std::fs::remove_file(self.journal()).unwrap();
    }
}

impl std::fmt::Display for Migration<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} to {}", self.from.store.which, self.to.store.which)
    }
}

/// Migrates between two stores, with kills. Returns their number.
async fn pair(from: &Side, to: &Side, keys: usize, kills: usize, seed: u64) -> usize {
    let migration = Migration::new(from, to);
    let plan = migration.run("plan", &[]).want(0).json();
    assert_eq!((&plan["ok"], &plan["outcomes"]["to-create"]), (&true.into(), &keys.into()), "{plan}");
    let begin = Instant::now();
    let copied = migration.step("copy").json();
    let takes = begin.elapsed();
    assert_eq!(copied["outcomes"]["created"], keys, "{migration}: {copied}");
    let verified = migration.step("verify").json();
    assert_eq!((&verified["outcomes"]["equal"], &verified["phase"]), (&keys.into(), &"verified".into()));
    migration.assert_equal("without a kill").await;
    let journal = std::fs::read_to_string(migration.journal()).unwrap();
    keep_file("migrate-journal", &journal, true);
    assert!(journal.contains("\"state\":\"verified\"") && !journal.contains("fingerprint"), "{journal}");
    migration.take_back().await;

    let mut dice = Dice::new(seed);
    let mut killed = 0;
    while killed < kills {
        let mut moments = Vec::new();
        for _ in 0..CHAIN.min(kills - killed) {
            let moment = takes.mul_f64(f64::from(u32::try_from(dice.below(1000)).unwrap()) / 1000.0);
            moments.push(moment);
            match migration.killed(moment).await {
                End::Killed => killed += 1,
                End::Done => {}
                end => panic!("{migration}: {moments:?}: {end:?}"),
            }
        }
        let copied = migration.step("copy").json();
        assert_eq!(copied["keys"], keys, "{migration}: {moments:?}: {copied}");
        migration.assert_equal(&format!("{moments:?}")).await;
        let verified = migration.step("verify").json();
        assert_eq!(verified["ok"], true, "{migration}: {moments:?}: {verified}");
        migration.take_back().await;
    }
    println!("{migration}: {keys} keys, {killed} kills, a copy takes {takes:?}");
    killed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
#[ignore = "needs a Vault server, a KMIP server and a Kubernetes API server: cargo xtask it migrate"]
async fn every_pair_survives_kills_at_random_moments() {
    let Extent { keys, kills, pairs } = Extent::new();
    let sides: Vec<Mutex<Side>> = stream::iter(Which::ALL)
        .then(|which| async move { Mutex::new(Side::start(which, keys).await) })
        .collect()
        .await;
    let sides = Arc::new(sides);
    let runs = pairs.into_iter().map(|(from, to)| {
        let sides = Arc::clone(&sides);
        tokio::spawn(async move {
            // A store takes part in one migration at a time. All tasks lock in the same order.
            let first = sides[from.min(to)].lock().await;
            let second = sides[from.max(to)].lock().await;
            let (from_side, to_side) = if from < to { (&*first, &*second) } else { (&*second, &*first) };
            // PyKMIP takes minutes to delete a hundred objects, so its pairs have one round of kills.
            let kills = if to_side.store.which == Which::Kmip { kills.min(CHAIN) } else { kills };
            pair(from_side, to_side, keys, kills, (10 * from + to) as u64).await
        })
    });
    let mut all = 0;
    for run in runs.collect::<Vec<_>>() {
        all += run.await.unwrap();
    }
    println!("{all} kills");
    figures::survived("a copy of a migration", all);
}
