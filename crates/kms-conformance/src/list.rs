//! Listing keys.

use std::collections::BTreeSet;

use futures_util::{StreamExt, TryStreamExt};
use kms_core::{DeleteMode, ErrorKind, Freshness, Guarantee, HistoryMode, PutMode, Result};

use super::{
    bench::{Bench, Stop, Verdict, described, kek, refused},
    cases, check,
    interference::{Cut, Cutting},
};
use crate::leak::{self, Canary};

cases![
    list_shows_every_key_exactly_once_over_many_pages,
    list_shows_no_deleted_key,
    list_shows_the_versions_that_get_returns,
    list_shows_no_key_material,
    a_list_that_is_dropped_midway_does_no_harm,
    a_list_that_is_cut_is_never_shown_as_whole_and_hides_no_key_from_other_operations,
    list_is_unsupported_where_it_is_not_possible,
];

fn need_list(bench: &Bench) -> Verdict {
    bench.need(bench.capability().list, "keys cannot be listed")
}

async fn list_shows_every_key_exactly_once_over_many_pages(bench: &Bench) -> Verdict {
    need_list(bench)?;
    let mut expected = BTreeSet::new();
    for number in 0..bench.options.list_count {
        let (name, ..) = bench.made(&format!("{number:04}")).await?;
        expected.insert(name);
    }
    let listed = bench.listed(&bench.prefix()).await?;
    let found: BTreeSet<_> = listed.iter().map(|info| info.name.clone()).collect();
    check!(found.len() == listed.len(), "{} keys are listed twice", listed.len() - found.len());
    let missing: Vec<_> = expected.difference(&found).collect();
    let surplus: Vec<_> = found.difference(&expected).collect();
    check!(missing.is_empty() && surplus.is_empty(), "missing: {missing:?}, not ours: {surplus:?}");
    Ok(())
}

async fn list_shows_no_deleted_key(bench: &Bench) -> Verdict {
    need_list(bench)?;
    let (kept, ..) = bench.made("kept").await?;
    let (destroyed, ..) = bench.made("destroyed").await?;
    bench.provider().delete(&destroyed, DeleteMode::Destroy).await?;
    if bench.capability().soft_delete {
        let (soft, ..) = bench.made("soft").await?;
        bench.provider().delete(&soft, DeleteMode::Soft).await?;
    }
    let names: Vec<_> = bench.listed(&bench.prefix()).await?.into_iter().map(|info| info.name).collect();
    check!(names == [kept], "the list is {names:?}");
    Ok(())
}

async fn list_shows_the_versions_that_get_returns(bench: &Bench) -> Verdict {
    need_list(bench)?;
    let (name, ..) = bench.made("there").await?;
    let other = kek();
    bench.provider().put(&name, &other, PutMode::Overwrite).await?;
    let version = bench.holds(&name, &other).await?;
    for info in bench.listed(&bench.prefix()).await? {
        let listed = info.version;
        check!(listed.as_ref().is_none_or(|listed| *listed == version), "{listed:?} instead of {version}");
    }
    Ok(())
}

async fn list_shows_no_key_material(bench: &Bench) -> Verdict {
    need_list(bench)?;
    let (_, kek, _) = bench.made("there").await?;
    let listed = bench.listed(&bench.prefix()).await?;
    check!(listed.len() == 1, "{} keys are listed instead of 1", listed.len());
    let found = Canary::new("the KEK", kek.expose_secret_text()?).found_in(&leak::shown(&listed));
    check!(found.is_none(), "the list shows {}", found.unwrap_or_default());
    Ok(())
}

async fn a_list_that_is_dropped_midway_does_no_harm(bench: &Bench) -> Verdict {
    need_list(bench)?;
    let (name, ..) = bench.made("there").await?;
    bench.made("there-too").await?;
    for _ in 0..3 {
        let mut list = bench.provider().list();
        list.try_next().await?;
        drop(list);
    }
    let listed = bench.listed(&bench.prefix()).await?;
    check!(listed.len() == 2, "{} keys are listed instead of 2, among them {name}", listed.len());
    Ok(())
}

async fn a_list_that_is_cut_is_never_shown_as_whole_and_hides_no_key_from_other_operations(
    bench: &Bench,
) -> Verdict {
    need_list(bench)?;
    let Some(cuts) = bench.cuts() else {
        return Err(Stop::Skip("no switch that cuts lists was given".to_owned()));
    };
    let provider = bench.provider();
    let (mut expected, mut versions) = (BTreeSet::new(), Vec::new());
    for number in 0..bench.options.list_count.max(10) {
        let (name, _, version) = bench.made(&format!("{number:04}")).await?;
        expected.insert(name.clone());
        versions.push((name, version));
    }
    for (way, (what, cut)) in cuts.ways().into_iter().enumerate() {
        let cutting = Cutting::begin(cuts, way);
        let (mut found, mut end) = (BTreeSet::new(), None);
        let mut list = provider.list();
        while let Some(item) = list.next().await {
            check!(end.is_none(), "{what}: the list goes on after {end:?}");
            match item {
                Ok(info) => _ = found.insert(info.name),
                Err(error) => end = Some(error),
            }
        }
        drop(list);
        found.retain(|name| name.as_str().starts_with(&bench.prefix()));
        check!(found.is_subset(&expected), "{what}: {found:?} are listed");
        match (cut, &end) {
            (Cut::Completed, None) => check!(found == expected, "{what}: {} keys are listed", found.len()),
            (Cut::Detected, Some(error)) if error.kind() == ErrorKind::Incomplete => {
                check!(!found.is_empty(), "{what}: no key is shown before {}", described(error));
            }
            (_, end) => check!(false, "{what}: the list has {} keys and ends with {end:?}", found.len()),
        }
        // Whichever key the list hides, it is there.
        for (name, version) in [versions.first(), versions.last()].into_iter().flatten() {
            let there = |operation: &str, result: Result<()>, allowed: &[ErrorKind]| match result {
                Err(error) if error.kind() != ErrorKind::Incomplete && !allowed.contains(&error.kind()) => {
                    Err(Stop::Fail(format!("{what}: {operation} of {name}: {}", described(&error))))
                }
                _ => Ok(()),
            };
            there("get", provider.get(name, Freshness::Fresh).await.map(drop), &[])?;
            if bench.capability().history {
                there("history", provider.history(name, HistoryMode::ReadOnly).await.map(drop), &[])?;
            }
            if bench.capability().versions {
                there("retire", provider.retire_superseded(name, version).await.map(drop), &[])?;
            }
            if bench.capability().create != Guarantee::Unsupported {
                let created = provider.put(name, &kek(), PutMode::Create).await;
                check!(created.is_err(), "{what}: {name} was created again");
                there("create", created.map(drop), &[ErrorKind::AlreadyExists])?;
            }
        }
        drop(cutting);
        let listed: BTreeSet<_> =
            bench.listed(&bench.prefix()).await?.into_iter().map(|info| info.name).collect();
        check!(listed == expected, "after {what}: {} keys are listed", listed.len());
    }
    Ok(())
}

async fn list_is_unsupported_where_it_is_not_possible(bench: &Bench) -> Verdict {
    bench.need(!bench.capability().list, "it is possible")?;
    let Some(first) = bench.provider().list().next().await else {
        check!(false, "an empty list, as if there were no keys");
        return Ok(());
    };
    refused("list", first, &[ErrorKind::Unsupported]).map(drop)
}
