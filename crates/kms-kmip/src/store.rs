//! Objects on the server: registered, found, read, destroyed.

use std::sync::{PoisonError, atomic::Ordering};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use kms_core::{Error, ErrorKind, Existing, Kek, KeyName, Result};
use tracing::{debug, warn};
use zeroize::Zeroizing;

use crate::{
    api::{self, Attribute, Attributes, Operation},
    error::{Class, Fault, unless_gone},
    name::object_name,
    object::{Label, Line, Object, Shape, Tag, Texts, arrange},
    provider::Kmip,
};

/// How many objects are remembered.
const KNOWN_OBJECTS: usize = 20_000;
/// The states of an object (KMIP 1.4 §9.1.3.2.17).
const PRE_ACTIVE: u32 = 1;
const ACTIVE: u32 = 2;
const DEACTIVATED: u32 = 3;
const DESTROYED_COMPROMISED: u32 = 6;

/// The bytes that a KEK stands for, which are what KMIP keeps (spec 6.4).
///
/// # Errors
///
/// `ConfigInvalid` if the text is not base64 in its one canonical form: another text would come back.
pub(crate) fn decoded(kek: &Kek) -> Result<Zeroizing<Vec<u8>>> {
    let text = kek.expose_secret();
    let mut buffer = Zeroizing::new(vec![0; base64::decoded_len_estimate(text.len())]);
    // The engine takes canonical padding only, and no bits that are left over.
    let length = STANDARD.decode_slice(text, &mut buffer).ok().filter(|length| *length > 0);
    let Some(length) = length else {
        return Err(Error::config(
            "the KEK is not base64 in its canonical form, and KMIP keeps only the bytes that it stands for; a KEK \
             as Rook and kms generate make it is",
        ));
    };
    // Shortening leaves everything where it is, to be wiped with the rest.
    buffer.truncate(length);
    Ok(buffer)
}

/// The KEK that some bytes are.
fn encoded(material: &[u8]) -> Result<Kek> {
    let mut text = String::with_capacity(material.len().div_ceil(3).saturating_mul(4));
    STANDARD.encode_string(material, &mut text);
    Kek::parse(text).map_err(|error| {
        Error::new(ErrorKind::Protocol, format!("the object on the server is no KEK: {}", error.message()))
    })
}

impl Kmip {
    /// Registers a KEK in the shape that the server takes, and gives its identifier.
    pub(crate) async fn register(&self, name: &KeyName, material: &[u8], tag: &Tag) -> Result<String> {
        let texts = Texts::new(name, tag);
        let usable = |shape: &Shape| self.index.is_some() || shape.is_found(tag);
        let remembered = Shape::ALL.get(self.shape.load(Ordering::Relaxed)).copied().filter(usable);
        let others = Shape::ALL.into_iter().filter(|shape| usable(shape) && Some(*shape) != remembered);
        let mut first_refusal = None;
        let mut tried = Vec::new();
        for shape in remembered.into_iter().chain(others) {
            let payload =
                |version| api::register(version, shape.body, material, &texts.attributes(shape.label));
            match self.client.call(Operation::Register, payload, api::unique_identifier).await {
                Ok(uid) => {
                    let at = Shape::ALL.iter().position(|known| *known == shape).unwrap_or(usize::MAX);
                    if self.shape.swap(at, Ordering::Relaxed) != at && !tried.is_empty() {
                        warn!(shape = shape.describe(), "the server takes KEKs in this form only");
                    }
                    return Ok(uid);
                }
                Err(fault) if matches!(fault.class, Class::Form) => {
                    debug!(shape = shape.describe(), error = %fault.error, "the server refuses this form");
                    tried.push(shape.describe());
                    first_refusal.get_or_insert(fault.error);
                }
                Err(fault) => return Err(fault.error),
            }
        }
        Err(match first_refusal {
            Some(error) => error.context("refused forms", tried.join("; ")),
            None => Error::new(
                ErrorKind::Unsupported,
                "the server takes nothing that would tell an updated KEK from the one before; updates need an index \
                 in Kubernetes here",
            ),
        })
    }

    /// Whether objects of the shape that the server takes say which one they replace.
    pub(crate) fn tells_generations(&self) -> bool {
        let shape = Shape::ALL.get(self.shape.load(Ordering::Relaxed));
        shape.is_some_and(|shape| !matches!(shape.label, Label::Name | Label::None))
    }

    /// What is known of some objects. Those that are gone meanwhile are left out.
    ///
    /// Names and tags do not change, so an object that was looked at once is not asked about again. A state does
    /// change: an object that is remembered may have been destroyed, which whoever reads it will notice.
    pub(crate) async fn objects(&self, uids: Vec<String>, fresh: bool) -> Result<Vec<Object>> {
        let found = stream::iter(uids)
            .map(|uid| async move {
                let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&uid).cloned();
                match known {
                    Some(object) if object.destroyed => Ok(None),
                    Some(object) if !fresh => Ok(Some(object)),
                    _ => self.object(&uid).await,
                }
            })
            .buffered(self.client.limits.connections);
        found.try_filter_map(|object| std::future::ready(Ok(object))).try_collect().await
    }

    /// Asks about an object; `None` if there is none.
    pub(crate) async fn object(&self, uid: &str) -> Result<Option<Object>> {
        match self.attributes(uid).await {
            Ok(attributes) => {
                let object = Object::new(uid, &attributes);
                // Some servers keep the attributes of what they have destroyed. That never changes again.
                let found = (!object.destroyed).then(|| object.clone());
                let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
                if known.len() >= KNOWN_OBJECTS {
                    known.clear();
                }
                known.insert(uid.to_owned(), object);
                Ok(found)
            }
            Err(fault) if fault.class == Class::Gone => {
                self.forget(uid);
                Ok(None)
            }
            Err(fault) => Err(fault.error.context("object", uid)),
        }
    }

    async fn attributes(&self, uid: &str) -> Result<Attributes, Fault> {
        let payload = |_| api::identifier(uid);
        self.client.call(Operation::GetAttributes, payload, |payload| Ok(Attributes::of(payload))).await
    }

    fn forget(&self, uid: &str) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }

    /// The identifiers of the objects with these attributes.
    pub(crate) async fn locate(&self, filter: &[Attribute<'_>]) -> Result<Vec<String>, Fault> {
        let payload = |version| api::locate(version, filter);
        self.client.call(Operation::Locate, payload, |payload| Ok(api::located(payload))).await
    }

    /// The objects with the name of a key.
    pub(crate) async fn named(&self, name: &KeyName, fresh: bool) -> Result<Vec<Object>> {
        let text = object_name(name);
        let uids = match self.locate(&[Attribute::Name(&text)]).await {
            Ok(uids) => uids,
            // A server may say that there is nothing.
            Err(fault) if fault.class == Class::Gone => Vec::new(),
            Err(fault) => return Err(fault.error),
        };
        self.objects(uids, fresh).await
    }

    /// The objects of a key, sorted.
    pub(crate) async fn line(&self, name: &KeyName, fresh: bool) -> Result<Option<Line>> {
        arrange(name, self.cluster.as_deref(), self.named(name, fresh).await?)
    }

    /// Reads a KEK.
    pub(crate) async fn fetch(&self, uid: &str) -> Result<Kek, Fault> {
        let get = || {
            let payload = |_| api::identifier(uid);
            self.client.call(Operation::Get, payload, |payload| encoded(api::material(payload)?))
        };
        let result = match get().await {
            // Some servers give out active keys only.
            Err(fault) if fault.class == Class::State => match self.state(uid).await? {
                Some(PRE_ACTIVE) => {
                    // Somebody else may do it at the same moment, so what counts is whether it helps.
                    let _ = self.simple(Operation::Activate, uid).await;
                    get().await
                }
                // Somebody else has done it meanwhile.
                Some(ACTIVE) => get().await,
                _ => Err(fault),
            },
            result => result,
        };
        result.map_err(|fault| {
            if fault.class == Class::Gone {
                self.forget(uid);
            }
            Fault { error: fault.error.context("object", uid), ..fault }
        })
    }

    /// The state of an object, if the server tells.
    async fn state(&self, uid: &str) -> Result<Option<u32>, Fault> {
        match self.attributes(uid).await {
            Ok(attributes) => Ok(attributes.state),
            // Whoever may not see the object may not see its attributes either.
            Err(fault) if matches!(fault.class, Class::State | Class::Gone | Class::Refused) => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// The same for an object that is to be destroyed: that it is gone by now is an answer too.
    async fn state_to_destroy(&self, uid: &str) -> Result<Option<u32>, Fault> {
        match self.attributes(uid).await {
            Ok(attributes) => Ok(attributes.state),
            Err(fault) if matches!(fault.class, Class::State | Class::Refused) => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    async fn simple(&self, operation: Operation, uid: &str) -> Result<(), Fault> {
        self.client.call(operation, |_| api::identifier(uid), |_| Ok(())).await
    }

    /// Destroys an object, and says whether it was there.
    ///
    /// Ours are never activated, so that one request does it. If the server refuses, its state is looked at: an
    /// active object is revoked first (UP-57). Only a revocation that had been done before may fail.
    pub(crate) async fn destroy(&self, uid: &str) -> Result<bool> {
        let result = self.destroy_or_revoke(uid).await;
        self.forget(uid);
        unless_gone(result).map_err(|error| error.context("object", uid))
    }

    async fn destroy_or_revoke(&self, uid: &str) -> Result<(), Fault> {
        let refusal = match self.simple(Operation::Destroy, uid).await {
            Err(fault) if fault.class == Class::State => fault,
            result => return result,
        };
        match self.state_to_destroy(uid).await? {
            Some(ACTIVE) => {}
            // Its state machine wants an object to have been active before.
            Some(PRE_ACTIVE) => {
                if self.simple(Operation::Activate, uid).await.is_err() {
                    return Err(refusal);
                }
            }
            // Somebody else has revoked it meanwhile, or destroyed it.
            Some(DEACTIVATED..=DESTROYED_COMPROMISED) => return self.simple(Operation::Destroy, uid).await,
            _ => return Err(refusal),
        }
        let revoke = self.client.call(Operation::Revoke, |_| api::revoke(uid), |_| Ok(())).await;
        if let Err(fault) = revoke {
            // Somebody else may have done it at the same moment.
            let state = self.state_to_destroy(uid).await?;
            if matches!(state, None | Some(PRE_ACTIVE | ACTIVE)) {
                return Err(fault);
            }
        }
        self.simple(Operation::Destroy, uid).await
    }

    /// The error for a key that exists, with what a look at it tells.
    pub(crate) async fn already(&self, name: &KeyName, uid: &str, kek: &Kek) -> Error {
        match self.fetch(uid).await {
            Ok(stored) if stored.ct_eq(kek) => Error::already_exists(name, Existing::Same),
            Ok(_) => Error::already_exists(name, Existing::Different),
            Err(fault) => Error::already_exists(name, Existing::Unknown).source(fault.error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kek_is_the_canonical_base64_of_its_bytes() {
        let kek = Kek::generate().unwrap();
        let bytes = decoded(&kek).unwrap();
        assert_eq!(bytes.len(), 128);
        assert!(encoded(&bytes).unwrap().ct_eq(&kek));
        assert_eq!(*decoded(&Kek::parse("QUI=").unwrap()).unwrap(), b"AB");
    }

    #[test]
    fn any_other_text_is_refused_without_being_shown() {
        for text in ["canary-passphrase!", "QUI", "QUJ=", "QUI==", "QU I=", "_-8=", "====", "QUI=\u{a0}"] {
            let error = decoded(&Kek::parse(text).unwrap()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConfigInvalid, "{text}");
            assert!(!error.to_string().contains(text), "{error}");
        }
    }
}
