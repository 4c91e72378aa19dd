//! Listing keys, page by page.

use std::collections::{HashSet, VecDeque};

use futures_util::{Stream, stream};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kms_core::{Error, KeyName};
use kms_kube::{Cause, LIST_ROUNDS, Secrets};

use crate::{name::LABEL, stored::TYPE};

/// Lists the Secrets that hold keys, while it reads them. `read` returns the key of a Secret and the item to list;
/// `None` skips the Secret.
///
/// Each key is listed once, also if the list has to start again. The list ends with its first error.
pub(crate) fn list<'a, T: Send + 'a>(
    secrets: &'a Secrets,
    read: fn(&ObjectMeta) -> Option<(KeyName, T)>,
) -> impl Stream<Item = Result<T, Error>> + Send + 'a {
    let listing = Listing { pages: Pages::new(secrets, read), found: VecDeque::new(), seen: HashSet::new() };
    stream::unfold(listing, |mut listing| async move {
        let item = listing.next().await?;
        Some((item, listing))
    })
}

/// Reads the whole list of Secrets with keys. If the list has to start again, the result holds the last round only.
pub(crate) async fn collect<T>(
    secrets: &Secrets,
    read: fn(&ObjectMeta) -> Option<T>,
) -> Result<Vec<T>, Error> {
    let mut pages = Pages::new(secrets, read);
    let mut all = Vec::new();
    while let Some(step) = pages.next().await? {
        match step {
            Step::Items(items) => all.extend(items),
            Step::Restart => all.clear(),
        }
    }
    Ok(all)
}

/// A list whose items are returned while it is being read.
struct Listing<'a, T> {
    pages: Pages<'a, (KeyName, T)>,
    found: VecDeque<(KeyName, T)>,
    /// The keys that were returned, so that a list that starts again repeats none.
    seen: HashSet<KeyName>,
}

impl<T> Listing<'_, T> {
    async fn next(&mut self) -> Option<Result<T, Error>> {
        loop {
            while let Some((name, item)) = self.found.pop_front() {
                if self.seen.insert(name) {
                    return Some(Ok(item));
                }
            }
            match self.pages.next().await {
                Ok(Some(Step::Items(items))) => self.found = items.into(),
                Ok(Some(Step::Restart)) => {}
                Ok(None) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// The pages of a list. They end with the first error.
struct Pages<'a, T> {
    secrets: &'a Secrets,
    read: fn(&ObjectMeta) -> Option<T>,
    next: Next,
    /// The continue tokens so far.
    tokens: HashSet<String>,
    rounds: usize,
}

/// The page to read next.
enum Next {
    First,
    Page(String),
    Done,
    /// The last page does not show where the list goes on.
    Cut(Error),
}

/// One step through the pages.
enum Step<T> {
    Items(Vec<T>),
    /// The continue token expired, so the next page is the first one again.
    Restart,
}

impl<'a, T> Pages<'a, T> {
    fn new(secrets: &'a Secrets, read: fn(&ObjectMeta) -> Option<T>) -> Self {
        Self { secrets, read, next: Next::First, tokens: HashSet::new(), rounds: 1 }
    }

    async fn next(&mut self) -> Result<Option<Step<T>>, Error> {
        let from = match std::mem::replace(&mut self.next, Next::Done) {
            Next::First => None,
            Next::Page(from) => Some(from),
            Next::Done => return Ok(None),
            Next::Cut(error) => return Err(error),
        };
        match self.secrets.page(TYPE, LABEL, from.as_deref()).await {
            Ok(page) => {
                let (items, next) = page.into_parts(&mut self.tokens);
                self.next = match next {
                    Ok(next) => next.map_or(Next::Done, Next::Page),
                    Err(error) => Next::Cut(error),
                };
                let items = items.iter().filter_map(|object| (self.read)(&object.metadata)).collect();
                Ok(Some(Step::Items(items)))
            }
            Err(failure) if failure.cause == Cause::Expired && self.rounds < LIST_ROUNDS => {
                self.rounds += 1;
                self.tokens.clear();
                self.next = Next::First;
                Ok(Some(Step::Restart))
            }
            Err(failure) => Err(failure.list_error()),
        }
    }
}
