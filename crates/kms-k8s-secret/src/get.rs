//! Reading a key.

use kms_core::{KeyName, Result, Stored};
use kms_kube::Secrets;

use crate::{
    error::key_error,
    name::Names,
    stored::{created, read_kek, updated, version},
};

/// Reads a KEK with its version and times.
pub(crate) async fn get(secrets: &Secrets, name: &KeyName) -> Result<Stored> {
    let names = Names::of(name);
    let secret = secrets.read(&names.secret).await.map_err(|failure| key_error(failure, name))?;
    let stored = Stored::new(read_kek(&secret, &names)?, version(&secret.metadata)?);
    Ok(stored.with_times(created(&secret.metadata), updated(&secret.metadata)))
}
