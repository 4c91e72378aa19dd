//! A replica of the operator on a host whose clock is an hour wrong.

use std::{collections::BTreeMap, path::Path};

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use kms_tests::{
    operator::{Run, Scene, condition},
    process::Process,
};
use serde_json::{Value, json};

/// A window of the policy that opens this many minutes from now, or has opened if there is a minus.
fn window(minutes: i64, duration: &str) -> Value {
    let opens = (Timestamp::now() + SignedDuration::from_mins(minutes)).to_zoned(TimeZone::UTC);
    let opens = format!("{} {} * * *", opens.minute(), opens.hour());
    // What a proof may begin while a rotation waits is another test.
    json!({"window": {"opens": opens, "duration": duration}, "verify": {"enabled": false}, "maxParallel": 2})
}

/// How far the first line of a log is ahead of the clock of this host.
fn ahead(log: &Path) -> anyhow::Result<Option<SignedDuration>> {
    let text = std::fs::read_to_string(log)?;
    let Some(line) = text.split_inclusive('\n').next().filter(|line| line.ends_with('\n')) else {
        return Ok(None);
    };
    let line: Value = serde_json::from_str(line)?;
    let logged: Timestamp = line["timestamp"].as_str().unwrap_or_default().parse()?;
    Ok(Some(logged.duration_since(Timestamp::now())))
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server and libfaketime: cargo xtask it operator"]
async fn a_replica_whose_clock_is_an_hour_wrong_keeps_to_the_window_and_to_the_lease() {
    for shift in [1, -1] {
        let names: Vec<String> = (0..6).map(|id| format!("n{id}")).collect();
        let osds: Vec<_> =
            names.iter().enumerate().map(|(id, name)| (id, name.as_str(), name.as_str())).collect();
        let scene = Scene::new(&osds).await;
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        // Closed now. By the wrong clock it is open: it opens in half an hour, or has closed half an hour ago.
        let closed = if shift > 0 { window(30, "1h") } else { window(-90, "1h") };
        scene.policy(closed).await;
        let wrong = Process::start_at_another_time(&scene, "wrong", &format!("{shift:+}h"), &log);
        let by = scene.until("a line of the log", async || ahead(&log)).await;
        assert!((by - SignedDuration::from_hours(shift)).abs() < SignedDuration::from_mins(5), "{by}");
        scene
            .until("every key to wait", async || {
                let keys = scene.keys().await;
                let waits = |key: &Value| {
                    let message = condition(key, "Ready")["message"].as_str().unwrap_or_default();
                    message.contains("may begin at")
                };
                let keys = keys.as_array().unwrap();
                Ok((keys.len() == osds.len() && keys.iter().all(waits)).then_some(()))
            })
            .await;
        assert_eq!(scene.holder().await.unwrap().as_deref(), Some("wrong"));
        assert_eq!(scene.jobs().await.len(), 0, "a rotation began outside of its window");
        // People read the time of the API server in the Lease.
        let lease =
            scene.cluster.call("GET", "coordination.k8s.io/v1", "leases/kms-operator", Value::Null).await;
        let renewed: Timestamp = lease["spec"]["renewTime"].as_str().unwrap().parse().unwrap();
        let off = renewed.duration_since(Timestamp::now()).abs();
        assert!(off < SignedDuration::from_mins(5), "{lease}");

        // Open now. By the wrong clock it has closed half an hour ago, or opens in half an hour.
        let clock = scene.replica_by(&scene.cluster.kubeconfig(&scene.token), "clock").await;
        scene.until("a first response", async || Ok(clock.clock.now())).await;
        let (server, _ended) = (clock.clock.clone(), clock.kill().await);
        let right = Process::start(&scene, "right");
        scene.policy(if shift > 0 { window(-30, "1h") } else { window(-30, "4h") }).await;
        let mut ran: BTreeMap<usize, Vec<String>> = BTreeMap::new();
        let mut rotate = async |least: usize| {
            scene
                .until("rotations", async || {
                    for (name, osd) in scene.end_jobs(&server, |_| Run::Succeeds).await {
                        ran.entry(osd).or_default().push(name);
                    }
                    Ok((ran.len() >= least).then_some(()))
                })
                .await;
        };
        rotate(3).await;
        drop(wrong);
        scene
            .until("the other replica to lead", async || {
                Ok((scene.holder().await?.as_deref() == Some("right")).then_some(()))
            })
            .await;
        // Both run on.
        let wrong = Process::start_at_another_time(&scene, "wrong", &format!("{shift:+}h"), &log);
        rotate(osds.len()).await;
        for (id, ..) in &osds {
            let _key = scene.until_ready_is(*id, "UpToDate").await;
        }
        assert!(ran.values().all(|jobs| jobs.len() == 1), "an OSD was rotated twice: {ran:?}");
        assert_eq!(scene.jobs().await.len(), osds.len());
        assert_eq!(right.terminate(), Some(0));
        scene
            .until("the replica with the wrong clock to lead", async || {
                Ok((scene.holder().await?.as_deref() == Some("wrong")).then_some(()))
            })
            .await;
        assert_eq!(wrong.terminate(), Some(0));
    }
}
