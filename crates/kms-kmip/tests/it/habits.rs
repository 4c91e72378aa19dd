//! The shared suite on the double with each habit of the table, at four versions of the protocol, with an index and
//! without.
//!
//! The whole matrix is `cargo xtask it kmip --sweep`. Without `--sweep`, the eight live tests share a third of the table,
//! since each suite takes seconds. Units run the last habit, all that fit together.

#![allow(
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and shows what it has measured"
)]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream};
use kms_conformance::{Options, Outcome};
use kms_core::{Freshness, KmsProvider as _, PutMode};
use kms_kmip::MemoryIndex;
use kms_testkit::{
    fake::kmip::{HABITS, Habit, KmipDouble, Unindexed},
    servers::sweeps,
};

use crate::{
    common::{Setup, kek, key},
    conformance::report,
};

/// Runs the suite on a server with a habit, and returns what is wrong.
async fn wrong(habit: Habit, version: (i32, i32), with_index: bool, options: Options) -> Vec<String> {
    let server = KmipDouble::start(habit.quirks(version)).await.unwrap();
    let setup = Setup::on(&server.endpoint(), server.pki());
    let (major, minor) = version;
    let setup = if habit.quirks(version).no_discovery && version != (1, 0) {
        // The user's way out: without Discover Versions the client takes the server for one of 1.0.
        setup.version(&format!("{major}.{minor}"))
    } else {
        setup
    };
    let setup = if with_index { setup.index(Arc::new(MemoryIndex::new())) } else { setup };
    let place = format!("{} at {}.{}, index: {with_index}", habit.name, version.0, version.1);
    let unindexed = if with_index { Unindexed::Works } else { habit.unindexed };
    if let Unindexed::Refused(words) = unindexed {
        let kmip = setup.build().await;
        let error = match kmip.put(&key("a"), &kek(), PutMode::Create).await {
            Ok(_) => return vec![format!("{place}: a write is not refused")],
            Err(error) => error.to_string(),
        };
        let mut wrong = Vec::new();
        if !error.contains(words) {
            wrong.push(format!("{place}: the refusal is {error:?}"));
        }
        if server.objects() > 0 {
            wrong.push(format!("{place}: {} objects are left behind", server.objects()));
        }
        return wrong;
    }
    if let Unindexed::Waits = unindexed {
        let (kmip, stored, begin) = (setup.build().await, kek(), Instant::now());
        let written = kmip.put(&key("a"), &stored, PutMode::Create).await;
        let waited = begin.elapsed() >= Duration::from_secs(2);
        let read = setup.build().await.get(&key("a"), Freshness::Fresh).await;
        let is_right = written.is_ok() && waited && read.as_ref().is_ok_and(|read| read.kek.ct_eq(&stored));
        return if is_right { vec![] } else { vec![format!("{place}: {written:?}, {waited}, {read:?}")] };
    }
    let allowed = if let Unindexed::Limited(words) = unindexed { words } else { &[] };
    let report = report(setup, &server.pki().bad_client, options).await;
    let failures = report.cases().iter().filter_map(|case| match &case.outcome {
        Outcome::Failed(why) if !allowed.iter().any(|words| why.contains(words)) => {
            let why: String = why.chars().take(300).collect();
            Some(format!("{place}: {}: {why}", case.name))
        }
        _ => None,
    });
    failures.collect()
}

/// Fails with everything that is wrong.
fn assert_right(wrong: &[String]) {
    assert!(wrong.is_empty(), "{} failures\n{}", wrong.len(), wrong.join("\n"));
}

/// How many suites run at the same time. Each waits for its server's clock, and for time limits.
const AT_ONCE: usize = 4;

async fn matrix(habits: &[Habit], version: (i32, i32), with_index: bool) {
    let begin = Instant::now();
    let runs = habits.iter().map(|habit| {
        // The suite runs many times, so each race in it needs few rounds.
        let options = Options::default().with_list_count(8).with_racers(8).with_rounds(1);
        let run = wrong(*habit, version, with_index, options);
        async { tokio::spawn(run).await.unwrap() }
    });
    let all: Vec<_> = stream::iter(runs).buffer_unordered(AT_ONCE).collect().await;
    println!("{version:?}, index: {with_index}: {} habits, {:.0?}", habits.len(), begin.elapsed());
    assert_right(&all.concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_passes_on_a_server_with_all_habits_that_fit_together() {
    for (version, with_index) in [((1, 0), false), ((1, 4), true), ((2, 1), false)] {
        matrix(&HABITS[HABITS.len() - 1..], version, with_index).await;
    }
}

/// The habits for one of the eight tests of the matrix.
fn share(test: usize) -> Vec<Habit> {
    let mine = HABITS.iter().enumerate().filter(|(at, _)| sweeps() || at % 24 == test);
    mine.map(|(_, habit)| *habit).collect()
}

macro_rules! matrices {
    ($($name:ident = $test:literal, $version:expr, $index:literal;)*) => {$(
        #[tokio::test(flavor = "multi_thread")]
        #[ignore = "takes a minute: cargo xtask it kmip"]
        async fn $name() {
            matrix(&share($test), $version, $index).await;
        }
    )*};
}

matrices! {
    the_suite_passes_under_the_habits_at_1_0_with_an_index = 0, (1, 0), true;
    the_suite_passes_under_the_habits_at_1_0_without_an_index = 1, (1, 0), false;
    the_suite_passes_under_the_habits_at_1_4_with_an_index = 2, (1, 4), true;
    the_suite_passes_under_the_habits_at_1_4_without_an_index = 3, (1, 4), false;
    the_suite_passes_under_the_habits_at_2_0_with_an_index = 4, (2, 0), true;
    the_suite_passes_under_the_habits_at_2_0_without_an_index = 5, (2, 0), false;
    the_suite_passes_under_the_habits_at_2_1_with_an_index = 6, (2, 1), true;
    the_suite_passes_under_the_habits_at_2_1_without_an_index = 7, (2, 1), false;
}
