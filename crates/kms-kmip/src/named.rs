//! Finds the objects that have the name of a key, and reads no more of them than necessary.

use std::collections::HashSet;

use kms_core::{Kek, KeyName, Result};

use crate::{
    answers::unanswered,
    api::{Api, BATCH, described, kek},
    classify::Object,
    error::{Class, ExchangeError},
    habits::Batches,
    locate::{END_OF_TIME, Effort, Located, located},
    message::{Operation, Part},
    name::{object_name, superseded_name},
    stored::{Attribute, state},
};

/// The number of objects of one name that are all read on a server without batches.
const FEW: usize = 4;

/// The objects that a search by name is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Want {
    /// Every object.
    All,
    /// Those of which one may be the current object.
    Current {
        /// Whether to read the KEK of an only object too.
        kek: bool,
    },
}

/// The result of a search by name.
pub(crate) struct Found {
    pub(crate) objects: Vec<Object>,
    /// The identifier and the KEK of an only object.
    pub(crate) kek: Option<(String, Kek)>,
    /// A time of the server, in seconds since 1970, that is not later than the search, except for the time that the server
    /// takes for one request.
    pub(crate) stamp: Option<i64>,
}

impl Api {
    /// Finds the objects that have the name of a key, in every cluster.
    pub(crate) async fn named(&self, name: &KeyName, fresh: bool) -> Result<Vec<Object>> {
        Ok(self.search(name, &object_name(name), fresh, Want::All).await?.objects)
    }

    /// Finds the superseded objects of a key that have been renamed, in every cluster.
    pub(crate) async fn renamed(&self, name: &KeyName) -> Result<Vec<Object>> {
        Ok(self.search(name, &superseded_name(name), true, Want::All).await?.objects)
    }

    /// Finds and describes the objects of a key with the name `text`, in one request if the server supports that and
    /// there is only one object.
    pub(crate) async fn search(&self, name: &KeyName, text: &str, fresh: bool, want: Want) -> Result<Found> {
        let read = want == Want::Current { kek: true };
        let operations = [Operation::GetAttributes, Operation::Get].into_iter().take(1 + usize::from(read));
        let filter = [Attribute::Name(text)];
        let parts = |version| {
            let locate = Part::new(Operation::Locate, self.first_page(version, &filter));
            std::iter::once(locate).chain(operations.clone().map(Part::chained)).collect()
        };
        let earlier = self.client.server_time();
        let mut answers = self.client.all(parts).await;
        // Some servers send no time with a failure, as of a chained operation.
        let stamp = answers.stamp(0).or(earlier);
        let page = answers.read(0, located).ok_or_else(|| unanswered().error)?;
        let uids = self.complete(&filter, page, Effort::Quick).await?.complete()?;
        let [uid] = uids.as_slice() else {
            return Ok(Found {
                objects: self.several(name, text, uids, fresh, want).await?,
                kek: None,
                stamp,
            });
        };
        let mut before = 1;
        if answers.read(1, |_| Ok(())).is_none() && read && (fresh || !self.knows(uid)) {
            let parts = |_| operations.clone().map(|operation| Part::about(operation, uid)).collect();
            (answers, before) = (self.client.all(parts).await, 0);
        }
        let objects = match answers.read(before, |payload| described(payload, uid)) {
            Some(attributes) => self.note(uid, attributes)?.map(|(object, _)| object).into_iter().collect(),
            None => self.objects(uids.clone(), fresh).await?,
        };
        // The caller reads a KEK again that could not be read, and learns why.
        let kek = answers.read(before + 1, |payload| kek(payload, uid)).and_then(Result::ok);
        Ok(Found { objects, kek: kek.map(|kek| (uid.clone(), kek)), stamp })
    }

    /// Reads the objects that a Locate by name has found: those that the caller wants, and more if the server ignores the
    /// name.
    ///
    /// A server that cannot rename superseded objects has them all under the name of the key. So many objects are not
    /// read one by one: the current one is neither revoked, nor older than another that is not revoked.
    async fn several(
        &self,
        name: &KeyName,
        text: &str,
        uids: Vec<String>,
        fresh: bool,
        want: Want,
    ) -> Result<Vec<Object>> {
        let few = if self.habits().batches() == Batches::Unsupported { FEW } else { BATCH };
        if want != Want::All
            && uids.len() > few
            && let Some(live) = self.live(name, text, &uids, fresh).await?
        {
            return Ok(live);
        }
        let mut found = self.objects(uids.clone(), fresh).await?;
        if found.iter().all(|object| object.is_of(name)) {
            return Ok(found);
        }
        // The server ignores the name, so its response may be cut short at any length.
        let mut more = self.locate(&[Attribute::Name(text)], Effort::Thorough).await?.complete()?;
        more.retain(|uid| !uids.contains(uid));
        found.extend(self.objects(more, fresh).await?);
        Ok(found)
    }

    /// The objects that are not revoked, and of all that were registered after them. `None` if the server
    /// does not filter by state and date, or no object is left.
    ///
    /// A server may deactivate the current object by itself when the time of a key is over. So an object counts as
    /// revoked only if an object that is not was registered after it.
    async fn live(
        &self,
        name: &KeyName,
        text: &str,
        uids: &[String],
        fresh: bool,
    ) -> Result<Option<Vec<Object>>> {
        let usable = |located: Result<Located, ExchangeError>| match located {
            Ok(located) => Ok(located.complete().ok()),
            Err(failed) if matches!(failed.class, Class::Form | Class::NoOperation) => Ok(None),
            Err(failed) => Err(failed.error),
        };
        // In this order, an object that another client activates in between is found twice, rather than never.
        let filters =
            [state::PRE_ACTIVE, state::ACTIVE].map(|code| [Attribute::Name(text), Attribute::State(code)]);
        let parts = |version| {
            let part = |filter| Part::new(Operation::Locate, self.first_page(version, filter));
            filters.iter().map(|filter| part(filter)).collect()
        };
        let answers = self.client.all(parts).await;
        let mut live = Vec::new();
        for (at, filter) in filters.iter().enumerate() {
            let located = match answers.read(at, located) {
                Some(page) => self.complete(filter, page, Effort::Quick).await,
                // The request before has found nothing, which some servers refuse.
                None => self.locate(filter, Effort::Quick).await,
            };
            let Some(uids) = usable(located)? else { return Ok(None) };
            live.extend(uids);
        }
        let distinct: HashSet<_> = live.iter().collect();
        if distinct.len() < live.len() || live.len() >= uids.len() {
            return Ok(None);
        }
        let mut objects = self.objects(live.clone(), fresh).await?;
        let own = objects.iter().filter(|object| object.keys.contains(name));
        let Some(newest) = own.max_by_key(|object| object.initial_date) else { return Ok(None) };
        let Some(date) = newest.initial_date else { return Ok(None) };
        let since =
            [Attribute::Name(text), Attribute::InitialDate(date), Attribute::InitialDate(END_OF_TIME)];
        let located = self.locate(&since, Effort::Quick).await;
        let Some(mut later) = usable(located)? else { return Ok(None) };
        if !later.contains(&newest.uid) {
            return Ok(None);
        }
        later.retain(|uid| !live.contains(uid));
        objects.extend(self.objects(later, fresh).await?);
        Ok(Some(objects))
    }
}
