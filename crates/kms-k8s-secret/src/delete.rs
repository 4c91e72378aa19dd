//! Deleting a key.

use kms_core::{Error, KeyName, Result, Retry, provider::Deleted};
use kms_kube::{Cause, Secrets};

use crate::{
    error::key_error,
    name::Names,
    stored::{check_gone, check_ours},
};

/// Deletes the Secret of a key for good.
pub(crate) async fn destroy(secrets: &Secrets, name: &KeyName) -> Result<Deleted> {
    let names = Names::of(name);
    let secret = secrets.read(&names.secret).await.map_err(|failure| key_error(failure, name))?;
    check_ours(&secret, &names)?;
    // The type of a Secret cannot change, so it is enough to delete the object with this UID.
    match secrets.delete(&names.secret, &secret).await {
        Ok(object) => check_gone(object).map(|()| Deleted::Destroyed),
        Err(failure) if failure.cause == Cause::Changed => Err(Error::key_changed(name).retry(Retry::Always)),
        Err(failure) => Err(key_error(failure, name)),
    }
}
