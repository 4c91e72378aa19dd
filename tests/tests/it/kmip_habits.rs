//! The shared suite on KMIP servers with identifiers in Secrets on a real API server: on the double with each habit of
//! the table, and on the server in Go.
use kms_conformance::{Options, Report, Subject, run};
use kms_testkit::{
    fake::kmip::{HABITS, Habit, KmipDouble},
    servers::{KmipGo, Pki, sweeps},
};
use kms_tests::stores::{Store, arguments, provider};

/// Each habit meets one of these versions.
const VERSIONS: [(i32, i32); 4] = [(1, 0), (1, 4), (2, 0), (2, 1)];

/// Runs the suite, with few rounds of each race since it runs many times.
async fn suite(endpoint: &str, pki: &Pki) -> Report {
    let store = Store::on_kmip(endpoint, pki, true).await.unwrap();
    let second = provider(&arguments(&store.kms)).await.unwrap();
    let subject = Subject::new(store.provider.clone()).with_second(second);
    run(&subject, &Options::default().with_list_count(8).with_racers(8).with_rounds(1)).await
}

/// Runs the suite under some habits, one after the other, and returns what is wrong.
async fn lane_of(rows: Vec<(Habit, (i32, i32))>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (habit, version) in rows {
        let server = KmipDouble::start(habit.quirks(version)).await.unwrap();
        let report = suite(&server.endpoint(), server.pki()).await;
        if !report.is_ok() {
            wrong.push(format!("{} at {version:?}: {:?}", habit.name, report.failed()));
        }
    }
    wrong
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Kubernetes API server: cargo xtask it kmip"]
async fn the_suite_passes_under_every_habit_with_identifiers_in_secrets() {
    // The table takes minutes on a real API server; without `--sweep` only its first line runs.
    let count = if sweeps() { HABITS.len() } else { 1 };
    // Without Discover Versions a client without a setting takes the server for one of 1.0.
    let row = |(habit, version): (Habit, _)| {
        (habit, if habit.quirks(version).no_discovery { VERSIONS[0] } else { version })
    };
    let rows: Vec<_> =
        HABITS.iter().copied().zip(VERSIONS.into_iter().cycle()).map(row).take(count).collect();
    // Three suites at a time, since each waits for time limits.
    let lane = |lane| lane_of(rows.iter().skip(lane).step_by(3).copied().collect());
    let (first, second, third) = tokio::join!(lane(0), lane(1), lane(2));
    let wrong = [first, second, third].concat();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a KMIP server and a Kubernetes API server: cargo xtask it kmip"]
async fn the_suite_passes_on_the_server_in_go_with_identifiers_in_secrets() {
    for habits in [&[][..], &["-keep-last", "-shuffle"]] {
        let server = KmipGo::start(habits).await.unwrap();
        suite(&server.endpoint(), server.pki()).await.assert_ok();
    }
}
