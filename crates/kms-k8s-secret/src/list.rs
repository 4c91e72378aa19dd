//! Listing keys, page by page.

use std::collections::{HashSet, VecDeque};

use futures_util::{Stream, stream};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kms_core::{Error, KeyName};
use kms_kube::{Cause, Secrets};

use crate::{name::LABEL, stored::TYPE};

/// The number of times that a list is read, when it takes longer than the API server remembers.
const ROUNDS: usize = 3;

/// Lists the Secrets with keys. `read` returns the key of a Secret and what is listed of it; `None` skips the Secret.
///
/// Each key is listed once, also if the list has to start again. The list ends with its first error.
pub(crate) fn list<'a, T: Send + 'a>(
    secrets: &'a Secrets,
    read: fn(&ObjectMeta) -> Option<(KeyName, T)>,
) -> impl Stream<Item = Result<T, Error>> + Send + 'a {
    let listing =
        Listing { secrets, read, found: VecDeque::new(), next: Next::First, seen: HashSet::new(), rounds: 1 };
    stream::unfold(listing, |mut listing| async move {
        let item = listing.next().await?;
        Some((item, listing))
    })
}

/// A list that is being read.
struct Listing<'a, T> {
    secrets: &'a Secrets,
    read: fn(&ObjectMeta) -> Option<(KeyName, T)>,
    found: VecDeque<(KeyName, T)>,
    next: Next,
    /// The keys that were listed, so that a list that starts again repeats none.
    seen: HashSet<KeyName>,
    rounds: usize,
}

/// The page to read next.
enum Next {
    First,
    Page(String),
    Done,
}

impl<T> Listing<'_, T> {
    async fn next(&mut self) -> Option<Result<T, Error>> {
        loop {
            while let Some((name, item)) = self.found.pop_front() {
                if self.seen.insert(name) {
                    return Some(Ok(item));
                }
            }
            let from = match &self.next {
                Next::First => None,
                Next::Page(from) => Some(from.as_str()),
                Next::Done => return None,
            };
            match self.secrets.page(TYPE, LABEL, from).await {
                Ok(page) => {
                    let (next, items) = page.into_parts();
                    self.found = items.iter().filter_map(|object| (self.read)(&object.metadata)).collect();
                    self.next = next.map_or(Next::Done, Next::Page);
                }
                Err(failure) if failure.cause == Cause::Expired && self.rounds < ROUNDS => {
                    self.rounds += 1;
                    self.next = Next::First;
                }
                Err(failure) => {
                    self.next = Next::Done;
                    return Some(Err(failure.error));
                }
            }
        }
    }
}
