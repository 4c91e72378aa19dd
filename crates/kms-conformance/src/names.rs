//! Names: every valid name is a separate key, and lists return names unchanged.

use std::collections::BTreeSet;

use kms_core::{ErrorKind, Freshness, Kek, KeyName, PutMode};

use super::{
    bench::{Bench, Stop, Verdict, kek, random_text},
    cases, check,
};

/// Endings that a careless mapping to the names of a store confuses.
const LOOK_ALIKE: &[&str] = &[
    "x-y",
    "x_y",
    "x.y",
    "x--y",
    "x__y",
    "x..y",
    "x-_y",
    "x._y",
    "xy",
    "X-Y",
    "X_Y",
    "x-Y",
    "xY",
    "x-5fy",
    "x-2ey",
    "x.2dy",
    "x_5Fy",
    "x-dot-y",
    "x-underscore-y",
    "x-y-0",
    "x-y.0",
    "x-y0",
    "x.json",
    "x.yaml",
    "data",
    "metadata",
    "config",
    "con",
    "latest",
    "version",
    "v1",
    "0",
    "00",
    "1e5",
    "0x10",
    "null",
    "true",
];

cases![
    names_of_every_length_work,
    a_name_of_one_character_works,
    long_names_that_differ_at_the_end_are_different_keys,
    names_that_look_alike_are_different_keys,
];

/// Stores a different KEK under each name, then reads and lists all of them.
async fn all_distinct(bench: &Bench, names: Vec<KeyName>) -> Verdict {
    let keys: Vec<(KeyName, Kek)> = names.into_iter().map(|name| (name, kek())).collect();
    for (name, kek) in &keys {
        bench.stored(name, kek).await.map_err(|stop| about(name, stop))?;
    }
    for (name, kek) in &keys {
        bench.holds(name, kek).await.map_err(|stop| about(name, stop))?;
    }
    if bench.capability().list {
        let listed: BTreeSet<_> =
            bench.listed(&bench.prefix()).await?.into_iter().map(|info| info.name).collect();
        let expected: BTreeSet<_> = keys.iter().map(|(name, _)| name.clone()).collect();
        let missing: Vec<_> = expected.difference(&listed).collect();
        let surplus: Vec<_> = listed.difference(&expected).collect();
        check!(missing.is_empty() && surplus.is_empty(), "missing: {missing:?}, not ours: {surplus:?}");
    }
    let mut keys = keys.into_iter();
    if let Some((gone, _)) = keys.next() {
        bench.provider().delete(&gone, kms_core::DeleteMode::Destroy).await?;
    }
    for (name, kek) in keys {
        bench.holds(&name, &kek).await.map_err(|stop| about(&name, stop))?;
    }
    Ok(())
}

fn about(name: &KeyName, stop: Stop) -> Stop {
    match stop {
        Stop::Fail(why) => Stop::Fail(format!("{name} ({} bytes): {why}", name.as_str().len())),
        Stop::Skip(why) => Stop::Skip(why),
    }
}

async fn names_of_every_length_work(bench: &Bench) -> Verdict {
    let shortest = bench.prefix().len() + 1;
    let lengths = [62, 63, 64, 65, 127, 128, 200, 252, KeyName::MAX_BYTES];
    let lengths = std::iter::once(shortest).chain(lengths.into_iter().filter(|length| *length > shortest));
    all_distinct(bench, lengths.map(|length| bench.name_of_length(length)).collect()).await
}

/// There are few such names and they may be in use, so the case searches an unused one.
async fn a_name_of_one_character_works(bench: &Bench) -> Verdict {
    let start = usize::from_str_radix(&random_text()[..4], 16).unwrap_or_default();
    let letters = b"abcdefghijklmnopqrstuvwxyz0123456789";
    for at in 0..letters.len() {
        let letter = char::from(letters[(start + at) % letters.len()]);
        let name = KeyName::new(letter).expect("a letter is a name");
        match bench.provider().get(&name, Freshness::Fresh).await {
            Ok(_) => continue,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(about(&name, error.into())),
        }
        let kek = kek();
        match bench.stored(&name, &kek).await {
            Ok(_) => {
                bench.owned(name.clone());
                return bench.holds(&name, &kek).await.map(drop).map_err(|stop| about(&name, stop));
            }
            // Another client has taken it meanwhile.
            Err(_) if bench.provider().get(&name, Freshness::Fresh).await.is_ok() => {}
            Err(stop) => return Err(about(&name, stop)),
        }
    }
    Err(Stop::Skip("every such name is in use".to_owned()))
}

async fn long_names_that_differ_at_the_end_are_different_keys(bench: &Bench) -> Verdict {
    let mut names = Vec::new();
    for length in [63, 64, 200, KeyName::MAX_BYTES] {
        let stem = bench.name_of_length(length - 1).as_str().to_owned();
        for last in ['a', 'b', 'A', '0'] {
            let name = KeyName::new(format!("{stem}{last}")).expect("the name is valid");
            names.push(bench.owned(name));
        }
    }
    all_distinct(bench, names).await
}

async fn names_that_look_alike_are_different_keys(bench: &Bench) -> Verdict {
    let names = LOOK_ALIKE.iter().map(|label| bench.name(label)).collect();
    all_distinct(bench, names).await?;
    // Upper case from the first character on, and dots within.
    let upper = format!("{}x", bench.prefix()).to_uppercase().replace('-', ".");
    let upper = bench.owned(KeyName::new(upper).expect("the name is valid"));
    let kek = kek();
    bench.provider().put(&upper, &kek, PutMode::Overwrite).await?;
    bench.holds(&upper, &kek).await.map(drop).map_err(|stop| about(&upper, stop))
}
