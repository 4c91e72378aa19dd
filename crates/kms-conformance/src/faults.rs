//! Dropped calls, unreachable servers, refused credentials.

use std::{
    pin::pin,
    task::{Context, Poll, Waker},
};

use futures_util::TryStreamExt;
use kms_core::{
    DeleteMode, Error, ErrorKind, Freshness, Guarantee, HistoryMode, KeyVersion, KmsProvider, KmsProviderExt,
    PutMode, Retry,
};

use super::{
    bench::{Bench, Stop, Verdict, described, kek, refused},
    cases, check,
};

/// The largest number of polls before a call is dropped.
const POLLS: usize = 12;

cases![
    a_dropped_put_is_done_or_not_done_and_the_provider_goes_on,
    a_dropped_read_leaves_the_provider_usable,
    an_unreachable_server_is_unavailable,
    refused_credentials_are_said_to_be_refused,
];

/// Polls a future up to `times` times, while other tasks run in between, and drops it.
async fn dropped_after<T>(times: usize, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    for _ in 0..times {
        // It needs no waker, since this loop polls it.
        let polled = future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        match polled {
            Poll::Ready(value) => return Some(value),
            Poll::Pending => tokio::task::yield_now().await,
        }
    }
    None
}

async fn a_dropped_put_is_done_or_not_done_and_the_provider_goes_on(bench: &Bench) -> Verdict {
    let (name, first, _) = bench.made("dropped").await?;
    // A dropped put may still be in flight and arrive at any time, so each of these KEKs may be the current one.
    let mut written = vec![first];
    for polls in 0..POLLS {
        written.push(kek());
        // An update that arrives after the key was deleted cannot create it again.
        let mode = match bench.capability().update {
            Guarantee::Unsupported => PutMode::Overwrite,
            _ => PutMode::Update(bench.provider().get(&name, Freshness::Fresh).await?.version),
        };
        match dropped_after(polls, bench.provider().put(&name, &written[polls + 1], mode)).await {
            // An earlier put has arrived meanwhile.
            Some(Err(error)) if error.kind() == ErrorKind::Conflict => {}
            put => drop(put.transpose()?),
        }
        let stored = bench.provider().get(&name, Freshness::Fresh).await?;
        let whole = written.iter().any(|kek| kek.ct_eq(&stored.kek));
        check!(whole, "after {polls} polls the key holds a KEK that no call has written");
    }
    Ok(())
}

async fn a_dropped_read_leaves_the_provider_usable(bench: &Bench) -> Verdict {
    let (name, kek, _) = bench.made("there").await?;
    for polls in 0..POLLS {
        dropped_after(polls, bench.provider().get(&name, Freshness::Fresh)).await.transpose()?;
        dropped_after(polls, bench.provider().probed()).await;
        if bench.capability().list {
            dropped_after(polls, bench.provider().list().try_next()).await.transpose()?;
        }
    }
    bench.holds(&name, &kek).await.map(drop)
}

/// Calls all operations of a provider that must fail, and returns their errors.
pub(super) async fn failures(
    bench: &Bench,
    provider: &dyn KmsProvider,
) -> Verdict<Vec<(&'static str, Error)>> {
    let name = bench.name("unreached");
    let capability = provider.capability();
    let mut errors = Vec::new();
    let mut note = |operation, result: Result<(), Error>| match result {
        Ok(()) => Err(Stop::Fail(format!("{operation} has succeeded"))),
        Err(error) => {
            errors.push((operation, error));
            Ok(())
        }
    };
    note("get", provider.get(&name, Freshness::Any).await.map(drop))?;
    note("fresh get", provider.get(&name, Freshness::Fresh).await.map(drop))?;
    note("overwrite", provider.put(&name, &kek(), PutMode::Overwrite).await.map(drop))?;
    if capability.create != Guarantee::Unsupported {
        note("create", provider.put(&name, &kek(), PutMode::Create).await.map(drop))?;
    }
    note("delete", provider.delete(&name, DeleteMode::Destroy).await.map(drop))?;
    if capability.list {
        note("list", provider.list().try_next().await.map(drop))?;
    }
    if capability.soft_delete {
        note("undelete", provider.undelete(&name).await.map(drop))?;
    }
    if capability.history {
        note("history", provider.history(&name, HistoryMode::ReadOnly).await.map(drop))?;
    }
    if capability.versions {
        note("retire", provider.retire_superseded(&name, &KeyVersion::new("1")).await.map(drop))?;
    }
    note("probe", provider.probed().await.failed.map_or(Ok(()), |(_, error)| Err(error)))?;
    Ok(errors)
}

async fn an_unreachable_server_is_unavailable(bench: &Bench) -> Verdict {
    let Some(provider) = bench.unreachable() else {
        return bench.need(false, "no client of an unreachable server was given");
    };
    for (operation, error) in failures(bench, provider.as_ref()).await? {
        refused::<()>(operation, Err(error), &[ErrorKind::Timeout, ErrorKind::Unavailable])?;
    }
    Ok(())
}

async fn refused_credentials_are_said_to_be_refused(bench: &Bench) -> Verdict {
    let Some(provider) = bench.denied() else {
        return bench.need(false, "no client with refused credentials was given");
    };
    for (operation, error) in failures(bench, provider.as_ref()).await? {
        let error =
            refused::<()>(operation, Err(error), &[ErrorKind::PermissionDenied, ErrorKind::Unauthenticated])?;
        let retry = error.retryable();
        check!(retry == Retry::Never, "{operation} is reported as worth a retry: {}", described(&error));
    }
    Ok(())
}
