//! The KEKs that a server still has, and deleted keys that come back.

use kms_core::{DeleteMode, ErrorKind, HistoryMode, Kek, KekState, KeyName, PastKek, PutMode};

use super::{
    bench::{Bench, Verdict, kek, refused},
    cases, check,
};

/// The number of updates of a key.
const UPDATES: usize = 3;

cases![
    undelete_brings_back_the_same_kek,
    undelete_of_an_existing_key_is_refused_and_changes_nothing,
    undelete_of_an_absent_key_is_not_found,
    undelete_is_unsupported_where_it_is_not_possible,
    history_has_every_kek_the_newest_first,
    history_is_the_current_kek_where_it_is_not_possible_to_keep_more,
    history_changes_nothing,
    history_of_a_deleted_key_leaves_it_deleted,
    history_of_an_absent_key_is_not_found,
    history_is_unsupported_where_it_is_not_possible,
];

fn need_history(bench: &Bench) -> Verdict {
    bench.need(bench.capability().history, "the history of a key cannot be read")
}

/// A key with updates, and its KEKs, the newest first.
async fn updated(bench: &Bench) -> Verdict<(KeyName, Vec<Kek>)> {
    let (name, first, _) = bench.made("updated").await?;
    let mut keks = vec![first];
    for _ in 0..UPDATES {
        let next = kek();
        bench.provider().put(&name, &next, PutMode::Overwrite).await?;
        keks.insert(0, next);
    }
    Ok((name, keks))
}

async fn undelete_brings_back_the_same_kek(bench: &Bench) -> Verdict {
    bench.need(bench.capability().soft_delete, "soft deletion is not possible")?;
    let (name, keks) = updated(bench).await?;
    for _ in 0..2 {
        bench.provider().delete(&name, DeleteMode::Soft).await?;
        bench.absent(&name).await?;
        let version = bench.provider().undelete(&name).await?;
        let read = bench.holds(&name, &keks[0]).await?;
        check!(read == version, "version {version} was brought back, and {read} is current");
    }
    let next = kek();
    let version = bench.holds(&name, &keks[0]).await?;
    bench.provider().put(&name, &next, PutMode::Update(version)).await?;
    bench.holds(&name, &next).await.map(drop)
}

async fn undelete_of_an_existing_key_is_refused_and_changes_nothing(bench: &Bench) -> Verdict {
    bench.need(bench.capability().soft_delete, "soft deletion is not possible")?;
    let (name, kek, version) = bench.made("there").await?;
    refused("undelete", bench.provider().undelete(&name).await, &[ErrorKind::AlreadyExists])?;
    let after = bench.holds(&name, &kek).await?;
    check!(after == version, "version {version} has become {after}");
    Ok(())
}

async fn undelete_of_an_absent_key_is_not_found(bench: &Bench) -> Verdict {
    bench.need(bench.capability().soft_delete, "soft deletion is not possible")?;
    let name = bench.name("absent");
    refused("undelete", bench.provider().undelete(&name).await, &[ErrorKind::NotFound])?;
    bench.absent(&name).await
}

async fn undelete_is_unsupported_where_it_is_not_possible(bench: &Bench) -> Verdict {
    bench.need(!bench.capability().soft_delete, "it is possible")?;
    let (name, kek, _) = bench.made("there").await?;
    refused("undelete", bench.provider().undelete(&name).await, &[ErrorKind::Unsupported])?;
    bench.holds(&name, &kek).await.map(drop)
}

async fn history_has_every_kek_the_newest_first(bench: &Bench) -> Verdict {
    need_history(bench)?;
    bench.need(bench.capability().versions, "no superseded versions are kept")?;
    let (name, keks) = updated(bench).await?;
    let version = bench.holds(&name, &keks[0]).await?;
    let past = bench.provider().history(&name, HistoryMode::ReadOnly).await?;
    check!(past.len() == keks.len(), "{} KEKs were stored: {past:?}", keks.len());
    check!(past[0].version == version, "the first one is not the current version {version}: {past:?}");
    for (place, one) in past.iter().enumerate() {
        let state = if place == 0 { KekState::Current } else { KekState::Superseded };
        check!(one.state == state, "{one:?} is not {}", state.as_str());
    }
    check!(holds(&past[0], &keks[0]), "the first KEK is not the current one");
    for (place, kek) in keks.iter().enumerate() {
        let found = past.iter().position(|one| holds(one, kek));
        let Some(found) = found else {
            return Err(super::Stop::Fail(format!("KEK {place} from the newest one is missing: {past:?}")));
        };
        // Servers that keep whole seconds cannot order versions of the same second.
        let same_time = past[found].stored == past[place].stored && past[found].stored.is_some();
        check!(found == place || same_time, "KEK {place} from the newest one is in place {found}: {past:?}");
    }
    Ok(())
}

fn holds(past: &PastKek, kek: &Kek) -> bool {
    past.kek.as_ref().is_some_and(|found| found.ct_eq(kek))
}

async fn history_is_the_current_kek_where_it_is_not_possible_to_keep_more(bench: &Bench) -> Verdict {
    need_history(bench)?;
    bench.need(!bench.capability().versions, "superseded versions are kept")?;
    let (name, keks) = updated(bench).await?;
    let version = bench.holds(&name, &keks[0]).await?;
    let past = bench.provider().history(&name, HistoryMode::ReadOnly).await?;
    let [one] = past.as_slice() else {
        return Err(super::Stop::Fail(format!("more than the current KEK: {past:?}")));
    };
    check!(holds(one, &keks[0]) && one.version == version && one.state == KekState::Current, "{one:?}");
    Ok(())
}

async fn history_changes_nothing(bench: &Bench) -> Verdict {
    need_history(bench)?;
    let (name, keks) = updated(bench).await?;
    let version = bench.holds(&name, &keks[0]).await?;
    for mode in [HistoryMode::ReadOnly, HistoryMode::Restore] {
        bench.provider().history(&name, mode).await?;
        let after = bench.holds(&name, &keks[0]).await?;
        check!(after == version, "{mode:?}: version {version} has become {after}");
    }
    Ok(())
}

async fn history_of_a_deleted_key_leaves_it_deleted(bench: &Bench) -> Verdict {
    need_history(bench)?;
    bench.need(bench.capability().soft_delete, "soft deletion is not possible")?;
    let (name, keks) = updated(bench).await?;
    bench.provider().delete(&name, DeleteMode::Soft).await?;
    let past = bench.provider().history(&name, HistoryMode::ReadOnly).await?;
    check!(past.iter().any(|one| one.state == KekState::Deleted), "no deleted version: {past:?}");
    check!(
        past.iter().all(|one| one.state != KekState::Current),
        "a deleted key has a current KEK: {past:?}"
    );
    bench.absent(&name).await?;
    let past = bench.provider().history(&name, HistoryMode::Restore).await?;
    bench.absent(&name).await?;
    check!(past.iter().any(|one| holds(one, &keks[0])), "the deleted KEK was not read: {past:?}");
    bench.provider().undelete(&name).await?;
    bench.holds(&name, &keks[0]).await.map(drop)
}

async fn history_of_an_absent_key_is_not_found(bench: &Bench) -> Verdict {
    need_history(bench)?;
    let name = bench.name("absent");
    for mode in [HistoryMode::ReadOnly, HistoryMode::Restore] {
        refused("history", bench.provider().history(&name, mode).await, &[ErrorKind::NotFound])?;
    }
    bench.absent(&name).await
}

async fn history_is_unsupported_where_it_is_not_possible(bench: &Bench) -> Verdict {
    bench.need(!bench.capability().history, "it is possible")?;
    let (name, ..) = bench.made("there").await?;
    let past = bench.provider().history(&name, HistoryMode::ReadOnly).await;
    refused("history", past, &[ErrorKind::Unsupported]).map(drop)
}
