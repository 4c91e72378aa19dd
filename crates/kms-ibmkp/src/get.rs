//! One request each: reading, importing, aliases, deleting; and finding the key of a name.

use kms_core::{DeleteMode, Error, ErrorKind, Existing, Kek, KeyName, Result};
use kms_http::http::{Method, StatusCode};
use tracing::{debug, warn};

use crate::{
    api::{CORRELATION_ID, Reply, Request},
    error::{ALIAS_TAKEN, Refusal, TOO_BROAD, has_code},
    name::Names,
    provider::IbmKeyProtect,
    stored::{Envelope, Key, import_body},
};

/// How often a key is looked for that changes while we look.
const ROUNDS: usize = 4;
/// The states of keys that still are there: pre-active, active, suspended, deactivated.
const ALIVE: &str = "0,1,2,3";
/// The same with the destroyed ones.
const ALL: &str = "0,1,2,3,5";
/// Those alone.
const GONE: &str = "5";

/// Which keys a search is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum States {
    Alive,
    All,
    Gone,
}

/// What is under an id or alias.
#[derive(Debug)]
pub(crate) enum Look {
    Found(Box<Key>),
    /// It was there and has been deleted. The key itself is known where the service still shows it.
    Destroyed(Option<String>),
    /// The correlation id of the request that says so.
    Absent(String),
}

/// Whether the material of a key is wanted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Want {
    Material,
    Metadata,
}

/// What an import has come to.
#[derive(Debug)]
pub(crate) enum Imported {
    Id(String),
    AliasTaken(Error),
}

/// How the key of a name was found.
#[derive(Debug)]
pub(crate) enum Located {
    /// By its alias.
    Here(Box<Key>),
    /// By the alias of a successor: an update was interrupted, or is under way.
    Successor(Box<Key>),
    /// By its name: its alias is missing.
    Unaliased(Box<Key>),
    /// Not at all.
    Nowhere {
        /// Whether it has been deleted.
        deleted: bool,
        /// The correlation id of the request that found nothing.
        correlation_id: Option<String>,
    },
}

impl Located {
    pub(crate) fn key(self) -> Option<Key> {
        match self {
            Self::Here(key) | Self::Successor(key) | Self::Unaliased(key) => Some(*key),
            Self::Nowhere { .. } => None,
        }
    }
}

impl IbmKeyProtect {
    /// Looks at what is under an id or alias.
    pub(crate) async fn look(&self, which: &str, want: Want) -> Result<Look> {
        let mut path = vec!["keys", which];
        if want == Want::Metadata {
            path.push("metadata");
        }
        let reply = self.api.send(Request::get(path)).await?;
        match reply.status() {
            StatusCode::OK => {
                let key = Envelope::of(&reply.answer).and_then(Envelope::first);
                let mut key = key.map_err(|error| reply.about(error))?;
                key.correlation_id.clone_from(&reply.correlation_id);
                if key.is_destroyed() {
                    Ok(Look::Destroyed(Some(key.id)))
                } else {
                    Ok(Look::Found(Box::new(key)))
                }
            }
            StatusCode::GONE => Ok(Look::Destroyed(None)),
            // Only Key Protect itself can say that there is no key; a proxy's 404 says nothing.
            StatusCode::NOT_FOUND if Refusal::of(&reply.answer).is_some() => {
                Ok(Look::Absent(reply.correlation_id))
            }
            _ => Err(reply.refused()),
        }
    }

    /// Finds the key of a name: by its alias, by that of a successor, by its name.
    pub(crate) async fn locate(&self, names: &Names, want: Want) -> Result<Located> {
        for _ in 0..ROUNDS {
            let (deleted, correlation_id) = match self.look(&names.alias, want).await? {
                Look::Found(key) => return Ok(Located::Here(key)),
                Look::Destroyed(_) => (true, None),
                Look::Absent(correlation_id) => (false, Some(correlation_id)),
            };
            if let Look::Found(key) = self.look(&names.next, want).await? {
                warn!(
                    alias = names.alias,
                    id = key.id,
                    "the key's alias is missing: an update was interrupted, and its new key is taken"
                );
                return Ok(Located::Successor(key));
            }
            let candidates = self.search(names, States::Alive).await?;
            let Some(best) = newest(candidates, names) else {
                return Ok(Located::Nowhere { deleted, correlation_id });
            };
            let (id, has_alias) = (best.id.clone(), best.has_alias(&names.alias));
            match self.look(&id, want).await? {
                Look::Found(key) if has_alias => return Ok(Located::Here(key)),
                Look::Found(key) => {
                    warn!(
                        alias = names.alias,
                        id, "the key's alias is missing: the newest key of that name is taken"
                    );
                    return Ok(Located::Unaliased(key));
                }
                // It has gone while we looked.
                Look::Destroyed(_) | Look::Absent(_) => {}
            }
        }
        Err(changing())
    }

    /// The keys of a name that are ours, or may be: Rook's keys have no mark.
    pub(crate) async fn search(&self, names: &Names, states: States) -> Result<Vec<Key>> {
        let wanted = format!("exact:name:{}", names.alias);
        let mut found = match self.page(states, Some(&wanted), 0).await {
            Ok(envelope)
                if envelope.metadata.as_ref().and_then(|meta| meta.incomplete_search) == Some(true) =>
            {
                self.all(states).await?
            }
            // A page that is full may not be all.
            Ok(envelope) if envelope.resources.as_ref().is_some_and(|keys| keys.len() >= self.page_size) => {
                self.all(states).await?
            }
            Ok(envelope) => envelope.resources.unwrap_or_default(),
            Err(Searched::TooBroad) => {
                debug!("the instance has too many keys for a search; reading the whole list");
                self.all(states).await?
            }
            Err(Searched::Failed(error)) => return Err(error),
        };
        // The search takes no notice of case.
        found.retain(|key| {
            key.name.as_deref() == Some(names.alias.as_str())
                && key.is_extractable()
                && key.has_no_alias_but(names)
                && !key.id.is_empty()
        });
        Ok(found)
    }

    /// Every key, page after page.
    async fn all(&self, states: States) -> Result<Vec<Key>> {
        let mut all = Vec::new();
        loop {
            let envelope = self.page(states, None, all.len()).await.map_err(Error::from)?;
            let keys = envelope.resources.unwrap_or_default();
            let last = keys.len() < self.page_size;
            all.extend(keys);
            if last {
                return Ok(all);
            }
        }
    }

    /// One page of the list.
    pub(crate) async fn page(
        &self,
        states: States,
        search: Option<&str>,
        offset: usize,
    ) -> Result<Envelope, Searched> {
        let (limit, offset) = (self.page_size.to_string(), offset.to_string());
        let states = match states {
            States::Alive => ALIVE,
            States::All => ALL,
            States::Gone => GONE,
        };
        let mut request =
            Request::get(["keys"]).query("limit", &limit).query("offset", &offset).query("state", states);
        if let Some(search) = search {
            request = request.query("search", search);
        }
        let reply = self.api.send(request).await?;
        match reply.status() {
            StatusCode::OK => {
                let mut envelope = Envelope::of(&reply.answer).map_err(|error| reply.about(error))?;
                for key in envelope.resources.iter_mut().flatten() {
                    key.correlation_id.clone_from(&reply.correlation_id);
                }
                Ok(envelope)
            }
            _ if has_code(&reply.answer, TOO_BROAD) => Err(Searched::TooBroad),
            _ => Err(reply.refused().into()),
        }
    }

    /// Imports a KEK under an alias, which the service gives to one key only.
    pub(crate) async fn import(
        &self,
        names: &Names,
        kek: &Kek,
        alias: &str,
        successor_of: Option<&str>,
    ) -> Result<Imported> {
        let body = import_body(names, kek, self.cluster.as_ref(), alias, successor_of)?;
        let reply = self.api.send(Request::new(Method::POST, ["keys"]).body(body)).await?;
        match reply.status() {
            StatusCode::CREATED | StatusCode::OK => {
                if let Ok(key) = Envelope::of(&reply.answer).and_then(Envelope::first) {
                    return Ok(Imported::Id(key.id));
                }
                // It is there; the answer only fails to say under which id.
                debug!(
                    alias,
                    reply.correlation_id, "the answer to an import holds no key; asking for its id"
                );
                match self.look(alias, Want::Metadata).await? {
                    Look::Found(key) => Ok(Imported::Id(key.id)),
                    _ => {
                        Err(reply
                            .about(Error::new(ErrorKind::Protocol, "the key was imported and is not there")))
                    }
                }
            }
            _ if has_code(&reply.answer, ALIAS_TAKEN) => Ok(Imported::AliasTaken(reply.refused())),
            _ => Err(reply.refused()),
        }
    }

    /// Gives an alias to a key. `false` if another one has it, or this one has it already.
    pub(crate) async fn add_alias(&self, id: &str, alias: &str) -> Result<bool> {
        let reply = self.api.send(Request::new(Method::POST, ["keys", id, "aliases", alias])).await?;
        match reply.status() {
            StatusCode::CREATED | StatusCode::OK => Ok(true),
            _ if has_code(&reply.answer, ALIAS_TAKEN) => Ok(false),
            _ => Err(reply.refused()),
        }
    }

    /// Takes an alias from a key. `false` if it does not have it.
    pub(crate) async fn remove_alias(&self, id: &str, alias: &str) -> Result<bool> {
        let reply = self.api.send(Request::new(Method::DELETE, ["keys", id, "aliases", alias])).await?;
        done_or_absent(&reply)
    }

    /// Deletes a key, as Rook does. `false` if it is gone.
    pub(crate) async fn destroy(&self, id: &str) -> Result<bool> {
        let request = Request::new(Method::DELETE, ["keys", id]).query("force", "true");
        done_or_absent(&self.api.send(request.prefer("return=representation")).await?)
    }

    /// Fails if a key is not ours to change. Without a mark it is Rook's, or written without a cluster.
    pub(crate) fn check_owner(&self, key: &Key) -> Result<()> {
        match (key.cluster(), &self.cluster) {
            (None, _) => Ok(()),
            (Some(mark), Some(cluster)) if cluster.mark == mark => Ok(()),
            (Some(_), Some(_)) => {
                Err(foreign(key, "the key belongs to another cluster that shares this instance"))
            }
            (Some(_), None) => {
                Err(foreign(key, "the key belongs to a cluster, and it is not said which one we work for"))
            }
        }
    }

    /// The same for a read: who does not say for whom may look.
    pub(crate) fn check_reader(&self, key: &Key) -> Result<()> {
        if self.cluster.is_none() { Ok(()) } else { self.check_owner(key) }
    }

    /// Creates a key. The service gives the alias to one of several writers.
    pub(crate) async fn create(
        &self,
        name: &KeyName,
        names: &Names,
        kek: &Kek,
    ) -> Result<kms_core::KeyVersion> {
        // While an update moves the alias, nobody has it; a key under it would hide both the old and the new one.
        if !self.search(names, States::Alive).await?.is_empty()
            && let Some(key) = self.locate(names, Want::Material).await?.key()
        {
            return Err(self.exists(name, &key, kek));
        }
        let mut freed = false;
        for _ in 0..ROUNDS {
            let taken = match self.import(names, kek, &names.alias, None).await? {
                Imported::Id(id) => return Ok(kms_core::KeyVersion::new(id)),
                Imported::AliasTaken(error) => error,
            };
            match self.look(&names.alias, Want::Material).await? {
                Look::Found(key) => return Err(self.exists(name, &key, kek)),
                Look::Absent(_) => {}
                Look::Destroyed(Some(id)) if !freed => {
                    freed = true;
                    if !self.remove_alias(&id, &names.alias).await? {
                        return Err(blocked(&taken));
                    }
                }
                Look::Destroyed(_) => return Err(blocked(&taken)),
            }
        }
        Err(changing())
    }

    /// That there is a key already, and what is known of it.
    fn exists(&self, name: &KeyName, key: &Key, kek: &Kek) -> Error {
        if let Err(foreign) = self.check_reader(key) {
            return foreign
                .contexts()
                .fold(Error::already_exists(name, Existing::Unknown), |error, (what, value)| {
                    error.context(what, value)
                })
                .context("reason", foreign.message());
        }
        match key.kek() {
            Ok(stored) if stored.ct_eq(kek) => Error::already_exists(name, Existing::Same),
            Ok(_) => Error::already_exists(name, Existing::Different).context(
                "hint",
                "an alias is unique in the whole instance: another cluster that shares it may have a PVC of that name",
            ),
            Err(cause) => Error::already_exists(name, Existing::Unknown).source(cause),
        }
        .context("id", &key.id)
    }

    /// Deletes every key of a name: older ones first, so that none of them comes to light, the current one last.
    pub(crate) async fn delete_all(&self, names: &Names, mode: DeleteMode) -> Result<bool> {
        let current = match self.look(&names.alias, Want::Metadata).await? {
            Look::Found(key) => Some(*key),
            Look::Destroyed(_) | Look::Absent(_) => None,
        };
        let mut keys = self.search(names, States::Alive).await?;
        if let Some(current) = &current {
            self.check_owner(current)?;
            keys.retain(|key| key.id != current.id);
        }
        let before = keys.len();
        keys.retain(|key| self.check_owner(key).is_ok());
        if current.is_none() && keys.is_empty() && before > 0 {
            return Err(Error::new(
                ErrorKind::PermissionDenied,
                "the only key of that name belongs to another cluster",
            ));
        }
        keys.sort_by(|one, other| one.age().cmp(&other.age()));
        let mut deleted = false;
        let current_id = current.as_ref().map(|key| key.id.clone());
        for key in keys.into_iter().chain(current) {
            // Whether a deleted key keeps its alias is not documented; without it the name is free for sure. That the
            // current one has it is known even where the service does not show it.
            let found_by_alias = current_id.as_ref() == Some(&key.id);
            let aliased = [&names.alias, &names.next]
                .into_iter()
                .filter(|alias| key.has_alias(alias) || (found_by_alias && **alias == names.alias));
            for alias in aliased.clone() {
                self.remove_alias(&key.id, alias).await?;
            }
            match self.destroy(&key.id).await {
                Ok(done) => deleted |= done,
                // The outcome is unknown, so look: whoever repeats the delete would only hear that there is no key.
                Err(error)
                    if error.retryable() == kms_core::Retry::IfIdempotent
                        && matches!(
                            self.look(&key.id, Want::Metadata).await,
                            Ok(Look::Destroyed(_) | Look::Absent(_))
                        ) =>
                {
                    deleted = true;
                }
                Err(error) => {
                    if error.retryable() == kms_core::Retry::Never {
                        for alias in aliased {
                            self.add_alias(&key.id, alias).await?;
                        }
                    }
                    return Err(error.context("id", &key.id));
                }
            }
            debug!(id = key.id, ?mode, "deleted; it can be restored for 30 days, and purged after 4 hours");
        }
        Ok(deleted)
    }
}

/// Why a search gave nothing.
#[derive(Debug)]
pub(crate) enum Searched {
    TooBroad,
    Failed(Error),
}

impl From<Error> for Searched {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl From<Searched> for Error {
    fn from(searched: Searched) -> Self {
        match searched {
            Searched::Failed(error) => error,
            Searched::TooBroad => {
                Self::new(ErrorKind::Protocol, "the service calls a plain list too broad a search")
            }
        }
    }
}

/// The current one of several keys of a name: the one with the alias, else the newest one that no other follows.
pub(crate) fn newest(keys: Vec<Key>, names: &Names) -> Option<Key> {
    let superseded: Vec<bool> =
        keys.iter().map(|key| keys.iter().any(|other| other.comes_after(&key.id))).collect();
    keys.into_iter()
        .zip(superseded)
        .max_by(|(one, one_old), (other, other_old)| {
            let rank = |key: &Key, old: bool| (key.has_alias(&names.alias), key.has_alias(&names.next), !old);
            rank(one, *one_old).cmp(&rank(other, *other_old)).then_with(|| one.age().cmp(&other.age()))
        })
        .map(|(key, _)| key)
}

fn done_or_absent(reply: &Reply) -> Result<bool> {
    match reply.status() {
        StatusCode::NO_CONTENT | StatusCode::OK => Ok(true),
        StatusCode::GONE => Ok(false),
        StatusCode::NOT_FOUND if Refusal::of(&reply.answer).is_some() => Ok(false),
        _ => Err(reply.refused()),
    }
}

fn foreign(key: &Key, message: &'static str) -> Error {
    let description: String = key.description.as_deref().unwrap_or("none").chars().take(200).collect();
    Error::new(ErrorKind::PermissionDenied, message)
        .context("id", &key.id)
        .context(CORRELATION_ID, &key.correlation_id)
        .context("description", description.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn blocked(taken: &Error) -> Error {
    let error = Error::new(
        ErrorKind::Conflict,
        "the alias still belongs to a deleted key: restore that key (within 30 days of its deletion), or purge it (4 \
         hours after it), and try again",
    );
    taken.contexts().fold(error, |error, (name, value)| error.context(name, value))
}

pub(crate) fn changing() -> Error {
    Error::new(ErrorKind::Conflict, "somebody else changes the key all the time")
}
