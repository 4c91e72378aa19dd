//! The tools of the cases: clients, names, KEKs and checks.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::{StreamExt, future::BoxFuture};
use kms_core::{
    Capability, DeleteMode, Error, ErrorKind, Freshness, Guarantee, Kek, KeyInfo, KeyName, KeyVersion,
    KmsProvider, PutMode, Result,
};

use super::{
    Options, Subject, check,
    interference::{ListCuts, MisledClient},
};
use crate::leak;

/// The result of a case, or of a part of it.
pub(super) type Verdict<T = ()> = std::result::Result<T, Stop>;

/// The reason why a case ended early.
#[derive(Debug)]
pub(super) enum Stop {
    Fail(String),
    Skip(String),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Fail(format!("an unexpected error: {}", described(&error)))
    }
}

/// An error with its kind and causes, on one line.
pub(super) fn described(error: &Error) -> String {
    let mut text = format!("{error} [{}]", error.kind());
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

/// A case of the suite.
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) run: for<'a> fn(&'a Bench) -> BoxFuture<'a, Verdict>,
}

/// The tools of one case.
pub(super) struct Bench {
    subject: Subject,
    pub(super) options: Options,
    run: String,
    case: String,
    names: Mutex<BTreeSet<KeyName>>,
}

/// Sixteen random hexadecimal digits.
pub(super) fn random_text() -> String {
    kek().fingerprint()
}

/// A new KEK.
pub(super) fn kek() -> Kek {
    Kek::generate().expect("the operating system has random bytes")
}

/// A KEK of this text.
pub(super) fn kek_of(text: &str) -> Kek {
    Kek::parse(text).expect("the text is a KEK")
}

impl Bench {
    pub(super) fn new(subject: &Subject, options: &Options, run: &str) -> Self {
        Self {
            subject: subject.clone(),
            options: options.clone(),
            run: run.to_owned(),
            case: random_text()[..8].to_owned(),
            names: Mutex::default(),
        }
    }

    pub(super) fn provider(&self) -> &Arc<dyn KmsProvider> {
        &self.subject.provider
    }

    /// The second client of the store, or the first one again.
    pub(super) fn second(&self) -> &Arc<dyn KmsProvider> {
        self.subject.second.as_ref().unwrap_or(&self.subject.provider)
    }

    pub(super) fn unreachable(&self) -> Option<&Arc<dyn KmsProvider>> {
        self.subject.unreachable.as_ref()
    }

    pub(super) fn denied(&self) -> Option<&Arc<dyn KmsProvider>> {
        self.subject.denied.as_ref()
    }

    pub(super) fn misled(&self) -> Option<&MisledClient> {
        self.subject.misled.as_ref()
    }

    pub(super) fn cuts(&self) -> Option<&dyn ListCuts> {
        self.subject.cuts.as_deref()
    }

    pub(super) fn capability(&self) -> Capability {
        self.subject.provider.capability()
    }

    /// Skips the case unless the provider supports it.
    pub(super) fn need(&self, can: bool, why_not: &str) -> Verdict {
        if can { Ok(()) } else { Err(Stop::Skip(why_not.to_owned())) }
    }

    pub(super) fn need_create(&self) -> Verdict {
        self.need(
            self.capability().create != Guarantee::Unsupported,
            "a key cannot be created only if it is absent",
        )
    }

    pub(super) fn need_update(&self) -> Verdict {
        self.need(
            self.capability().update != Guarantee::Unsupported,
            "a key cannot be updated only if it has not changed",
        )
    }

    /// The beginning of the names of all keys of this run.
    pub(super) fn run_prefix(&self) -> String {
        format!("{}-{}-", self.options.prefix, self.run)
    }

    /// The beginning of the names of all keys of this case.
    pub(super) fn prefix(&self) -> String {
        format!("{}{}-", self.run_prefix(), self.case)
    }

    /// A name of this case. The key is deleted at the end of the case.
    pub(super) fn name(&self, label: &str) -> KeyName {
        self.owned(KeyName::new(format!("{}{label}", self.prefix())).expect("the name is valid"))
    }

    /// A name of this length.
    pub(super) fn name_of_length(&self, length: usize) -> KeyName {
        let filler = length.checked_sub(self.prefix().len()).expect("the prefix is shorter");
        self.name(&"x".repeat(filler))
    }

    /// Notes a name, whose key is deleted at the end of the case.
    pub(super) fn owned(&self, name: KeyName) -> KeyName {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone());
        name
    }

    /// Stores a KEK under an unused name.
    pub(super) async fn stored(&self, name: &KeyName, kek: &Kek) -> Verdict<KeyVersion> {
        let mode = match self.capability().create {
            Guarantee::Unsupported => PutMode::Overwrite,
            _ => PutMode::Create,
        };
        Ok(self.provider().put(name, kek, mode).await?)
    }

    /// Creates a key.
    pub(super) async fn made(&self, label: &str) -> Verdict<(KeyName, Kek, KeyVersion)> {
        let (name, kek) = (self.name(label), kek());
        let version = self.stored(&name, &kek).await?;
        Ok((name, kek, version))
    }

    /// Fails unless the store holds this KEK, and returns its version.
    pub(super) async fn holds(&self, name: &KeyName, kek: &Kek) -> Verdict<KeyVersion> {
        let stored = self.provider().get(name, Freshness::Fresh).await?;
        check!(
            stored.kek.ct_eq(kek),
            "{name} holds a KEK of {} bytes (fingerprint {}) instead of one of {} bytes (fingerprint {})",
            stored.kek.expose_secret_bytes().len(),
            stored.kek.fingerprint(),
            kek.expose_secret_bytes().len(),
            kek.fingerprint(),
        );
        Ok(stored.version)
    }

    /// Fails unless the key is absent.
    pub(super) async fn absent(&self, name: &KeyName) -> Verdict {
        let result = self.provider().get(name, Freshness::Fresh).await;
        refused(&format!("get of {name}"), result, &[ErrorKind::NotFound]).map(drop)
    }

    /// The listed keys whose names begin with the prefix.
    pub(super) async fn listed(&self, prefix: &str) -> Verdict<Vec<KeyInfo>> {
        let mut found = Vec::new();
        let mut list = self.provider().list();
        while let Some(info) = list.next().await {
            let info = info?;
            if info.name.as_str().starts_with(prefix) {
                found.push(info);
            }
        }
        Ok(found)
    }

    /// Deletes the keys of the case.
    pub(super) async fn clean_up(&self) -> Verdict {
        let names = std::mem::take(&mut *self.names.lock().unwrap_or_else(PoisonError::into_inner));
        let mut problems = Vec::new();
        for name in names {
            match self.provider().delete(&name, DeleteMode::Destroy).await {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => problems.push(described(&error)),
            }
        }
        check!(problems.is_empty(), "{}", problems.join("; "));
        Ok(())
    }
}

/// Fails unless the result is an error of one of these kinds, and returns the error.
pub(super) fn refused<T: std::fmt::Debug>(
    what: &str,
    result: Result<T>,
    kinds: &[ErrorKind],
) -> Verdict<Error> {
    let names = || kinds.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(" or ");
    match result {
        Ok(value) => Err(Stop::Fail(format!("{what} returned {value:?} instead of {}", names()))),
        Err(error) if kinds.contains(&error.kind()) => Ok(error),
        Err(error) => Err(Stop::Fail(format!("{what}: {} instead of {}", described(&error), names()))),
    }
}

/// The text that a result shows of itself.
pub(super) fn shown<T: std::fmt::Debug>(result: &Result<T>) -> String {
    match result {
        Ok(value) => leak::shown(value),
        Err(error) => leak::shown_error(error),
    }
}
