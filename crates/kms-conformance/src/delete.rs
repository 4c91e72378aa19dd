//! Deleting keys.

use kms_core::{DeleteMode, ErrorKind, provider::Deleted};

use super::{
    bench::{Bench, Verdict, kek, refused},
    cases, check,
};

cases![
    delete_of_an_absent_key_is_not_found,
    delete_destroys_a_key,
    delete_destroys_every_version_of_a_key,
    delete_leaves_other_keys_alone,
    a_destroyed_key_can_be_created_again,
    soft_delete_hides_a_key,
    soft_delete_of_an_absent_key_is_not_found,
    a_softly_deleted_key_can_be_created_again,
    soft_delete_is_unsupported_where_it_is_not_possible,
];

async fn delete_of_an_absent_key_is_not_found(bench: &Bench) -> Verdict {
    let name = bench.name("absent");
    refused("delete", bench.provider().delete(&name, DeleteMode::Destroy).await, &[ErrorKind::NotFound])
        .map(drop)
}

async fn delete_destroys_a_key(bench: &Bench) -> Verdict {
    let (name, ..) = bench.made("there").await?;
    let deleted = bench.provider().delete(&name, DeleteMode::Destroy).await?;
    check!(deleted == Deleted::Destroyed, "destroy has left it {deleted:?}");
    bench.absent(&name).await?;
    let again = bench.provider().delete(&name, DeleteMode::Destroy).await;
    refused("the second delete", again, &[ErrorKind::NotFound]).map(drop)
}

async fn delete_destroys_every_version_of_a_key(bench: &Bench) -> Verdict {
    let (name, ..) = bench.made("there").await?;
    for _ in 0..3 {
        bench.provider().put(&name, &kek(), kms_core::PutMode::Overwrite).await?;
    }
    bench.provider().delete(&name, DeleteMode::Destroy).await?;
    // No older version reappears.
    bench.absent(&name).await
}

async fn delete_leaves_other_keys_alone(bench: &Bench) -> Verdict {
    let (name, ..) = bench.made("there").await?;
    let (longer, kept, _) = bench.made("there-too").await?;
    bench.provider().delete(&name, DeleteMode::Destroy).await?;
    bench.holds(&longer, &kept).await.map(drop)
}

async fn a_destroyed_key_can_be_created_again(bench: &Bench) -> Verdict {
    let (name, ..) = bench.made("there").await?;
    for _ in 0..3 {
        bench.provider().delete(&name, DeleteMode::Destroy).await?;
        let kek = kek();
        bench.stored(&name, &kek).await?;
        bench.holds(&name, &kek).await?;
    }
    Ok(())
}

fn need_soft_delete(bench: &Bench) -> Verdict {
    bench.need(bench.capability().soft_delete, "soft deletion is not possible")
}

async fn soft_delete_hides_a_key(bench: &Bench) -> Verdict {
    need_soft_delete(bench)?;
    let (name, ..) = bench.made("there").await?;
    let deleted = bench.provider().delete(&name, DeleteMode::Soft).await?;
    check!(deleted.is_recoverable(), "a soft delete has left it {deleted:?}");
    bench.absent(&name).await?;
    let again = bench.provider().delete(&name, DeleteMode::Soft).await;
    refused("the second delete", again, &[ErrorKind::NotFound]).map(drop)
}

async fn soft_delete_of_an_absent_key_is_not_found(bench: &Bench) -> Verdict {
    need_soft_delete(bench)?;
    let name = bench.name("absent");
    refused("delete", bench.provider().delete(&name, DeleteMode::Soft).await, &[ErrorKind::NotFound])
        .map(drop)
}

async fn a_softly_deleted_key_can_be_created_again(bench: &Bench) -> Verdict {
    need_soft_delete(bench)?;
    let (name, ..) = bench.made("there").await?;
    for _ in 0..3 {
        bench.provider().delete(&name, DeleteMode::Soft).await?;
        let kek = kek();
        bench.stored(&name, &kek).await?;
        bench.holds(&name, &kek).await?;
    }
    Ok(())
}

async fn soft_delete_is_unsupported_where_it_is_not_possible(bench: &Bench) -> Verdict {
    bench.need(!bench.capability().soft_delete, "it is possible")?;
    let (name, kek, _) = bench.made("there").await?;
    refused("delete", bench.provider().delete(&name, DeleteMode::Soft).await, &[ErrorKind::Unsupported])?;
    bench.holds(&name, &kek).await.map(drop)
}
