//! Versions, as a rotation creates and retires them.

use std::collections::BTreeSet;

use kms_core::{ErrorKind, Guarantee, Kek, KeyName, KeyVersion, PutMode, UpdateRight};

use super::{
    bench::{Bench, Verdict, kek, refused},
    cases, check,
};

/// The number of rotations.
const UPDATES: usize = 3;

cases![
    each_update_makes_a_version_of_its_own,
    an_update_with_the_same_kek_makes_the_version_before_stale,
    superseded_versions_are_retired_and_the_current_one_stays,
    retire_with_a_stale_version_changes_nothing,
    retire_of_an_absent_key_is_not_found,
    retire_is_unsupported_where_it_is_not_possible,
    may_update_agrees_with_update,
    may_update_changes_nothing,
];

/// Creates a rotated key, and returns all its versions, the current one last.
async fn rotated(bench: &Bench) -> Verdict<(KeyName, Kek, Vec<KeyVersion>)> {
    bench.need_update()?;
    let (name, mut current, version) = bench.made("rotated").await?;
    let mut versions = vec![version.clone()];
    let mut last = version;
    for _ in 0..UPDATES {
        current = kek();
        last = bench.provider().put(&name, &current, PutMode::Update(last)).await?;
        versions.push(last.clone());
    }
    Ok((name, current, versions))
}

fn need_versions(bench: &Bench) -> Verdict {
    bench.need(bench.capability().versions, "no superseded versions are kept")
}

async fn each_update_makes_a_version_of_its_own(bench: &Bench) -> Verdict {
    let (name, current, versions) = rotated(bench).await?;
    let read = bench.holds(&name, &current).await?;
    check!(versions.last() == Some(&read), "the last of {versions:?} is not {read}");
    let distinct: BTreeSet<_> = versions.iter().map(KeyVersion::as_str).collect();
    check!(distinct.len() == versions.len(), "some of these are the same: {versions:?}");
    Ok(())
}

/// An update with the stored KEK makes every earlier write fail that is still in flight. A rotation relies on it before
/// it removes a key slot whose KEK might yet arrive in the KMS.
async fn an_update_with_the_same_kek_makes_the_version_before_stale(bench: &Bench) -> Verdict {
    bench.need_update()?;
    bench.need(bench.capability().update == Guarantee::Atomic, "updates are not atomic")?;
    let (name, current, version) = bench.made("fenced").await?;
    let fenced = bench.provider().put(&name, &current, PutMode::Update(version.clone())).await?;
    check!(fenced != version, "the version is still {version}");
    let late = bench.provider().put(&name, &kek(), PutMode::Update(version)).await;
    refused("a late write", late, &[ErrorKind::Conflict])?;
    let read = bench.holds(&name, &current).await?;
    check!(read == fenced, "version {fenced} has become {read}");
    Ok(())
}

async fn superseded_versions_are_retired_and_the_current_one_stays(bench: &Bench) -> Verdict {
    need_versions(bench)?;
    let (name, current, versions) = rotated(bench).await?;
    let version = bench.holds(&name, &current).await?;
    let retired = bench.provider().retire_superseded(&name, &version).await?;
    // A server may be configured to keep fewer versions, but at least one.
    check!((1..versions.len()).contains(&retired), "{retired} retired of {UPDATES}");
    let after = bench.holds(&name, &current).await?;
    check!(after == version, "version {version} has become {after}");
    let again = bench.provider().retire_superseded(&name, &version).await?;
    check!(again == 0, "{again} were left to be retired");
    let next = kek();
    bench.provider().put(&name, &next, PutMode::Update(version)).await?;
    bench.holds(&name, &next).await.map(drop)
}

async fn retire_with_a_stale_version_changes_nothing(bench: &Bench) -> Verdict {
    need_versions(bench)?;
    let (name, current, versions) = rotated(bench).await?;
    for stale in versions.iter().rev().skip(1) {
        let result = bench.provider().retire_superseded(&name, stale).await;
        refused(&format!("retire with version {stale}"), result, &[ErrorKind::Conflict])?;
    }
    let version = bench.holds(&name, &current).await?;
    let retired = bench.provider().retire_superseded(&name, &version).await?;
    check!(retired > 0, "the refused calls have retired everything");
    Ok(())
}

async fn retire_of_an_absent_key_is_not_found(bench: &Bench) -> Verdict {
    need_versions(bench)?;
    let (_, _, version) = bench.made("other").await?;
    let result = bench.provider().retire_superseded(&bench.name("absent"), &version).await;
    refused("retire", result, &[ErrorKind::NotFound]).map(drop)
}

async fn retire_is_unsupported_where_it_is_not_possible(bench: &Bench) -> Verdict {
    bench.need(!bench.capability().versions, "it is possible")?;
    let (name, kek, version) = bench.made("there").await?;
    let result = bench.provider().retire_superseded(&name, &version).await;
    refused("retire", result, &[ErrorKind::Unsupported])?;
    bench.holds(&name, &kek).await.map(drop)
}

async fn may_update_agrees_with_update(bench: &Bench) -> Verdict {
    bench.need_update()?;
    let (name, _, version) = bench.made("asked").await?;
    let names = [name.clone(), bench.name("absent"), name.clone()];
    let rights = bench.provider().may_update(&names).await?;
    check!(rights.len() == names.len(), "{} names were asked about: {rights:?}", names.len());
    check!(bench.provider().may_update(&[]).await?.is_empty(), "rights for no names");
    bench.provider().put(&name, &kek(), PutMode::Update(version)).await?;
    check!(
        !rights.contains(&UpdateRight::Denied),
        "the update succeeded, and may_update denied it: {rights:?}"
    );
    Ok(())
}

async fn may_update_changes_nothing(bench: &Bench) -> Verdict {
    let (name, kek, version) = bench.made("asked").await?;
    bench.provider().may_update(&[name.clone(), bench.name("absent")]).await?;
    let after = bench.holds(&name, &kek).await?;
    check!(after == version, "version {version} has become {after}");
    if bench.capability().list {
        let names: Vec<_> = bench.listed(&bench.prefix()).await?.into_iter().map(|info| info.name).collect();
        check!(names == [name], "the list is now {names:?}");
    }
    Ok(())
}
