//! Capability and probe.

use kms_core::{Freshness, KmsProviderExt};

use super::{
    bench::{Bench, Verdict, described},
    cases, check,
};

cases![
    the_provider_has_a_name_and_a_sound_capability,
    probe_passes,
    probe_changes_nothing,
    capability_stays_the_same_once_connected,
];

async fn the_provider_has_a_name_and_a_sound_capability(bench: &Bench) -> Verdict {
    let name = bench.provider().provider();
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    check!(!name.is_empty() && name.chars().all(plain), "{name:?} is not a valid provider name");
    let largest = bench.capability().max_kek_bytes;
    check!(largest >= 172, "a generated KEK of 172 bytes is above the limit of {largest}");
    Ok(())
}

async fn probe_passes(bench: &Bench) -> Verdict {
    let probe = bench.provider().probed().await;
    if let Some((step, error)) = &probe.failed {
        check!(false, "{step}: {}", described(error));
    }
    check!(!probe.passed.is_empty(), "the probe reports no step");
    check!(probe.not_run.is_empty(), "nothing failed, but these were not tried: {:?}", probe.not_run);
    Ok(())
}

async fn probe_changes_nothing(bench: &Bench) -> Verdict {
    let (name, kek, version) = bench.made("probed").await?;
    let probe = bench.provider().probed().await;
    check!(probe.failed.is_none(), "the probe failed: {probe:?}");
    let after = bench.holds(&name, &kek).await?;
    check!(after == version, "version {version} has become {after}");
    if bench.capability().list {
        let names: Vec<_> = bench.listed(&bench.prefix()).await?.into_iter().map(|info| info.name).collect();
        check!(names == [name], "the list is now {names:?}");
    }
    Ok(())
}

async fn capability_stays_the_same_once_connected(bench: &Bench) -> Verdict {
    let (name, ..) = bench.made("first").await?;
    let before = bench.capability();
    bench.provider().get(&name, Freshness::Any).await?;
    let after = bench.capability();
    check!(before == after, "{before:?} has become {after:?}");
    Ok(())
}
