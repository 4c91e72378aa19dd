//! `kms list`: lists the keys.

use std::time::SystemTime;

use futures_util::TryStreamExt;
use kms_core::{KeyInfo, KmsProvider, Result};
use serde::Serialize;

use crate::{
    args::Files,
    exit::Exit,
    output::{Format, Output, table},
    time::rfc3339,
};

/// The arguments.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) files: Files,
}

/// The keys.
#[derive(Serialize)]
pub(crate) struct Document {
    pub(crate) keys: Vec<Key>,
}

/// One key.
#[derive(Serialize)]
pub(crate) struct Key {
    pub(crate) name: String,
    pub(crate) version: Option<String>,
    pub(crate) created: Option<String>,
    pub(crate) updated: Option<String>,
}

/// Lists the keys, sorted by name.
pub(crate) async fn run(
    args: Args,
    kms: &dyn KmsProvider,
    now: SystemTime,
    output: &mut Output<'_>,
) -> Result<Exit> {
    // The files have been read already.
    let Args { files: _ } = args;
    let mut keys: Vec<KeyInfo> = kms.list().try_collect().await?;
    keys.sort_by(|a, b| a.name.cmp(&b.name));
    match output.format() {
        Format::Json => {
            let key = |key: KeyInfo| Key {
                name: key.name.to_string(),
                version: key.version.map(|version| version.to_string()),
                created: key.created.and_then(rfc3339),
                updated: key.updated.and_then(rfc3339),
            };
            output.json(&Document { keys: keys.into_iter().map(key).collect() })?;
        }
        Format::Text => {
            let unknown = || "-".to_owned();
            let row = |key: KeyInfo| {
                let age = key.updated.or(key.created).map(|then| age(now, then));
                let version = key.version.map(|version| version.to_string());
                [key.name.to_string(), version.unwrap_or_else(unknown), age.unwrap_or_else(unknown)]
            };
            let head = ["NAME", "VERSION", "AGE"].map(str::to_owned);
            let rows: Vec<_> = std::iter::once(head).chain(keys.into_iter().map(row)).collect();
            for line in table(&rows) {
                output.line(line)?;
            }
        }
    }
    Ok(Exit::Done)
}

/// The age of the current version, in its largest unit: `12s`, `5m`, `7h`, `40d`.
fn age(now: SystemTime, then: SystemTime) -> String {
    // Our clock and the server's may differ: a time in the future counts as now.
    let seconds = now.duration_since(then).unwrap_or_default().as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..86_400 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_age_has_one_unit() {
        let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        for (seconds, text) in [(0, "0s"), (59, "59s"), (60, "1m"), (7_199, "1h"), (86_400 * 40, "40d")] {
            assert_eq!(age(then + Duration::from_secs(seconds), then), text);
        }
        assert_eq!(age(then, then + Duration::from_secs(5)), "0s");
        assert_eq!(rfc3339(then).as_deref(), Some("1970-01-12T13:46:40Z"));
    }
}
