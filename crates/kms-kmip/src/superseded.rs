//! Marks superseded objects on the server, so that they never become the KEK again.
//!
//! Rook destroys the object that it knows, and Kubernetes then removes the Secret. Without a mark, the superseded object
//! would be the only object with the name of the key, and count as the KEK.
//!
//! The mark is another name: "… superseded" behind the name of the key. A Locate by the name of the key then does not
//! find the object, and its material stays readable. A server that cannot modify a name gets the state Deactivated with
//! the revocation reason Superseded instead.
//!
//! With an index, an update renames the old object before the index names the new one. The index decides meanwhile, so
//! a crash in between changes nothing for a reader, and the next update takes the mark back. If Rook destroys the key at
//! any step, the old KEK never comes back.
//! A revocation cannot be taken back, so it comes after the index. Without an index, the registration of the new object
//! makes it the KEK, so every mark comes after it. The next fresh read adds a mark that a crash has prevented.

use kms_core::{Error, ErrorKind, KeyName, Result};
use tracing::{debug, warn};

use crate::{
    api::Api,
    classify::Object,
    error::{Class, ExchangeError},
    message::Operation,
    name::{object_name, superseded_name},
    stored::{revocation, state},
};

/// Marks objects of a key as superseded. A failure is only logged, since the successor is stored; the next fresh read
/// tries again.
pub(crate) async fn mark_all(api: &Api, name: &KeyName, objects: &[Object]) {
    for Object { uid, .. } in objects {
        if let Err(error) = mark(api, name, uid).await {
            warn!(
                key = %name, object = uid, %error,
                "the superseded object could not be marked: without its successor it would count as the KEK again; destroy it"
            );
        }
    }
}

/// Completes an update that was interrupted before the predecessor of the current object was marked.
pub(crate) async fn complete(api: &Api, name: &KeyName, current: &str) -> Result<()> {
    let tag = api.objects(vec![current.to_owned()], false).await?.pop().and_then(|object| object.tag);
    let Some(predecessor) = tag.and_then(|tag| tag.predecessor) else { return Ok(()) };
    if let Some(object) = api.objects(vec![predecessor], false).await?.pop()
        && object.keys.contains(name)
    {
        mark_all(api, name, &[object]).await;
    }
    Ok(())
}

/// Renames an object that is about to be superseded. A failure is not an error here: [`mark_all`] follows.
pub(crate) async fn rename(api: &Api, name: &KeyName, uid: &str) {
    match renamed(api, uid, &object_name(name), &superseded_name(name)).await {
        Ok(_) => {}
        Err(failed) => debug!(error = %failed.error, object = uid, "the object could not be renamed"),
    }
}

/// Gives a renamed object its name back, because it is the current object after all. `false` if the server refuses.
pub(crate) async fn restore_name(api: &Api, name: &KeyName, uid: &str) -> Result<bool> {
    match renamed(api, uid, &superseded_name(name), &object_name(name)).await {
        Ok(done) => Ok(done),
        Err(failed) if is_refusal(failed.class) => Ok(false),
        Err(failed) => Err(failed.error),
    }
}

/// Replaces a name of an object. `false` if the object is absent or does not have the old name.
async fn renamed(api: &Api, uid: &str, old: &str, new: &str) -> Result<bool, ExchangeError> {
    let Some((_, attributes)) = api.described(uid).await? else { return Ok(false) };
    let Some(at) = attributes.names.iter().position(|known| known == old) else { return Ok(false) };
    let result = api.rename(uid, i32::try_from(at).unwrap_or(i32::MAX), old, new).await;
    api.forget(uid);
    result.map(|()| true)
}

/// Marks an object. An object without the name of the key needs no mark: no reader finds it by that name.
async fn mark(api: &Api, name: &KeyName, uid: &str) -> Result<()> {
    if is_marked(api, name, uid).await? {
        return Ok(());
    }
    match renamed(api, uid, &object_name(name), &superseded_name(name)).await {
        Ok(_) => {}
        Err(failed) if is_refusal(failed.class) => {
            debug!(error = %failed.error, object = uid, "the server does not rename the superseded object; revoking it");
        }
        Err(failed) => return Err(failed.error),
    }
    let Some((object, attributes)) = api.described(uid).await? else { return Ok(()) };
    if !object.keys.contains(name) {
        return Ok(());
    }
    let mut refusal = api.revoke(uid, revocation::SUPERSEDED).await.err();
    // Only an active object can be superseded by a revocation (KMIP 1.4 §4.21). The client activates an object only if
    // its state is what the server minds: without the right to revoke, no one could destroy an active object again.
    if attributes.state == Some(state::PRE_ACTIVE)
        && refusal.as_ref().is_some_and(ExchangeError::minds_the_state)
    {
        if let Err(failed) = api.change(Operation::Activate, uid).await
            && !is_refusal(failed.class)
        {
            return Err(failed.error);
        }
        refusal = api.revoke(uid, revocation::SUPERSEDED).await.err();
    }
    if is_marked(api, name, uid).await? {
        return Ok(());
    }
    let error = Error::new(ErrorKind::Unsupported, "the server neither renames nor revokes the object");
    Err(match refusal {
        Some(failed) => error.source(failed.error),
        None => error,
    })
}

/// Reads an object: whether it does not count as an object with the name of the key.
async fn is_marked(api: &Api, name: &KeyName, uid: &str) -> Result<bool> {
    Ok(api.object(uid).await?.is_none_or(|object| !object.keys.contains(name)))
}

/// Whether the server has refused the request, so that another kind of mark may help.
fn is_refusal(class: Class) -> bool {
    match class {
        Class::Gone | Class::State | Class::Form | Class::NoOperation | Class::Refused => true,
        Class::Closed | Class::TooLarge | Class::Other => false,
    }
}
