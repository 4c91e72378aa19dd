//! Finds the objects that have the name of a key, and reads no more of them than necessary.

use std::collections::HashSet;

use kms_core::{KeyName, Result};

use crate::{
    api::Api,
    classify::Object,
    error::Class,
    locate::{END_OF_TIME, Effort},
    name::{object_name, superseded_name},
    stored::{Attribute, state},
};

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

    /// Finds the identifiers of the objects that have this name, in every cluster.
    pub(crate) async fn locate_name(&self, text: &str) -> Result<Vec<String>> {
        self.locate(&[Attribute::Name(text)], Effort::Quick).await?.complete()
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

    /// Finds the objects of which one may be the current object of a key, and the server's time of the Locate.
    ///
    /// A server that cannot rename superseded objects has them all under the name of the key. So many objects are not
    /// read one by one: the current one is neither revoked, nor older than another that is not revoked.
    pub(crate) async fn candidates(&self, name: &KeyName, fresh: bool) -> Result<(Vec<Object>, Option<i64>)> {
        let text = object_name(name);
        let uids = self.locate_name(&text).await?;
        // Before the objects are read, which takes time: a later stamp says nothing of what the Locate has found.
        let stamp = self.client.server_time();
        let live = if uids.len() > FEW { self.live(name, &text, &uids, fresh).await? } else { None };
        let found = match live {
            Some(live) => live,
            None => self.with_name(name, &text, uids, fresh).await?,
        };
        Ok((found, stamp))
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
}
