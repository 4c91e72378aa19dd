//! Responses that say nothing about a key: wrapped answers, captive portals, and proxies that answer in the server's
//! place.

use futures_util::TryStreamExt;
use kms_core::{
    DeleteMode, Error, ErrorKind, Freshness, Guarantee, HistoryMode, KeyInfo, KeyName, KeyVersion,
    KmsProvider, KmsProviderExt, PutMode, Result,
};

use super::{
    bench::{Bench, Stop, Verdict, described, kek, refused},
    cases, check,
    interference::{Misleading, Misled, MisledClient},
};

cases![
    reads_that_say_nothing_are_no_absence_and_cause_no_write,
    a_server_that_says_nothing_is_a_protocol_error_in_every_operation,
];

/// The only kinds of error for a response that says nothing about a key: it is malformed, or a proxy reports that the
/// server does not respond.
const KINDS: &[ErrorKind] = &[ErrorKind::Protocol, ErrorKind::Unavailable];

fn client(bench: &Bench) -> Verdict<&MisledClient> {
    bench.misled().ok_or_else(|| Stop::Skip("no client whose server is replaced was given".to_owned()))
}

async fn list(provider: &dyn KmsProvider) -> Result<Vec<KeyInfo>> {
    provider.list().try_collect().await
}

/// Fails unless the server, undisturbed, still has this KEK in this version.
async fn unchanged(bench: &Bench, name: &KeyName, kept: &kms_core::Kek, version: &KeyVersion) -> Verdict {
    let found = bench.holds(name, kept).await?;
    check!(found == *version, "the version of {name} has become {found} instead of {version}");
    Ok(())
}

async fn reads_that_say_nothing_are_no_absence_and_cause_no_write(bench: &Bench) -> Verdict {
    let MisledClient { provider, switch } = client(bench)?;
    let provider = provider.as_ref();
    let capability = provider.capability();
    let (name, mut kept, mut version) = bench.made("kept").await?;
    for (habit, what) in switch.habits().into_iter().enumerate() {
        let absent = bench.name(&format!("absent-{habit}"));
        let (new, next) = (kek(), kek());
        let misleading = Misleading::begin(switch.as_ref(), habit, Misled::Reads);
        for freshness in [Freshness::Any, Freshness::Fresh] {
            refused(&format!("get after {what}"), provider.get(&name, freshness).await, KINDS)?;
        }
        if capability.list {
            refused(&format!("list after {what}"), list(provider).await, KINDS)?;
        }
        if capability.history {
            let history = provider.history(&name, HistoryMode::ReadOnly).await;
            refused(&format!("history after {what}"), history, KINDS)?;
        }
        if capability.create != Guarantee::Unsupported {
            // The server itself may refuse a create, without a read.
            let kinds = [KINDS, &[ErrorKind::AlreadyExists]].concat();
            let created = provider.put(&name, &new, PutMode::Create).await;
            refused(&format!("create after {what}"), created, &kinds)?;
            let ensured = provider.ensure(&name, new.duplicate()).await;
            refused(&format!("ensure after {what}"), ensured, KINDS)?;
        }
        let mut updated = None;
        if capability.update != Guarantee::Unsupported {
            match provider.put(&name, &next, PutMode::Update(version.clone())).await {
                // The server itself has compared the versions, without a read. A client may learn that it does from the
                // server.
                Ok(made) if provider.capability().update == Guarantee::Atomic => updated = Some(made),
                result => drop(refused(&format!("update after {what}"), result, KINDS)?),
            }
        }
        let mut made = false;
        if capability.create != Guarantee::Unsupported {
            match provider.put(&absent, &new, PutMode::Create).await {
                Ok(_) if provider.capability().create == Guarantee::Atomic => made = true,
                result => drop(refused(&format!("create of an absent key after {what}"), result, KINDS)?),
            }
        }
        drop(misleading);
        if let Some(made) = updated {
            (kept, version) = (next, made);
        }
        unchanged(bench, &name, &kept, &version).await?;
        if made {
            bench.holds(&absent, &new).await?;
        } else {
            bench.absent(&absent).await?;
        }
    }
    Ok(())
}

async fn a_server_that_says_nothing_is_a_protocol_error_in_every_operation(bench: &Bench) -> Verdict {
    let MisledClient { provider, switch } = client(bench)?;
    let provider = provider.as_ref();
    let capability = provider.capability();
    let (name, kept, version) = bench.made("kept").await?;
    for (habit, what) in switch.habits().into_iter().enumerate() {
        let new = kek();
        let misleading = Misleading::begin(switch.as_ref(), habit, Misled::Everything);
        let mut results = vec![
            ("get", provider.get(&name, Freshness::Any).await.map(drop)),
            ("fresh get", provider.get(&name, Freshness::Fresh).await.map(drop)),
            ("overwrite", provider.put(&name, &new, PutMode::Overwrite).await.map(drop)),
            ("destroy", provider.delete(&name, DeleteMode::Destroy).await.map(drop)),
        ];
        if capability.create != Guarantee::Unsupported {
            results.push(("create", provider.put(&name, &new, PutMode::Create).await.map(drop)));
            results.push(("ensure", provider.ensure(&name, new.duplicate()).await.map(drop)));
        }
        if capability.update != Guarantee::Unsupported {
            let update = PutMode::Update(version.clone());
            results.push(("update", provider.put(&name, &new, update).await.map(drop)));
        }
        if capability.soft_delete {
            results.push(("soft delete", provider.delete(&name, DeleteMode::Soft).await.map(drop)));
            results.push(("undelete", provider.undelete(&name).await.map(drop)));
        }
        if capability.list {
            results.push(("list", list(provider).await.map(drop)));
        }
        if capability.history {
            results.push(("history", provider.history(&name, HistoryMode::ReadOnly).await.map(drop)));
        }
        if capability.versions {
            results.push(("retire", provider.retire_superseded(&name, &version).await.map(drop)));
        }
        drop(misleading);
        // The remedy for a proxy is not the remedy for a server.
        let is_named = |error: &Error| !what.contains("HTML") || error.to_string().contains("web page");
        let wrong: Vec<String> = results
            .into_iter()
            .filter_map(|(operation, result)| match result {
                Ok(()) => Some(format!("{operation} has succeeded")),
                Err(error) if KINDS.contains(&error.kind()) && is_named(&error) => None,
                Err(error) => Some(format!("{operation}: {}", described(&error))),
            })
            .collect();
        check!(wrong.is_empty(), "after {what}: {}", wrong.join("; "));
        unchanged(bench, &name, &kept, &version).await?;
    }
    Ok(())
}
