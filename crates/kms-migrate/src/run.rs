//! What all runs over many keys share: which keys, how many at a time, and what the caller sees of them.

use std::{collections::BTreeSet, future::Future, num::NonZeroUsize};

use futures_util::{StreamExt as _, stream};
use kms_core::{Error, ErrorKind, KeyInfo, KeyName, Result};

/// How many keys are worked on at a time by default. A few in flight hide the round trip; more load the server.
const JOBS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(7);

/// The options of a run.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// How many keys to work on at a time.
    pub jobs: NonZeroUsize,
    /// The keys to work on. Empty: all keys of the source.
    pub only: BTreeSet<KeyName>,
    /// Whether Rook decodes a KEK from base64 before it stores it at the target.
    pub decodes_base64: bool,
    /// What to do about a key that the target has with another KEK.
    pub on_conflict: OnConflict,
}

impl Default for Options {
    fn default() -> Self {
        Self { jobs: JOBS, only: BTreeSet::new(), decodes_base64: false, on_conflict: OnConflict::Stop }
    }
}

/// What to do about a key that the target has with another KEK.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum OnConflict {
    /// Leave it, and report it.
    #[default]
    Stop,
    /// Replace it, unless it changes meanwhile.
    Replace,
}

/// Receives the end of each key.
pub trait Observer: Send + Sync {
    /// `done` of `total` keys have ended, `name` last: with what was done, or with an error.
    fn ended(&self, name: &KeyName, outcome: Result<&'static str, &Error>, done: usize, total: usize);
}

/// An observer that shows nothing.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "it has nothing to choose")]
pub struct Silent;

impl Observer for Silent {
    fn ended(&self, _: &KeyName, _: Result<&'static str, &Error>, _: usize, _: usize) {}
}

/// A key that failed.
#[derive(Debug)]
#[non_exhaustive]
pub struct Failed {
    /// Its name.
    pub name: KeyName,
    /// Why.
    pub error: Error,
}

impl Failed {
    /// A key with the reason.
    pub fn new(name: KeyName, error: Error) -> Self {
        Self { name, error }
    }
}

impl Options {
    /// The keys of a list that the run works on.
    ///
    /// # Errors
    ///
    /// `NotFound` if the caller names a key that the list does not have.
    pub(crate) fn select(&self, keys: Vec<KeyInfo>) -> Result<Vec<KeyName>> {
        let names = keys.into_iter().map(|key| key.name);
        if self.only.is_empty() {
            return Ok(names.collect());
        }
        let found: Vec<KeyName> = names.filter(|name| self.only.contains(name)).collect();
        match self.only.iter().find(|name| !found.contains(name)) {
            Some(absent) => Err(Error::key_not_found(absent).context("side", "from")),
            None => Ok(found),
        }
    }
}

/// Whether an error concerns one key alone, so that the run goes on with the others.
fn is_about_one_key(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::AlreadyExists
            | ErrorKind::ConfigInvalid
            | ErrorKind::Conflict
            | ErrorKind::NotFound
            | ErrorKind::Protocol
    )
}

/// Works on keys, some at a time, and hands each result to `note` in the order of the ends. Returns the keys that failed.
///
/// # Errors
///
/// The first error that does not concern one key alone. Calls in flight are dropped then: a write has either happened or
/// not, and the next run finds out.
pub(crate) async fn each<T, F>(
    names: Vec<KeyName>,
    jobs: NonZeroUsize,
    observer: &dyn Observer,
    work: impl Fn(KeyName) -> F,
    mut note: impl FnMut(&KeyName, T) -> Result<&'static str>,
) -> Result<Vec<Failed>>
where
    F: Future<Output = (KeyName, Result<T>)>,
{
    let total = names.len();
    let mut failed = Vec::new();
    let mut ends = stream::iter(names).map(work).buffer_unordered(jobs.get());
    let mut done = 0;
    while let Some((name, result)) = ends.next().await {
        done += 1;
        match result.and_then(|value| note(&name, value)) {
            Ok(outcome) => observer.ended(&name, Ok(outcome), done, total),
            Err(error) => {
                observer.ended(&name, Err(&error), done, total);
                if !is_about_one_key(&error) {
                    return Err(error);
                }
                failed.push(Failed::new(name, error));
            }
        }
    }
    Ok(failed)
}
