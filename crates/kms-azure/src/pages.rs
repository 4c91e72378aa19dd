//! The pages of a list, and whether the list is whole.
//!
//! Only the link to the next page says whether a list goes on. So a list is cut if a page of it is malformed, if a link
//! leads back to a page that was read, or if the server gives no links at all although it cuts lists.

use std::collections::HashSet;

use kms_core::{Error, ErrorKind};
use serde::{Deserialize, Deserializer};

/// The largest number of secrets on a page (Key Vault REST API, `maxresults`).
const LARGEST: usize = 25;
/// The maximum number of empty pages in a row. Key Vault may send some.
const MOST_EMPTY: usize = 100;

/// A page of a list. Only an empty list says that there are no secrets.
#[derive(Debug, Deserialize)]
pub(crate) struct Page<T> {
    value: Vec<T>,
    /// The link to the next page. Key Vault sends `null` on the last page; other servers leave the field out, and so does
    /// a proxy that loses it.
    #[serde(default, rename = "nextLink", deserialize_with = "present")]
    next: Option<Option<String>>,
}

fn present<'de, D: Deserializer<'de>>(link: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(link).map(Some)
}

impl<T> Page<T> {
    fn link(&self) -> Option<&str> {
        self.next.as_ref()?.as_deref().filter(|link| !link.is_empty())
    }
}

/// What is known of a list while its pages are read.
#[derive(Debug, Default)]
pub(crate) struct Course {
    ids: HashSet<String>,
    links: HashSet<String>,
    /// The number of pages.
    pages: usize,
    /// The number of empty pages since the last one with secrets.
    empty: usize,
    /// Whether a page left the link out.
    linkless: bool,
}

impl Course {
    /// The secrets of a page, without those that a page before had, and why the list cannot go on after them. `id` tells
    /// secrets apart.
    pub(crate) fn add<T>(&mut self, page: Page<T>, id: fn(&T) -> &str) -> (Vec<T>, Option<Error>) {
        self.pages += 1;
        self.linkless |= page.next.is_none();
        let is_repeated = page.link().is_some_and(|link| !self.links.insert(link.to_owned()));
        let count = page.value.len();
        let new: Vec<_> = page.value.into_iter().filter(|one| self.ids.insert(id(one).to_owned())).collect();
        self.empty = if count == 0 { self.empty + 1 } else { 0 };
        let leads_back = is_repeated || (count > 0 && new.is_empty()) || self.empty > MOST_EMPTY;
        (new, leads_back.then(|| incomplete("the link to the next page leads back to a page of the list")))
    }

    /// Whether pages were read.
    pub(crate) fn has_begun(&self) -> bool {
        self.pages > 0
    }

    /// The error of the list for a page that could not be read. A page after the first one that makes no sense leaves the
    /// list incomplete.
    pub(crate) fn failed(&self, error: Error) -> Error {
        match error.kind() {
            ErrorKind::Protocol | ErrorKind::NotFound | ErrorKind::Unexpected if self.has_begun() => {
                incomplete("a page of the list cannot be read").source(error)
            }
            _ => error,
        }
    }

    /// Whether a list that has ended after its first page may be cut: the page had no link at all, or it was full.
    /// `size`: the number of secrets that a page was to have, if that was said.
    pub(crate) fn needs_proof(&self, size: Option<i32>) -> bool {
        let count = self.ids.len();
        let asked = size.and_then(|size| usize::try_from(size).ok());
        let is_full = count == LARGEST || Some(count) == asked;
        self.pages == 1 && count > 1 && (self.linkless || is_full)
    }

    /// Takes the first page of the same list with one secret a page as a proof that the server gives links.
    pub(crate) fn prove<T>(&self, page: &Page<T>) -> Result<(), Error> {
        // A server that ignores the size of a page has sent everything, unless it has sent as much as it ever does.
        let is_whole = match page.value.len() {
            0 => true,
            1 => page.link().is_some(),
            count => page.link().is_some() || count != LARGEST,
        };
        if is_whole {
            return Ok(());
        }
        Err(incomplete("the vault sends one page of the list, without a link to the next one"))
    }
}

fn incomplete(why: &'static str) -> Error {
    Error::new(
        ErrorKind::Incomplete,
        format!("secrets may be missing, since {why}; check AZURE_VAULT_URL and the proxy"),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn page(names: &[&str], next: Option<Value>) -> Page<String> {
        let mut page = json!({"value": names});
        if let Some(next) = next {
            page["nextLink"] = next;
        }
        serde_json::from_value(page).unwrap()
    }

    #[test]
    fn a_list_that_leads_back_ends_with_its_secrets_and_an_error() {
        let mut course = Course::default();
        assert!(course.add(page(&["a"], Some(json!("https://v/1"))), String::as_str).1.is_none());
        // An empty page in between is no end.
        assert!(course.add(page(&[], Some(json!("https://v/2"))), String::as_str).1.is_none());
        let (new, cut) = course.add(page(&["b"], Some(json!("https://v/1"))), String::as_str);
        assert_eq!((new.len(), cut.map(|error| error.kind())), (1, Some(ErrorKind::Incomplete)));

        let mut course = Course::default();
        course.add(page(&["a"], Some(json!("https://v/1"))), String::as_str);
        let (new, cut) = course.add(page(&["a"], Some(json!("https://v/2"))), String::as_str);
        assert_eq!((new.len(), cut.map(|error| error.kind())), (0, Some(ErrorKind::Incomplete)));

        let mut course = Course::default();
        let ends = (0..1_000).find(|number| {
            course.add(page(&[], Some(json!(format!("https://v/{number}")))), String::as_str).1.is_some()
        });
        assert_eq!(ends, Some(MOST_EMPTY));
    }

    #[test]
    fn one_page_needs_a_proof_only_if_it_has_no_link_or_is_full() {
        let names: Vec<String> = (0..LARGEST).map(|number| format!("s{number}")).collect();
        let full: Vec<&str> = names.iter().map(String::as_str).collect();
        let null = || Some(Value::Null);
        for (names, next, size, expected) in [
            (&["a", "b"][..], null(), None, false),
            (&["a", "b"], Some(json!("")), None, false),
            (&["a", "b"], None, None, true),
            (&["a"], None, None, false),
            (&["a", "b"], null(), Some(2), true),
            (&full, null(), None, true),
        ] {
            let mut course = Course::default();
            course.add(page(names, next.clone()), String::as_str);
            assert_eq!(course.needs_proof(size), expected, "{} {next:?} {size:?}", names.len());
        }
        let course = Course::default();
        let link = || Some(json!("https://v/1"));
        for (names, next, is_whole) in [
            (&["a"][..], link(), true),
            (&["a"], None, false),
            (&["a"], null(), false),
            (&[], None, true),
            (&["a", "b"], None, true),
            (&full, None, false),
        ] {
            let proof = course.prove(&page(names, next));
            assert_eq!(proof.is_ok(), is_whole, "{} {proof:?}", names.len());
        }
    }
}
