//! Finds the objects of a key by its name.

use std::collections::HashSet;

use kms_core::{Error, ErrorKind, KeyName, Result, Retry};

use crate::{
    api::Api,
    classify::{Object, Objects, classify},
    error::Class,
    locate::{END_OF_TIME, Effort},
    name::{object_name, superseded_name},
    stored::{Attribute, state},
};

/// The maximum number of searches for the current object of a key that other clients update at the same time.
const FIND_ROUNDS: usize = 8;
/// The number of objects of one name that are read one by one.
const FEW: usize = 4;

impl Api {
    /// Finds the objects that have the name of a key, in every cluster.
    pub(crate) async fn named(&self, name: &KeyName, fresh: bool) -> Result<Vec<Object>> {
        let text = object_name(name);
        let uids = self.locate_name(&text).await?;
        self.with_name(name, &text, uids, fresh).await
    }

    /// Finds the superseded objects of a key that have been renamed, in every cluster.
    pub(crate) async fn renamed(&self, name: &KeyName) -> Result<Vec<Object>> {
        let text = superseded_name(name);
        let uids = self.locate_name(&text).await?;
        self.with_name(name, &text, uids, true).await
    }

    async fn locate_name(&self, text: &str) -> Result<Vec<String>> {
        Ok(self.locate(&[Attribute::Name(text)], Effort::Quick).await?.complete()?)
    }

    /// Reads the objects that a Locate by name has found, and more if the server ignores the name.
    async fn with_name(
        &self,
        name: &KeyName,
        text: &str,
        uids: Vec<String>,
        fresh: bool,
    ) -> Result<Vec<Object>> {
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

    /// Finds the objects of which one may be the current object of a key.
    ///
    /// A server that cannot rename superseded objects has them all under the name of the key. So many objects are not
    /// read one by one: the current one is neither revoked, nor older than another that is not revoked.
    async fn candidates(&self, name: &KeyName, fresh: bool) -> Result<Vec<Object>> {
        let text = object_name(name);
        let uids = self.locate_name(&text).await?;
        let live = if uids.len() > FEW { self.live(name, &text, &uids, fresh).await? } else { None };
        match live {
            Some(live) => Ok(live),
            None => self.with_name(name, &text, uids, fresh).await,
        }
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
        let narrowed = async |more: &[Attribute<'_>]| {
            let filter: Vec<_> = [Attribute::Name(text)].iter().chain(more).copied().collect();
            match self.locate(&filter, Effort::Quick).await {
                Ok(located) => Ok(located.complete().ok()),
                Err(failed) if matches!(failed.class, Class::Form | Class::NoOperation) => Ok(None),
                Err(failed) => Err(failed.error),
            }
        };
        // In this order, an object that another client activates in between is found twice, rather than never.
        let Some(mut live) = narrowed(&[Attribute::State(state::PRE_ACTIVE)]).await? else { return Ok(None) };
        let Some(active) = narrowed(&[Attribute::State(state::ACTIVE)]).await? else { return Ok(None) };
        live.extend(active);
        let distinct: HashSet<_> = live.iter().collect();
        if distinct.len() < live.len() || live.len() >= uids.len() {
            return Ok(None);
        }
        let mut objects = self.objects(live.clone(), fresh).await?;
        let own = objects.iter().filter(|object| object.keys.contains(name));
        let Some(newest) = own.max_by_key(|object| object.initial_date) else { return Ok(None) };
        let Some(date) = newest.initial_date else { return Ok(None) };
        let since = [Attribute::InitialDate(date), Attribute::InitialDate(END_OF_TIME)];
        let Some(mut later) = narrowed(&since).await? else { return Ok(None) };
        if !later.contains(&newest.uid) {
            return Ok(None);
        }
        later.retain(|uid| !live.contains(uid));
        objects.extend(self.objects(later, fresh).await?);
        Ok(Some(objects))
    }

    /// Finds and classifies the objects of a key. `None` if the key has no current object.
    ///
    /// An object that has lost the name of the key since the Locate was superseded in between, so there is a successor that
    /// this Locate may have come too early for. The search is repeated until it finds the same such objects twice.
    pub(crate) async fn find(&self, name: &KeyName, mut fresh: bool) -> Result<Option<Objects>> {
        let mut before = Vec::new();
        for _ in 0..FIND_ROUNDS {
            let found = self.candidates(name, fresh).await?;
            let superseded: Vec<_> = found
                .iter()
                .filter(|object| object.superseded.contains(name))
                .map(|object| object.uid.clone())
                .collect();
            let objects = classify(name, self.cluster.as_deref(), found)?;
            if objects.is_some() || superseded == before {
                return Ok(objects);
            }
            (before, fresh) = (superseded, true);
        }
        Err(Error::new(ErrorKind::Conflict, "other clients keep writing the same key").retry(Retry::Always))
    }
}
