//! Locates objects, also on a server that returns fewer identifiers than it has found.
//!
//! Many servers return a limited number of identifiers, most often 1,000, whatever Maximum Items says. An object that is
//! missing from such a response is not absent. A response that may be cut short is completed, in this order:
//!
//! 1. with Offset Items (KMIP 1.3). Each page repeats the last identifier of the page before, which shows that the server
//!    honours the offset, and that no object was created or destroyed in between;
//! 2. with ranges of Initial Date, which are halved until each response is shorter than the longest one;
//! 3. with the object types that a KEK can have, for objects of the same second.
//!
//! Before it trusts a filter, the search asks for something that no object fits. If no filter helps, the result says why
//! it is incomplete, and no caller takes a missing object for absent.

use std::collections::HashSet;

use kms_core::{Error, ErrorKind, Result};

use crate::{
    api::{Api, checked_identifier},
    error::{Class, ExchangeError, malformed},
    message::{Operation, Version},
    stored::{Attribute, by_name, by_tag, object_type::KEK_TYPES},
    ttlv::{Field, Item, tag},
};

/// The maximum number of identifiers that one Locate asks for.
const PAGE: usize = 1_000;
/// The assumed size, in bytes, of an identifier in a response. Real ones have up to 64 characters.
const IDENTIFIER_SIZE: usize = 80;
/// The assumed size, in bytes, of the rest of a response.
const FRAME_SIZE: usize = 512;
/// The end of the last range of Initial Date: the year 2100.
pub(crate) const END_OF_TIME: i64 = 4_102_444_800;
/// The maximum number of requests of one search.
const MOST_REQUESTS: usize = 4_000;
/// The maximum number of attempts to read all pages while other clients create and destroy objects.
const PAGING_ROUNDS: usize = 3;

/// How much a search does to find out whether a response is complete.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Effort {
    /// A response is checked only if its length is that of a full page or a usual limit of servers.
    Quick,
    /// Every response of several identifiers is checked, unless the server says how many objects it has found.
    Thorough,
}

/// The objects that a search has found.
#[derive(Debug)]
pub(crate) struct Located {
    /// The identifiers, without duplicates.
    pub(crate) uids: Vec<String>,
    /// Why objects may be missing. `None` if all are there.
    pub(crate) incomplete: Option<Error>,
}

impl Located {
    /// The identifiers.
    ///
    /// # Errors
    ///
    /// `Incomplete` if objects may be missing.
    pub(crate) fn complete(self) -> Result<Vec<String>> {
        self.incomplete.map_or(Ok(self.uids), Err)
    }
}

/// One response to Locate.
#[derive(Debug, Default)]
pub(crate) struct Page {
    pub(crate) uids: Vec<String>,
    /// The number of objects that the server has found, if it says so (Located Items, KMIP 1.3).
    pub(crate) total: Option<usize>,
    /// The response was too large to be read.
    too_large: Option<Error>,
}

/// The request payload of Locate.
fn request<'a>(
    version: Version,
    most: usize,
    offset: Option<usize>,
    filter: &[Attribute<'a>],
) -> Vec<Field<'a>> {
    let number = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
    let mut fields = vec![Field::integer(tag::MAXIMUM_ITEMS, number(most))];
    fields.extend(offset.map(|offset| Field::integer(tag::OFFSET_ITEMS, number(offset))));
    if version.has_own_tags() {
        fields.push(by_tag(filter));
    } else {
        fields.extend(by_name(filter));
    }
    fields
}

/// Reads the response to Locate.
///
/// # Errors
///
/// `Protocol` if an identifier is not a text or too long, or if the server has located objects and names none of them:
/// an object that is there must not count as absent.
pub(crate) fn located(payload: &Item<'_>) -> Result<Page> {
    let uids: Vec<_> = payload
        .all(tag::UNIQUE_IDENTIFIER)
        .map(|uid| {
            checked_identifier(&uid).ok_or_else(|| malformed("an identifier in it is not a short text"))
        })
        .collect::<Result<_>>()?;
    let count = payload.child(tag::LOCATED_ITEMS).and_then(|count| count.integer());
    Ok(Page { uids, total: count.and_then(|count| usize::try_from(count).ok()), too_large: None })
}

impl Page {
    /// Whether the page is cut short: the server itself says that there are more objects, or the page is full.
    fn is_cut(&self, most: usize) -> bool {
        let found = self.uids.len();
        let is_full = found == most || (found > most && self.is_usual());
        self.too_large.is_some() || is_full || self.total.is_some_and(|total| total > found)
    }

    /// Whether the page has the length of a usual limit of servers. So it may be cut short, which a search checks if it
    /// can.
    fn is_usual(&self) -> bool {
        let found = self.uids.len();
        (found >= 100 && found.is_multiple_of(100)) || (found >= 64 && found.is_power_of_two())
    }

    /// Whether the page is shorter than a response that the server has given, so that it is not cut short.
    fn is_shorter(&self, than: usize) -> bool {
        let found = self.uids.len();
        self.too_large.is_none() && found < than && self.total.is_none_or(|total| total <= found)
    }
}

impl Api {
    /// Finds the objects with these attributes. A server that refuses a Locate that finds nothing finds nothing.
    pub(crate) async fn locate(
        &self,
        filter: &[Attribute<'_>],
        effort: Effort,
    ) -> Result<Located, ExchangeError> {
        let payload = |version| self.first_page(version, filter);
        let first = self.client.call(Operation::Locate, payload, located).await;
        self.complete(filter, first, effort).await
    }

    /// The request payload of the first Locate of a search.
    pub(crate) fn first_page<'a>(&self, version: Version, filter: &[Attribute<'a>]) -> Vec<Field<'a>> {
        request(version, self.most(), None, filter)
    }

    /// The number of identifiers to ask for in one request.
    fn most(&self) -> usize {
        let room = self.client.pool.limits.response.saturating_sub(FRAME_SIZE) / IDENTIFIER_SIZE;
        PAGE.min(room).max(2)
    }

    /// Tells a page that could not be read, or that the server has refused because it is empty, from an error.
    fn received(&self, page: Result<Page, ExchangeError>) -> Result<Page, ExchangeError> {
        match page {
            Ok(page) => {
                self.habits().set_total(page.total.is_some());
                page.uids.iter().take(1).for_each(|uid| self.habits().set_identifier(uid));
                Ok(page)
            }
            // A server may refuse a Locate that finds nothing.
            Err(failed) if failed.class == Class::Gone => Ok(Page::default()),
            Err(failed) if failed.class == Class::TooLarge => {
                Ok(Page { too_large: Some(failed.error), ..Page::default() })
            }
            Err(failed) => Err(failed),
        }
    }

    /// Completes a search after its first response.
    pub(crate) async fn complete(
        &self,
        filter: &[Attribute<'_>],
        first: Result<Page, ExchangeError>,
        effort: Effort,
    ) -> Result<Located, ExchangeError> {
        let first = self.received(first)?;
        if first.uids.is_empty() && first.total.is_some_and(|total| total > 0) {
            return Err(malformed("it counts located objects without their identifiers").into());
        }
        let is_cut = first.is_cut(self.most());
        let is_checked = match effort {
            Effort::Quick => first.is_usual(),
            Effort::Thorough => first.uids.len() > 1,
        };
        // The server has responded, so this takes no request.
        let version = self.client.version().await?;
        let is_checked =
            is_checked && first.total.is_none() && self.habits().may_narrow(version.has_offset());
        if !(is_cut || is_checked) {
            return Ok(Located { uids: unique(first.uids), incomplete: None });
        }
        let mut search = Search { api: self, version, most: self.most(), requests: 1 };
        let known = first.uids.len();
        let mut reason = first.too_large.clone();
        let (uids, is_complete) = search.complete(filter, first).await?;
        // Where no filter helps, the additional objects are those that other clients have registered meanwhile.
        let has_more = uids.len() > known && self.habits().may_narrow(version.has_offset());
        if has_more {
            self.habits().set_limit(known);
        }
        if is_complete || !(is_cut || has_more) {
            return Ok(Located { uids, incomplete: None });
        }
        let error = Error::new(
            ErrorKind::Incomplete,
            "the server returns only a part of the objects that it has found, and completes it neither with an \
             offset nor with ranges of dates: raise the limit of the server for Locate, or give each cluster its own \
             client certificate so that it sees fewer objects",
        )
        .context("returned", known.to_string())
        .context("found", uids.len().to_string());
        Ok(Located {
            uids,
            incomplete: Some(match reason.take() {
                Some(cause) => error.source(cause),
                None => error,
            }),
        })
    }
}

/// Removes duplicates. A server must not send any; one that does must not make us read an object twice.
fn unique(mut uids: Vec<String>) -> Vec<String> {
    let mut seen = HashSet::new();
    uids.retain(|uid| seen.insert(uid.clone()));
    uids
}

/// The result of reading page after page.
enum Paging {
    /// All identifiers.
    Complete(Vec<String>),
    /// The server does not honour the offset.
    Ignored,
    /// The objects have changed between two pages.
    Moved,
}

/// One search.
struct Search<'a> {
    api: &'a Api,
    version: Version,
    /// The number of identifiers that each request asks for.
    most: usize,
    /// The number of requests so far.
    requests: usize,
}

impl Search<'_> {
    async fn page(&mut self, filter: &[Attribute<'_>], offset: Option<usize>) -> Result<Page, ExchangeError> {
        self.requests += 1;
        let payload = |version| request(version, self.most, offset, filter);
        let page = self.api.client.call(Operation::Locate, payload, located).await;
        self.api.received(page)
    }

    /// Completes a first page. Returns the identifiers, and whether all of them are there.
    async fn complete(
        &mut self,
        filter: &[Attribute<'_>],
        mut first: Page,
    ) -> Result<(Vec<String>, bool), ExchangeError> {
        for round in 1.. {
            match self.read_pages(filter, &first).await? {
                Paging::Complete(uids) => return Ok((uids, true)),
                Paging::Moved if round < PAGING_ROUNDS => first = self.page(filter, None).await?,
                Paging::Moved | Paging::Ignored => {
                    if self.version.has_offset() {
                        self.api.habits().set_offset(false);
                    }
                    break;
                }
            }
        }
        self.narrow(filter, first).await
    }

    async fn read_pages(&mut self, filter: &[Attribute<'_>], first: &Page) -> Result<Paging, ExchangeError> {
        if !self.version.has_offset() || first.uids.is_empty() {
            return Ok(Paging::Ignored);
        }
        let mut uids = first.uids.clone();
        let mut seen: HashSet<_> = uids.iter().cloned().collect();
        while self.requests < MOST_REQUESTS {
            let page = match self.page(filter, Some(uids.len() - 1)).await {
                Err(failed) if failed.class == Class::Form => return Ok(Paging::Ignored),
                page => page?,
            };
            if page.uids.len() > 1 && page.uids == first.uids {
                return Ok(Paging::Ignored);
            }
            let Some((joint, new)) = page.uids.split_first() else { return Ok(Paging::Moved) };
            if Some(joint) != uids.last() || new.iter().any(|uid| !seen.insert(uid.clone())) {
                return Ok(Paging::Moved);
            }
            if new.is_empty() {
                self.api.habits().set_offset(true);
                let is_all = page.total.or(first.total).is_none_or(|total| total <= uids.len());
                return Ok(if is_all { Paging::Complete(uids) } else { Paging::Ignored });
            }
            uids.extend_from_slice(new);
        }
        Ok(Paging::Ignored)
    }

    /// Splits a search by Initial Date, and what remains too long by object type.
    async fn narrow(
        &mut self,
        filter: &[Attribute<'_>],
        first: Page,
    ) -> Result<(Vec<String>, bool), ExchangeError> {
        // A response that is shorter than another one was not cut short.
        let full = if first.uids.is_empty() { self.most } else { first.uids.len().min(self.most) };
        let mut found: HashSet<String> = HashSet::new();
        let mut is_complete = true;
        let may_be_cut = first.is_cut(self.most);
        let mut ranges = self.first_ranges(filter, &first.uids).await?;
        let is_dated = ranges.is_some();
        // Without dates, one range without bounds is left, which is split by type.
        let mut open: Vec<Option<(i64, i64)>> = match ranges.take() {
            Some(ranges) => ranges.into_iter().map(Some).collect(),
            None => vec![None],
        };
        while let Some(range) = open.pop() {
            if self.requests >= MOST_REQUESTS {
                is_complete = false;
                break;
            }
            let mut narrowed = filter.to_vec();
            if let Some((from, to)) = range {
                narrowed.extend([Attribute::InitialDate(from), Attribute::InitialDate(to)]);
                let page = self.page(&narrowed, None).await?;
                let (is_short, is_longer) = (page.is_shorter(full), page.uids.len() > full);
                found.extend(page.uids);
                if is_longer && !may_be_cut {
                    // Other clients have registered objects meanwhile, and the server returns more than it did at first.
                    found.extend(first.uids);
                    return Ok((found.into_iter().collect(), true));
                }
                if is_short {
                    continue;
                }
                if from < to {
                    let middle = from.midpoint(to);
                    open.extend([Some((from, middle)), Some((middle + 1, to))]);
                    continue;
                }
            }
            is_complete &= self.split_by_type(&narrowed, full, &mut found).await?;
        }
        let mut uids = first.uids;
        let missing: Vec<_> = uids.iter().filter(|uid| !found.contains(*uid)).cloned().collect();
        // Without dates, the missing ones may be of a type that no KEK has.
        if is_dated && is_complete {
            is_complete = self.are_gone(&missing).await?;
        }
        uids.extend(found);
        Ok((unique(uids), is_complete))
    }

    /// The ranges of Initial Date with which to begin: before, around and after the objects of a page. `None` if the
    /// server does not filter by ranges.
    async fn first_ranges(
        &mut self,
        filter: &[Attribute<'_>],
        uids: &[String],
    ) -> Result<Option<Vec<(i64, i64)>>, ExchangeError> {
        let mut nothing = filter.to_vec();
        nothing.extend([Attribute::InitialDate(1), Attribute::InitialDate(2)]);
        let is_honoured = match self.page(&nothing, None).await {
            Ok(page) => page.uids.is_empty() && page.too_large.is_none(),
            Err(failed) if matches!(failed.class, Class::Form | Class::NoOperation) => false,
            Err(failed) => return Err(failed),
        };
        self.api.habits().set_dates(is_honoured);
        if !is_honoured {
            return Ok(None);
        }
        let mut dates = Vec::new();
        for uid in uids.first().into_iter().chain(uids.last()) {
            let date = self.api.described(uid).await?.and_then(|(object, _)| object.initial_date);
            dates.extend(date.filter(|date| (1..END_OF_TIME).contains(date)));
        }
        Ok(Some(match (dates.iter().min(), dates.iter().max()) {
            (Some(&oldest), Some(&newest)) => {
                vec![(0, oldest - 1), (newest + 1, END_OF_TIME), (oldest, newest)]
            }
            _ => vec![(0, END_OF_TIME)],
        }))
    }

    /// Searches for each object type that a KEK can have. Returns whether every response is complete.
    async fn split_by_type(
        &mut self,
        filter: &[Attribute<'_>],
        full: usize,
        found: &mut HashSet<String>,
    ) -> Result<bool, ExchangeError> {
        let mut is_complete = true;
        for kind in KEK_TYPES {
            let mut narrowed = filter.to_vec();
            narrowed.push(Attribute::ObjectType(kind));
            let page = match self.page(&narrowed, None).await {
                Err(failed) if matches!(failed.class, Class::Form | Class::NoOperation) => return Ok(false),
                page => page?,
            };
            is_complete &= page.is_shorter(full);
            found.extend(page.uids);
        }
        Ok(is_complete)
    }

    /// Whether the server no longer has these objects, because other clients have destroyed them meanwhile.
    async fn are_gone(&self, uids: &[String]) -> Result<bool, ExchangeError> {
        const MOST: usize = 16;
        for uid in uids.iter().take(MOST) {
            if self.api.object(uid).await?.is_some() {
                return Ok(false);
            }
        }
        Ok(uids.len() <= MOST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_located_object_that_cannot_be_named_is_not_absent() {
        let read = |fields| {
            let bytes = Field::structure(tag::RESPONSE_PAYLOAD, fields).encode();
            located(&Item::parse(&bytes).unwrap()).map(|page| (page.uids, page.total))
        };
        let uid = || Field::text(tag::UNIQUE_IDENTIFIER, "1");
        let count = |count| Field::integer(tag::LOCATED_ITEMS, count);
        assert_eq!(read(vec![]).unwrap(), (vec![], None));
        assert_eq!(read(vec![count(0)]).unwrap(), (vec![], Some(0)));
        assert_eq!(read(vec![count(3), uid()]).unwrap(), (vec!["1".to_owned()], Some(3)));
        let long = "x".repeat(2_000);
        for fields in [
            vec![Field::integer(tag::UNIQUE_IDENTIFIER, 7)],
            vec![uid(), Field::bytes(tag::UNIQUE_IDENTIFIER, b"2")],
            vec![Field::text(tag::UNIQUE_IDENTIFIER, "")],
            vec![Field::text(tag::UNIQUE_IDENTIFIER, &long)],
        ] {
            assert_eq!(read(fields).unwrap_err().kind(), ErrorKind::Protocol);
        }
    }

    #[test]
    fn maximum_and_offset_come_before_the_attributes_and_dates_have_no_index() {
        let filter = [Attribute::Name("a"), Attribute::InitialDate(5), Attribute::InitialDate(9)];
        let bytes =
            Field::structure(tag::REQUEST_PAYLOAD, request(Version::V1_4, 7, Some(3), &filter)).encode();
        let payload = Item::parse(&bytes).unwrap();
        let tags: Vec<_> = payload.children().map(|item| item.tag()).collect();
        assert_eq!(tags[..2], [tag::MAXIMUM_ITEMS, tag::OFFSET_ITEMS]);
        let dates: Vec<_> = payload
            .all(tag::ATTRIBUTE)
            .filter_map(|attribute| {
                assert!(attribute.child(tag::ATTRIBUTE_INDEX).is_none());
                attribute.child(tag::ATTRIBUTE_VALUE)?.date_time()
            })
            .collect();
        assert_eq!(dates, [5, 9]);
    }

    #[test]
    fn a_full_page_is_cut_unless_it_is_longer_than_asked_for() {
        let page = |found: usize, total| Page {
            uids: (0..found).map(|uid| uid.to_string()).collect(),
            total,
            too_large: None,
        };
        for (found, total, expected) in [
            (0, None, false),
            (5, Some(5), false),
            (5, Some(6), true),
            (100, None, false),
            (1_000, None, true),
            (1_000, Some(1_000), true),
            (1_024, None, true),
            (1_037, None, false),
        ] {
            assert_eq!(page(found, total).is_cut(1_000), expected, "{found} of {total:?}");
        }
        for (found, expected) in [(5, false), (99, false), (100, true), (256, true), (1_000, true)] {
            assert_eq!(page(found, None).is_usual(), expected, "{found}");
        }
    }
}
