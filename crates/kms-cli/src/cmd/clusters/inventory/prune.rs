//! `kms inventory prune`: deletes keys without an OSD and without a PVC, once an escrow of them was read back.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use kms_core::{DeleteMode, Error, ErrorKind, Freshness, KeyName, KmsProvider, Result, clock::age};
use kms_escrow::{Recipients, SavedKey, save};
use kms_rook::inventory::{Inventory, Orphan};
use serde::Serialize;
use tracing::warn;

use super::sources::Found;
use crate::{
    args::{Files, duration, key_name},
    cmd::{escrow::recipients, keys::in_use::uses},
    exit::Exit,
    invocation::Invocation,
    output::{ErrorDocument, Format, Output, Tone},
    target::Target,
    time::rfc3339,
};

/// The arguments.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(super) files: Files,

    /// The keys to delete; each must be an orphan
    #[arg(value_name = "NAME", value_parser = key_name, conflicts_with = "all")]
    names: Vec<KeyName>,

    /// Delete every orphan that is old enough, also those of other clusters that share the place in the KMS
    #[arg(long)]
    all: bool,

    /// Delete only keys whose current version is older than this: 90d, 2160h; 0 also takes those without a known age
    #[arg(long, value_name = "AGE", value_parser = duration)]
    older_than: Duration,

    /// The folder to be made for an escrow of the keys, which is read back before the first one is deleted
    #[arg(long, value_name = "DIR", requires = "recipients")]
    escrow: Option<PathBuf>,

    /// The recipients of the escrow: age1… and the recipients of plugins, one a line
    #[arg(short = 'R', long = "recipients-file", value_name = "FILE")]
    recipients: Option<PathBuf>,

    /// Destroy the keys; without it they are deleted so that `kms undelete` can bring them back, where the KMS can do that
    #[arg(long)]
    destroy: bool,

    /// Show what would be deleted; this is the default
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,

    /// Delete the keys
    #[arg(long, requires_all = ["escrow", "recipients"])]
    yes: bool,
}

/// What was done.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Document {
    ok: bool,
    dry_run: bool,
    escrow: Option<String>,
    keys: Vec<KeyDocument>,
}

/// An orphan.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct KeyDocument {
    name: String,
    version: Option<String>,
    updated: Option<String>,
    outcome: &'static str,
    reason: Option<&'static str>,
    error: Option<ErrorDocument>,
    #[serde(skip)]
    age: Option<String>,
}

/// Shows the orphans, and deletes those that are old enough if `--yes` says so.
pub(super) async fn run(args: Args, invocation: &Invocation<'_>, output: &mut Output<'_>) -> Result<Exit> {
    if args.yes && args.names.is_empty() && !args.all {
        return Err(Error::config(
            "--yes needs the NAMEs of the keys, or --all: where clusters share one place in the KMS, the keys of the others \
             look like orphans too",
        ));
    }
    // Before anything is asked: wrong recipients need no login.
    let recipients = args.recipients.as_deref().map(recipients).transpose()?;
    let Found { target, kms, facts, .. } = Found::read(invocation, &[], None).await?;
    let now = SystemTime::now();
    let inventory = Inventory::new(facts, now, None);
    let orphans = chosen(inventory.orphans(args.older_than, now)?, &args.names, &inventory)?;
    let mut document = Document {
        ok: true,
        dry_run: !args.yes,
        escrow: None,
        keys: orphans.iter().map(|orphan| KeyDocument::of(orphan, now)).collect(),
    };
    let mut exit = Exit::Done;
    let names: Vec<_> =
        orphans.iter().filter(|orphan| orphan.kept.is_none()).map(|orphan| orphan.name).collect();
    if let (true, false, Some(folder), Some(recipients)) =
        (args.yes, names.is_empty(), args.escrow, recipients)
    {
        let mode = if args.destroy { DeleteMode::Destroy } else { DeleteMode::Soft };
        let pruning = Pruning { kms: &*kms?, target: &target, invocation, mode };
        let saved = pruning.saved(&names, &recipients, &folder).await?;
        document.escrow = Some(folder.display().to_string());
        for key in &saved {
            let outcome = pruning.delete(key).await;
            if let (Err(error), Exit::Done) = (&outcome, exit) {
                (document.ok, exit) = (false, Exit::of(error));
            }
            let is_it = |row: &&mut KeyDocument| row.name == key.entry().name.as_str();
            if let Some(row) = document.keys.iter_mut().find(is_it) {
                row.note(outcome);
            }
        }
    }
    document.show(output)?;
    Ok(exit)
}

/// The orphans of these names, or all of them.
///
/// # Errors
///
/// `Conflict` if a name is not that of an orphan: then nothing is deleted.
fn chosen<'a>(orphans: Vec<Orphan<'a>>, names: &[KeyName], inventory: &Inventory) -> Result<Vec<Orphan<'a>>> {
    let is_orphan = |name: &&KeyName| orphans.iter().any(|orphan| orphan.name == *name);
    if let Some(other) = names.iter().find(|name| !is_orphan(name)) {
        let row = inventory.rows.iter().find(|row| row.name.as_ref() == Some(other));
        let (kind, state) = match row {
            Some(row) => (ErrorKind::Conflict, row.state.as_str()),
            None => (ErrorKind::NotFound, "there is no such key"),
        };
        return Err(Error::new(kind, "this key is not an orphan, so no key was deleted")
            .context("key", other.as_str())
            .context("state", state));
    }
    let is_chosen = |orphan: &Orphan<'_>| names.is_empty() || names.contains(orphan.name);
    Ok(orphans.into_iter().filter(is_chosen).collect())
}

/// What deleting needs.
struct Pruning<'a> {
    kms: &'a dyn KmsProvider,
    target: &'a Target,
    invocation: &'a Invocation<'a>,
    mode: DeleteMode,
}

impl Pruning<'_> {
    /// Saves the keys in an escrow, which was read back.
    async fn saved(
        &self,
        names: &[&KeyName],
        recipients: &Recipients,
        folder: &std::path::Path,
    ) -> Result<Vec<SavedKey>> {
        let names: Vec<_> = names.iter().map(|name| (*name).clone()).collect();
        Ok(save(self.kms, &names, recipients, folder, self.target.about()?).await?.1)
    }

    /// Deletes a key that is still what the escrow has, and that nothing has begun to use since the inventory.
    async fn delete(&self, key: &SavedKey) -> Result<&'static str> {
        let name = &key.entry().name;
        let found = uses(name, &[], self.target, self.invocation).await?;
        if !found.is_empty() {
            return Err(Error::new(ErrorKind::Conflict, "the key is in use now, and stays")
                .context("key", name.as_str())
                .context("in use", found.join(", ")));
        }
        let stored = self.kms.get(name, Freshness::Fresh).await?;
        if stored.version.as_str() != key.entry().version || !stored.kek.ct_eq(key.kek()) {
            return Err(Error::key_changed(name));
        }
        match self.kms.delete(name, self.mode).await {
            Ok(deleted) if deleted.is_recoverable() => Ok("recoverable"),
            Ok(_) => Ok("destroyed"),
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                Err(error.context("to do", "give --destroy; the escrow has the key"))
            }
            Err(error) => Err(error),
        }
    }
}

impl KeyDocument {
    fn of(orphan: &Orphan<'_>, now: SystemTime) -> Self {
        let stored = orphan.row.stored();
        Self {
            name: orphan.name.to_string(),
            version: orphan.row.key.as_ref().and_then(|key| key.version.as_ref()).map(ToString::to_string),
            updated: stored.and_then(rfc3339),
            outcome: if orphan.kept.is_some() { "kept" } else { "would-be-deleted" },
            reason: orphan.kept,
            error: None,
            age: stored.map(|then| age(now, then)),
        }
    }

    fn note(&mut self, outcome: Result<&'static str>) {
        match outcome {
            Ok(outcome) => self.outcome = outcome,
            Err(error) => (self.outcome, self.error) = ("failed", Some(ErrorDocument::of(&error))),
        }
    }

    fn show(&self, output: &mut Output<'_>) -> Result<()> {
        let Self { name, outcome, reason, error, age, .. } = self;
        let age = age.as_deref().unwrap_or("unknown");
        let why = error.as_ref().map(ErrorDocument::message).or(*reason);
        let line =
            format!("{outcome}  {name}  age {age}{}", why.map(|why| format!(": {why}")).unwrap_or_default());
        let tone = match *outcome {
            "failed" => Tone::Bad,
            "kept" | "would-be-deleted" => Tone::Warning,
            _ => Tone::Good,
        };
        output.state_line(tone, line)
    }
}

impl Document {
    fn show(&self, output: &mut Output<'_>) -> Result<()> {
        if output.format() == Format::Json {
            return output.json(self);
        }
        self.keys.iter().try_for_each(|key| key.show(output))?;
        if let Some(folder) = &self.escrow {
            output.line(format!("the escrow of these keys is in {folder}"))?;
        }
        if self.keys.is_empty() {
            warn!("there is no orphan: every key has an OSD or a PVC");
        } else if self.dry_run {
            warn!("nothing was deleted: --yes, with NAMEs or --all, deletes what would be deleted");
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use kms_core::{KeyInfo, KeyVersion};
    use kms_rook::inventory::Facts;

    use super::*;

    /// The output for a key that is deleted, one that is kept and one that fails.
    pub(crate) fn printed(format: Format) -> String {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(86_400 * 100);
        let key = |name: &str, days: u64| {
            let stored = now - Duration::from_secs(86_400 * days);
            let key = KeyInfo::new(name.parse().unwrap()).with_times(None, Some(stored));
            key.with_version(KeyVersion::new("3"))
        };
        let facts = Facts { keys: vec![key("a", 91), key("b", 1), key("c", 95)], ..Facts::default() };
        let inventory = Inventory::new(facts, now, None);
        let orphans = inventory.orphans(Duration::from_secs(86_400 * 90), now).unwrap();
        let mut keys: Vec<_> = orphans.iter().map(|orphan| KeyDocument::of(orphan, now)).collect();
        keys[0].note(Ok("recoverable"));
        keys[2].note(Err(Error::key_changed(&"c".parse().unwrap())));
        let mut bytes = Vec::new();
        let document = Document { ok: false, dry_run: false, escrow: Some("saved".to_owned()), keys };
        document.show(&mut Output::to(format, &mut bytes)).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn each_orphan_is_a_line() {
        let text = printed(Format::Text);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[..2], ["recoverable  a  age 91d", "kept  b  age 1d: it is not old enough"]);
        assert!(lines[2].starts_with("failed  c  age 95d: "), "{text}");
        assert_eq!(lines[3..], ["the escrow of these keys is in saved"]);
    }

    #[test]
    fn a_name_that_is_no_orphan_keeps_every_key() {
        let facts = Facts { keys: vec![KeyInfo::new("a".parse().unwrap())], ..Facts::default() };
        let inventory = Inventory::new(facts, SystemTime::UNIX_EPOCH, None);
        let orphans = || inventory.orphans(Duration::ZERO, SystemTime::UNIX_EPOCH).unwrap();
        let names = ["a".parse().unwrap(), "b".parse().unwrap()];
        assert_eq!(chosen(orphans(), &names[..1], &inventory).unwrap().len(), 1);
        assert_eq!(chosen(orphans(), &names, &inventory).unwrap_err().kind(), ErrorKind::NotFound);
    }
}
