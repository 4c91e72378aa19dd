//! `kms list`: lists the keys.

use std::time::SystemTime;

use futures_util::TryStreamExt;
use kms_core::{Error, ErrorKind, KeyInfo, KeyState, KmsProvider, Result, clock::age};
use serde::Serialize;
use tracing::warn;

use crate::{
    args::Files,
    exit::Exit,
    output::{Format, Output, Tone, chain, table},
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
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Document {
    pub(crate) keys: Vec<Key>,
    pub(crate) complete: bool,
    pub(crate) reason: Option<String>,
}

/// One key.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Key {
    pub(crate) name: String,
    pub(crate) version: Option<String>,
    pub(crate) created: Option<String>,
    pub(crate) updated: Option<String>,
    pub(crate) state: Option<&'static str>,
}

impl Key {
    fn of(key: KeyInfo) -> Self {
        Self {
            name: key.name.to_string(),
            version: key.version.map(|version| version.to_string()),
            created: key.created.and_then(rfc3339),
            updated: key.updated.and_then(rfc3339),
            state: key.state.map(KeyState::as_str),
        }
    }
}

/// The cells of one key.
fn row(now: SystemTime, key: KeyInfo) -> [String; 4] {
    let unknown = || "-".to_owned();
    let age = key.updated.or(key.created).map_or_else(unknown, |then| age(now, then));
    let version = key.version.map_or_else(unknown, |version| version.to_string());
    let state = key.state.map(KeyState::as_str).unwrap_or_default();
    [key.name.to_string(), version, age, state.to_owned()]
}

/// Lists the keys, sorted by name. Shows the keys of an incomplete list, and then fails. `place`: where the keys are, for a
/// message.
pub(crate) async fn run(
    args: Args,
    kms: &dyn KmsProvider,
    place: &str,
    now: SystemTime,
    output: &mut Output<'_>,
) -> Result<Exit> {
    // The files have been read already.
    let Args { files: _ } = args;
    let (mut keys, incomplete) = collect(kms).await?;
    let reason = incomplete.as_ref().map(chain);
    keys.sort_by(|a, b| a.name.cmp(&b.name));
    if keys.is_empty() && incomplete.is_none() {
        warn!("there are no keys: {place} has none with the names that Rook gives");
    }
    match output.format() {
        Format::Json => {
            let keys = keys.into_iter().map(Key::of).collect();
            output.json(&Document { keys, complete: reason.is_none(), reason })?;
        }
        Format::Text => {
            let head = ["NAME", "VERSION", "AGE", "STATE"].map(str::to_owned);
            let rows: Vec<_> =
                std::iter::once(head).chain(keys.into_iter().map(|key| row(now, key))).collect();
            for line in table(&rows) {
                output.line(line)?;
            }
            if let Some(reason) = reason {
                output.state_line(Tone::Warning, format!("INCOMPLETE: {reason}"))?;
            }
        }
    }
    incomplete.map_or(Ok(Exit::Done), Err)
}

/// Collects the keys, and the error that says that some are missing. `None` if the list is complete.
///
/// # Errors
///
/// Those of the list, other than `Incomplete`.
pub(crate) async fn collect(kms: &dyn KmsProvider) -> Result<(Vec<KeyInfo>, Option<Error>)> {
    let mut keys = Vec::new();
    let mut list = kms.list();
    loop {
        match list.try_next().await {
            Ok(Some(key)) => keys.push(key),
            Ok(None) => return Ok((keys, None)),
            Err(error) if error.kind() == ErrorKind::Incomplete => return Ok((keys, Some(error))),
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kms_core::{Kek, PutMode, memory::Memory};
    use kms_testkit::fake::{InjectedFault, Operation, Scripted};

    use super::*;

    #[tokio::test]
    async fn an_empty_list_says_where_kms_has_looked() {
        let (empty, full) = (Memory::new(), Memory::new());
        full.put(&"a".parse().unwrap(), &Kek::generate().unwrap(), PutMode::Create).await.unwrap();
        for (kms, expected) in [(&empty, 1), (&full, 0)] {
            let mut output = Output::to(Format::Json, std::io::sink());
            let args = Args { files: Files::default() };
            let (listed, seen) = kms_testkit::warnings::warnings(run(
                args,
                kms,
                "memory",
                SystemTime::UNIX_EPOCH,
                &mut output,
            ))
            .await;
            listed.unwrap();
            assert_eq!(seen.len(), expected, "{seen:?}");
            assert!(seen.iter().all(|line| line.starts_with("there are no keys: memory has")), "{seen:?}");
        }
    }

    #[tokio::test]
    async fn an_incomplete_list_shows_its_keys_says_so_and_fails() {
        let memory = Arc::new(Memory::new());
        for name in ["a", "b", "c"] {
            memory.put(&name.parse().unwrap(), &Kek::generate().unwrap(), PutMode::Create).await.unwrap();
        }
        for (format, sign) in [(Format::Text, "INCOMPLETE: "), (Format::Json, "\"complete\": false")] {
            let kms = Scripted::around(memory.clone());
            kms.push(Operation::List, InjectedFault::error(ErrorKind::Incomplete).after_items(2));
            let mut bytes = Vec::new();
            let mut output = Output::to(format, &mut bytes);
            let args = Args { files: Files::default() };
            let error = run(args, &kms, "memory", SystemTime::now(), &mut output).await;
            let error = error.unwrap_err();
            drop(output);
            let text = String::from_utf8(bytes).unwrap();
            assert_eq!((error.kind(), Exit::of(&error)), (ErrorKind::Incomplete, Exit::Failed));
            assert!(text.contains(sign) && text.contains('a') && text.contains(error.message()), "{text}");
        }
    }

    #[test]
    fn a_key_that_may_not_open_its_device_is_marked_in_table_and_document() {
        let key = |state| KeyInfo::new("a".parse().unwrap()).with_state(state);
        for (state, text) in [
            (None, None),
            (Some(KeyState::Disabled), Some("disabled")),
            (Some(KeyState::Expired), Some("expired")),
            (Some(KeyState::Destroyed), Some("destroyed")),
        ] {
            assert_eq!(row(SystemTime::now(), key(state)), ["a", "-", "-", text.unwrap_or_default()]);
            assert_eq!(Key::of(key(state)).state, text);
        }
    }
}
