//! Reading keys.

use std::time::{Duration, SystemTime};

use kms_core::{ErrorKind, Freshness, PutMode};

use super::{
    bench::{Bench, Verdict, kek, refused},
    cases, check,
};

/// The largest accepted difference between the clocks of client and server.
const CLOCKS_DIFFER: Duration = Duration::from_secs(24 * 3600);

cases![
    get_of_an_absent_key_is_not_found,
    get_returns_the_same_each_time,
    get_sees_every_write_of_this_client,
    a_fresh_get_sees_the_writes_of_another_client,
    get_tells_times_that_can_be_true,
];

async fn get_of_an_absent_key_is_not_found(bench: &Bench) -> Verdict {
    let name = bench.name("absent");
    for freshness in [Freshness::Any, Freshness::Fresh] {
        refused("get", bench.provider().get(&name, freshness).await, &[ErrorKind::NotFound])?;
    }
    Ok(())
}

async fn get_returns_the_same_each_time(bench: &Bench) -> Verdict {
    let (name, kek, version) = bench.made("there").await?;
    for freshness in [Freshness::Any, Freshness::Fresh, Freshness::Any] {
        let stored = bench.provider().get(&name, freshness).await?;
        check!(stored.kek.ct_eq(&kek), "another KEK with {freshness:?}");
        check!(stored.version == version, "version {version} has become {}", stored.version);
    }
    Ok(())
}

async fn get_sees_every_write_of_this_client(bench: &Bench) -> Verdict {
    let (name, ..) = bench.made("there").await?;
    for round in 0..bench.options.rounds {
        for freshness in [Freshness::Any, Freshness::Fresh] {
            let kek = kek();
            bench.provider().put(&name, &kek, PutMode::Overwrite).await?;
            let stored = bench.provider().get(&name, freshness).await?;
            check!(stored.kek.ct_eq(&kek), "a stale KEK with {freshness:?} in round {round}");
        }
    }
    Ok(())
}

async fn a_fresh_get_sees_the_writes_of_another_client(bench: &Bench) -> Verdict {
    bench.need(bench.capability().fresh_reads, "fresh reads are not possible")?;
    let (name, ..) = bench.made("there").await?;
    for round in 0..bench.options.rounds {
        let kek = kek();
        bench.second().put(&name, &kek, PutMode::Overwrite).await?;
        let stored = bench.provider().get(&name, Freshness::Fresh).await?;
        check!(stored.kek.ct_eq(&kek), "a stale KEK in round {round}");
        bench.second().delete(&name, kms_core::DeleteMode::Destroy).await?;
        bench.absent(&name).await?;
    }
    Ok(())
}

async fn get_tells_times_that_can_be_true(bench: &Bench) -> Verdict {
    let (name, ..) = bench.made("there").await?;
    bench.provider().put(&name, &kek(), PutMode::Overwrite).await?;
    let stored = bench.provider().get(&name, Freshness::Fresh).await?;
    let now = SystemTime::now();
    for time in [stored.created, stored.updated].into_iter().flatten() {
        let off = now.duration_since(time).unwrap_or_else(|error| error.duration());
        check!(off < CLOCKS_DIFFER, "the key was stored just now, and its time is {time:?}");
    }
    if let (Some(created), Some(updated)) = (stored.created, stored.updated) {
        check!(created <= updated, "created at {created:?} after updated at {updated:?}");
    }
    Ok(())
}
