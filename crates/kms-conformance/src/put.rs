//! Storing keys.

use kms_core::{Error, ErrorKind, Existing, Guarantee, KeyVersion, PutMode};

use super::{
    bench::{Bench, Verdict, kek, refused},
    cases, check,
};

cases![
    put_create_stores_what_get_returns,
    put_create_refuses_an_existing_key_with_the_same_kek,
    put_create_refuses_an_existing_key_with_another_kek,
    put_create_is_unsupported_where_it_is_not_possible,
    put_overwrite_stores_a_key_that_is_absent,
    put_overwrite_replaces_a_key,
    put_update_replaces_the_version_that_was_read,
    put_update_takes_the_version_that_put_returned,
    put_update_with_a_stale_version_changes_nothing,
    put_update_with_a_foreign_version_changes_nothing,
    put_update_of_an_absent_key_is_not_found,
    put_update_of_a_key_deleted_meanwhile_is_not_found,
    put_update_is_unsupported_where_it_is_not_possible,
];

fn existing(error: &Error, expected: Existing) -> Verdict {
    let known = error.existing();
    check!(known == Some(expected), "the error says {known:?} instead of {expected:?}");
    Ok(())
}

async fn put_create_stores_what_get_returns(bench: &Bench) -> Verdict {
    bench.need_create()?;
    let (name, kek) = (bench.name("new"), kek());
    let version = bench.provider().put(&name, &kek, PutMode::Create).await?;
    let read = bench.holds(&name, &kek).await?;
    check!(read == version, "put returned version {version}, get {read}");
    Ok(())
}

async fn put_create_refuses_an_existing_key_with_the_same_kek(bench: &Bench) -> Verdict {
    bench.need_create()?;
    let (name, kek, version) = bench.made("there").await?;
    let result = bench.provider().put(&name, &kek, PutMode::Create).await;
    existing(&refused("put", result, &[ErrorKind::AlreadyExists])?, Existing::Same)?;
    let after = bench.holds(&name, &kek).await?;
    check!(after == version, "version {version} has become {after}");
    Ok(())
}

async fn put_create_refuses_an_existing_key_with_another_kek(bench: &Bench) -> Verdict {
    bench.need_create()?;
    let (name, stored, version) = bench.made("there").await?;
    let result = bench.provider().put(&name, &kek(), PutMode::Create).await;
    existing(&refused("put", result, &[ErrorKind::AlreadyExists])?, Existing::Different)?;
    let after = bench.holds(&name, &stored).await?;
    check!(after == version, "version {version} has become {after}");
    Ok(())
}

async fn put_create_is_unsupported_where_it_is_not_possible(bench: &Bench) -> Verdict {
    bench.need(bench.capability().create == Guarantee::Unsupported, "it is possible")?;
    let name = bench.name("new");
    refused("put", bench.provider().put(&name, &kek(), PutMode::Create).await, &[ErrorKind::Unsupported])?;
    bench.absent(&name).await
}

async fn put_overwrite_stores_a_key_that_is_absent(bench: &Bench) -> Verdict {
    let (name, kek) = (bench.name("new"), kek());
    let version = bench.provider().put(&name, &kek, PutMode::Overwrite).await?;
    let read = bench.holds(&name, &kek).await?;
    check!(read == version, "put returned version {version}, get {read}");
    Ok(())
}

async fn put_overwrite_replaces_a_key(bench: &Bench) -> Verdict {
    let (name, _, first) = bench.made("there").await?;
    let other = kek();
    let version = bench.provider().put(&name, &other, PutMode::Overwrite).await?;
    let read = bench.holds(&name, &other).await?;
    check!(read == version, "put returned version {version}, get {read}");
    check!(first != version, "the version is {version} before and after");
    Ok(())
}

async fn put_update_replaces_the_version_that_was_read(bench: &Bench) -> Verdict {
    bench.need_update()?;
    let (name, before, _) = bench.made("there").await?;
    let read = bench.holds(&name, &before).await?;
    let other = kek();
    let version = bench.provider().put(&name, &other, PutMode::Update(read.clone())).await?;
    check!(version != read, "the version is {version} before and after");
    let after = bench.holds(&name, &other).await?;
    check!(after == version, "put returned version {version}, get {after}");
    Ok(())
}

async fn put_update_takes_the_version_that_put_returned(bench: &Bench) -> Verdict {
    bench.need_update()?;
    let (name, _, mut version) = bench.made("there").await?;
    for _ in 0..3 {
        let other = kek();
        version = bench.provider().put(&name, &other, PutMode::Update(version)).await?;
        bench.holds(&name, &other).await?;
    }
    Ok(())
}

async fn put_update_with_a_stale_version_changes_nothing(bench: &Bench) -> Verdict {
    bench.need_update()?;
    let (name, _, stale) = bench.made("there").await?;
    let current = kek();
    let version = bench.provider().put(&name, &current, PutMode::Update(stale.clone())).await?;
    let result = bench.provider().put(&name, &kek(), PutMode::Update(stale)).await;
    refused("put", result, &[ErrorKind::Conflict])?;
    let after = bench.holds(&name, &current).await?;
    check!(after == version, "version {version} has become {after}");
    Ok(())
}

async fn put_update_with_a_foreign_version_changes_nothing(bench: &Bench) -> Verdict {
    bench.need_update()?;
    let (name, stored, version) = bench.made("there").await?;
    for foreign in ["", "0", "a foreign version", "18446744073709551616"] {
        let result = bench.provider().put(&name, &kek(), PutMode::Update(KeyVersion::new(foreign))).await;
        refused(
            &format!("put with version {foreign:?}"),
            result,
            &[ErrorKind::ConfigInvalid, ErrorKind::Conflict],
        )?;
        let after = bench.holds(&name, &stored).await?;
        check!(after == version, "version {version} has become {after}");
    }
    Ok(())
}

async fn put_update_of_an_absent_key_is_not_found(bench: &Bench) -> Verdict {
    bench.need_update()?;
    // A well-formed version, of another key.
    let (_, _, version) = bench.made("other").await?;
    let name = bench.name("absent");
    let result = bench.provider().put(&name, &kek(), PutMode::Update(version)).await;
    refused("put", result, &[ErrorKind::NotFound])?;
    bench.absent(&name).await
}

async fn put_update_of_a_key_deleted_meanwhile_is_not_found(bench: &Bench) -> Verdict {
    bench.need_update()?;
    let (name, _, version) = bench.made("deleted").await?;
    bench.provider().delete(&name, kms_core::DeleteMode::Destroy).await?;
    let result = bench.provider().put(&name, &kek(), PutMode::Update(version)).await;
    refused("put", result, &[ErrorKind::NotFound])?;
    bench.absent(&name).await
}

async fn put_update_is_unsupported_where_it_is_not_possible(bench: &Bench) -> Verdict {
    bench.need(bench.capability().update == Guarantee::Unsupported, "it is possible")?;
    let (name, stored, version) = bench.made("there").await?;
    let result = bench.provider().put(&name, &kek(), PutMode::Update(version)).await;
    refused("put", result, &[ErrorKind::Unsupported])?;
    bench.holds(&name, &stored).await.map(drop)
}
