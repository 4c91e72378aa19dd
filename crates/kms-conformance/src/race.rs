//! Concurrent calls.
//!
//! The tasks are spawned, so that a runtime with several threads runs them in parallel; half of them use the second
//! client where there is one.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use kms_core::{
    DeleteMode, ErrorKind, Existing, Freshness, Guarantee, Kek, KmsProvider, KmsProviderExt, PutMode, Result,
};
use tokio::sync::Barrier;

use super::{
    bench::{Bench, Stop, Verdict, described, kek, refused},
    cases, check,
};

cases![
    many_who_ensure_one_key_get_the_same_kek,
    many_who_create_one_key_have_one_winner,
    two_who_update_one_version_have_one_winner,
    many_who_update_in_turn_lose_no_update,
    many_who_write_different_keys_do_not_mix_them_up,
    a_read_during_updates_gives_one_of_the_keks,
    two_who_delete_one_key_both_leave_nothing,
];

/// Runs `count` tasks that start at the same moment, and returns their results.
async fn race<T, F>(
    bench: &Bench,
    count: usize,
    task: impl Fn(Arc<dyn KmsProvider>, usize) -> F,
) -> Verdict<Vec<T>>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let start = Arc::new(Barrier::new(count));
    let tasks: Vec<_> = (0..count)
        .map(|number| {
            let provider = if number % 2 == 0 { bench.provider() } else { bench.second() };
            let work = task(Arc::clone(provider), number);
            let start = Arc::clone(&start);
            tokio::spawn(async move {
                start.wait().await;
                work.await
            })
        })
        .collect();
    let mut results = Vec::new();
    for task in tasks {
        results.push(task.await.map_err(|error| Stop::Fail(format!("a task failed: {error}")))?);
    }
    Ok(results)
}

fn need_atomic(bench: &Bench, guarantee: Guarantee, what: &str) -> Verdict {
    bench.need(guarantee == Guarantee::Atomic, &format!("{what} is {}", guarantee.as_str()))
}

async fn many_who_ensure_one_key_get_the_same_kek(bench: &Bench) -> Verdict {
    need_atomic(bench, bench.capability().create, "creating")?;
    for round in 0..bench.options.rounds {
        let name = bench.name(&format!("ensured-{round}"));
        let results = race(bench, bench.options.racers, |provider, _| {
            let name = name.clone();
            async move { provider.ensure(&name, kek()).await }
        })
        .await?;
        let ensured = results.into_iter().collect::<Result<Vec<_>>>()?;
        let created = ensured.iter().filter(|ensured| ensured.created).count();
        check!(created == 1, "{created} of {} say that they created the key", ensured.len());
        let stored = bench.provider().get(&name, Freshness::Fresh).await?;
        let different = ensured.iter().filter(|ensured| !ensured.stored.kek.ct_eq(&stored.kek)).count();
        check!(different == 0, "{different} of {} got a KEK that is not the stored one", ensured.len());
    }
    Ok(())
}

async fn many_who_create_one_key_have_one_winner(bench: &Bench) -> Verdict {
    need_atomic(bench, bench.capability().create, "creating")?;
    for round in 0..bench.options.rounds {
        let name = bench.name(&format!("created-{round}"));
        let results = race(bench, bench.options.racers, |provider, _| {
            let name = name.clone();
            async move {
                let kek = kek();
                let result = provider.put(&name, &kek, PutMode::Create).await;
                (kek, result)
            }
        })
        .await?;
        let mut winners = Vec::new();
        for (kek, result) in results {
            match result {
                Ok(_) => winners.push(kek),
                Err(error) => {
                    let error = refused::<()>("put", Err(error), &[ErrorKind::AlreadyExists])?;
                    let existing = error.existing();
                    check!(existing == Some(Existing::Different), "a loser got {existing:?}");
                }
            }
        }
        check!(winners.len() == 1, "{} creations of one key have succeeded", winners.len());
        bench.holds(&name, &winners[0]).await?;
    }
    Ok(())
}

async fn two_who_update_one_version_have_one_winner(bench: &Bench) -> Verdict {
    need_atomic(bench, bench.capability().update, "updating")?;
    for round in 0..bench.options.rounds {
        let (name, _, version) = bench.made(&format!("updated-{round}")).await?;
        let results = race(bench, 2, |provider, _| {
            let (name, version) = (name.clone(), version.clone());
            async move {
                let kek = kek();
                let result = provider.put(&name, &kek, PutMode::Update(version)).await;
                (kek, result)
            }
        })
        .await?;
        let mut winners = Vec::new();
        for (kek, result) in results {
            match result {
                Ok(version) => winners.push((kek, version)),
                Err(error) => drop(refused::<()>("put", Err(error), &[ErrorKind::Conflict])?),
            }
        }
        check!(winners.len() == 1, "{} updates of one version have succeeded", winners.len());
        let (kek, version) = &winners[0];
        let read = bench.holds(&name, kek).await?;
        check!(read == *version, "the winner got version {version}, get returns {read}");
    }
    Ok(())
}

/// The text behind a KEK of the next case, which is base64 since some providers accept nothing else.
fn written(kek: &Kek) -> String {
    let bytes = STANDARD.decode(kek.expose_secret_bytes()).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Each writer adds its number to the stored text, and retries when it lost a race. No number may be missing.
async fn many_who_update_in_turn_lose_no_update(bench: &Bench) -> Verdict {
    need_atomic(bench, bench.capability().update, "updating")?;
    const WRITERS: usize = 8;
    let name = bench.name("counted");
    bench.stored(&name, &Kek::parse(STANDARD.encode("start"))?).await?;
    let results = race(bench, WRITERS, |provider, number| {
        let name = name.clone();
        async move {
            // Each lost round is a win of another writer, so a writer needs at most one round per writer.
            for _ in 0..2 * WRITERS {
                let stored = provider.get(&name, Freshness::Fresh).await?;
                // Lets the others read the same version, also where there is one thread.
                tokio::task::yield_now().await;
                let next = Kek::parse(STANDARD.encode(format!("{} {number}", written(&stored.kek))))?;
                match provider.put(&name, &next, PutMode::Update(stored.version)).await {
                    Ok(_) => return Ok(true),
                    Err(error) if error.kind() == ErrorKind::Conflict => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(false)
        }
    })
    .await?;
    for result in results {
        check!(result?, "a writer lost more races than others have won");
    }
    let stored = bench.provider().get(&name, Freshness::Fresh).await?;
    let text = written(&stored.kek);
    let mut numbers: Vec<_> = text.split(' ').skip(1).map(str::to_owned).collect();
    numbers.sort();
    let expected: Vec<_> = (0..WRITERS).map(|number| number.to_string()).collect();
    check!(numbers == expected, "the updates of {numbers:?} are there instead of those of {expected:?}");
    Ok(())
}

async fn many_who_write_different_keys_do_not_mix_them_up(bench: &Bench) -> Verdict {
    let names: Vec<_> =
        (0..bench.options.racers).map(|number| bench.name(&format!("own-{number}"))).collect();
    let results = race(bench, names.len(), |provider, number| {
        let name = names[number].clone();
        async move {
            let kek = kek();
            provider.put(&name, &kek, PutMode::Overwrite).await?;
            let stored = provider.get(&name, Freshness::Fresh).await?;
            Ok::<_, kms_core::Error>(stored.kek.ct_eq(&kek).then_some(kek))
        }
    })
    .await?;
    for (name, result) in names.iter().zip(results) {
        let kek = result?;
        check!(kek.is_some(), "{name}: its writer read another KEK");
        if let Some(kek) = kek {
            bench.holds(name, &kek).await?;
        }
    }
    Ok(())
}

async fn a_read_during_updates_gives_one_of_the_keks(bench: &Bench) -> Verdict {
    let (name, first, _) = bench.made("alternating").await?;
    let (first, second) = (Arc::new(first), Arc::new(kek()));
    let rounds = bench.options.rounds * 4;
    let results = race(bench, 4, |provider, number| {
        let (name, keks) = (name.clone(), [Arc::clone(&second), Arc::clone(&first)]);
        async move {
            for round in 0..rounds {
                if number == 0 {
                    provider.put(&name, &keks[round % 2], PutMode::Overwrite).await?;
                } else {
                    let stored = provider.get(&name, Freshness::Any).await?;
                    if !keks.iter().any(|kek| stored.kek.ct_eq(kek)) {
                        return Ok(false);
                    }
                }
            }
            Ok::<_, kms_core::Error>(true)
        }
    })
    .await?;
    for result in results {
        check!(result?, "a reader got a KEK that was never stored");
    }
    Ok(())
}

async fn two_who_delete_one_key_both_leave_nothing(bench: &Bench) -> Verdict {
    for round in 0..bench.options.rounds {
        let (name, ..) = bench.made(&format!("deleted-{round}")).await?;
        let results = race(bench, 2, |provider, _| {
            let name = name.clone();
            async move { provider.delete(&name, DeleteMode::Destroy).await }
        })
        .await?;
        // A provider that reads before it deletes may report success to both.
        let done = results.iter().filter(|result| result.is_ok()).count();
        check!(done >= 1, "both failed: {results:?}");
        for result in results {
            if let Err(error) = result {
                check!(error.kind() == ErrorKind::NotFound, "the loser got: {}", described(&error));
            }
        }
        bench.absent(&name).await?;
    }
    Ok(())
}
