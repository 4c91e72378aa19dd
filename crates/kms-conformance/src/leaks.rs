//! No KEK and no credential appears in any log, value or error.
//!
//! Fresh KEKs go through every call and every failure of a call, while all logs of the process are recorded.

use futures_util::StreamExt;
use kms_core::{DeleteMode, Freshness, Guarantee, HistoryMode, Kek, KeyVersion, KmsProviderExt, PutMode};

use super::{
    bench::{Bench, Stop, Verdict, kek, kek_of, random_text, shown},
    cases, check, faults,
};
use crate::leak::{self, Canary, Recording};

cases![no_log_shows_a_kek_or_a_credential, no_value_or_error_shows_a_kek_or_a_credential];

/// All text that a provider has shown.
struct Shown {
    canaries: Vec<Canary>,
    values: String,
    log: String,
}

impl Shown {
    fn search(&self, bench: &Bench, text: &str) -> Verdict {
        let secrets = bench.options.secrets.iter().map(AsRef::as_ref);
        let found: Vec<_> =
            self.canaries.iter().chain(secrets).filter_map(|canary| canary.found_in(text)).collect();
        check!(found.is_empty(), "{}", found.join("; "));
        Ok(())
    }
}

async fn no_log_shows_a_kek_or_a_credential(bench: &Bench) -> Verdict {
    let shown = exercised(bench).await?;
    shown.search(bench, &shown.log)
}

async fn no_value_or_error_shows_a_kek_or_a_credential(bench: &Bench) -> Verdict {
    let shown = exercised(bench).await?;
    shown.search(bench, &shown.values)
}

/// A KEK as Rook generates it, and two texts that formats escape differently. Every piece of them is random: tests of one
/// process share a log, and other programs write JSON too.
fn keks() -> [Kek; 3] {
    let random = || format!("{}{}", random_text(), random_text());
    [
        kek(),
        kek_of(&format!("{} \"{}\" \\{}\\ ü{} 鍵", random(), random(), random(), random())),
        kek_of(&format!("{{\"data\":\"{}\"}}", random())),
    ]
}

/// Calls every method in every mode. Other cases judge the results.
async fn exercised(bench: &Bench) -> Verdict<Shown> {
    let recording = Recording::start().map_err(Stop::Fail)?;
    let mark = random_text();
    tracing::trace!(mark, "the recording is active");

    let keks = keks();
    let mut values = String::new();
    let provider = bench.provider();
    let capability = bench.capability();
    for (number, kek) in keks.iter().enumerate() {
        let other = &keks[(number + 1) % keks.len()];
        let (name, absent) = (bench.name(&format!("leak-{number}")), bench.name(&format!("absent-{number}")));
        let stale = KeyVersion::new("0");
        if capability.create == Guarantee::Unsupported {
            values += &shown(&provider.put(&name, kek, PutMode::Overwrite).await);
        }
        // A new KEK, the same KEK again, another KEK.
        values += &shown(&provider.put(&name, kek, PutMode::Create).await);
        values += &shown(&provider.put(&name, kek, PutMode::Create).await);
        values += &shown(&provider.put(&name, other, PutMode::Create).await);
        let stored = provider.get(&name, Freshness::Any).await;
        values += &shown(&stored);
        values += &shown(&provider.get(&name, Freshness::Fresh).await);
        values += &shown(&provider.get(&absent, Freshness::Fresh).await);
        values += &shown(&provider.put(&name, other, PutMode::Update(stale.clone())).await);
        values += &shown(&provider.put(&absent, kek, PutMode::Update(stale.clone())).await);
        if let Ok(stored) = stored {
            values += &shown(&provider.put(&name, other, PutMode::Update(stored.version)).await);
        }
        values += &shown(&provider.put(&name, kek, PutMode::Overwrite).await);
        values += &shown(&provider.ensure(&name, other.duplicate()).await);
        let mut list = provider.list();
        while let Some(info) = list.next().await {
            values += &shown(&info);
        }
        drop(list);
        values += &shown(&provider.retire_superseded(&name, &stale).await);
        if let Ok(stored) = provider.get(&name, Freshness::Fresh).await {
            values += &shown(&provider.retire_superseded(&name, &stored.version).await);
        }
        values += &shown(&provider.delete(&absent, DeleteMode::Destroy).await);
        values += &shown(&provider.undelete(&name).await);
        values += &shown(&provider.history(&name, HistoryMode::ReadOnly).await);
        values += &leak::shown(&provider);
        values += &shown(&provider.delete(&name, DeleteMode::Soft).await);
        values += &shown(&provider.history(&name, HistoryMode::Restore).await);
        values += &shown(&provider.undelete(&name).await);
        values += &shown(&provider.put(&name, other, PutMode::Overwrite).await);
        values += &shown(&provider.delete(&name, DeleteMode::Destroy).await);
        for broken in [bench.unreachable(), bench.denied()].into_iter().flatten() {
            for mode in [PutMode::Create, PutMode::Overwrite, PutMode::Update(stale.clone())] {
                values += &shown(&broken.put(&name, kek, mode).await);
            }
            values += &leak::shown(broken);
        }
    }
    let probe = provider.probed().await;
    values += &leak::shown(&probe);
    for broken in [bench.unreachable(), bench.denied()].into_iter().flatten() {
        for (_, error) in faults::failures(bench, broken.as_ref()).await.unwrap_or_default() {
            values += &leak::shown_error(&error);
        }
    }

    let log = recording.text();
    check!(log.contains(&mark), "the recording misses logs");
    let canary = |kek: &Kek| Ok(Canary::new("a KEK", kek.expose_secret_text()?));
    let canaries = keks.iter().map(canary).collect::<kms_core::Result<_>>()?;
    Ok(Shown { canaries, values, log })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_of_other_keks_is_no_leak() {
        let text = |keks: [Kek; 3]| keks.map(|kek| kek.expose_secret_text().unwrap_or_default().to_owned());
        let (ours, others) = (text(keks()), text(keks()).join("\n"));
        for kek in &ours {
            assert_eq!(Canary::new("a KEK", kek).found_in(&others), None);
        }
    }
}
