//! Writing a key.

use kms_core::{Error, ErrorKind, Existing, Kek, KeyName, KeyVersion, Result, Retry};
use kms_kube::{Base64, Cause, Failure, Object, Owner, Secret, Secrets};

use crate::{
    error::key_error,
    name::Names,
    stored::{DATA_KEY, check_mutable, check_ours, mark, new_secret, read_kek, version},
};

/// The annotation that changes with each write of a KEK that is stored already.
const WRITE_ANNOTATION: &str = "kms.ceph.rook.io/write";

/// The number of times that an overwrite starts again because another writer changed the Secret meanwhile.
const OVERWRITE_ROUNDS: usize = 8;

/// The Secrets to write to, and the owner of new ones.
#[derive(Clone, Copy)]
pub(crate) struct Target<'a> {
    pub(crate) secrets: &'a Secrets,
    pub(crate) owner: Option<&'a Owner>,
}

impl Target<'_> {
    /// Creates the Secret of a key.
    pub(crate) async fn create(self, name: &KeyName, kek: &Kek) -> Result<KeyVersion> {
        let names = Names::of(name);
        match self.send_new(&names, kek).await {
            Ok(object) => version(&object.metadata),
            Err(failure) if failure.cause == Cause::Exists => Err(self.compared(name, &names, kek).await),
            Err(failure) => Err(key_error(failure, name)),
        }
    }

    /// The error for a key that exists. It says whether the stored KEK is the same.
    async fn compared(self, name: &KeyName, names: &Names, kek: &Kek) -> Error {
        let unknown = |cause: Error| Error::already_exists(name, Existing::Unknown).source(cause);
        match self.secrets.read(&names.secret).await {
            Ok(secret) => match read_kek(&secret, names) {
                Ok(stored) if stored.ct_eq(kek) => Error::already_exists(name, Existing::Same),
                Ok(_) => Error::already_exists(name, Existing::Different),
                Err(cause) => unknown(cause),
            },
            Err(failure) => unknown(failure.error),
        }
    }

    /// Creates or replaces the Secret of a key, whatever its version.
    pub(crate) async fn overwrite(self, name: &KeyName, kek: &Kek) -> Result<KeyVersion> {
        let names = Names::of(name);
        // Each write is conditional on the read just before it. So other data in the Secret survives, and a Secret of
        // another type that has taken the name meanwhile is not overwritten.
        for _ in 0..OVERWRITE_ROUNDS {
            let written = match self.secrets.read(&names.secret).await {
                Ok(secret) => self.replace(&names, secret, kek).await?,
                Err(failure) if failure.cause == Cause::Absent => self.send_new(&names, kek).await,
                Err(failure) => return Err(failure.error),
            };
            match written {
                Ok(object) => return version(&object.metadata),
                Err(failure) if matches!(failure.cause, Cause::Changed | Cause::Exists | Cause::Absent) => {}
                Err(failure) => return Err(failure.error),
            }
        }
        // None of the writes was applied.
        Err(Error::new(ErrorKind::Conflict, "other writers keep changing the same key").retry(Retry::Always))
    }

    /// Replaces the KEK in a Secret that is still in the expected version.
    pub(crate) async fn update(self, name: &KeyName, kek: &Kek, expected: &KeyVersion) -> Result<KeyVersion> {
        let names = Names::of(name);
        let mut secret =
            self.secrets.read(&names.secret).await.map_err(|failure| key_error(failure, name))?;
        if secret.metadata.resource_version.as_deref() != Some(expected.as_str()) {
            return Err(Error::key_changed(name));
        }
        // A write of the stored KEK has to make a new version too: otherwise a write in flight for the expected version
        // could still be applied after this one.
        if read_kek(&secret, &names).is_ok_and(|stored| stored.ct_eq(kek)) {
            mark(&mut secret, WRITE_ANNOTATION)?;
        }
        let written = self.replace(&names, secret, kek).await?;
        version(&written.map_err(|failure| key_error(failure, name))?.metadata)
    }

    async fn send_new(self, names: &Names, kek: &Kek) -> Result<Object, Failure> {
        let secret = new_secret(self.secrets.kube_namespace(), self.owner, names, Base64::of(kek));
        self.secrets.create(&names.secret, &secret).await
    }

    /// Writes a KEK into a Secret that was read; everything else in the Secret stays.
    ///
    /// The outer error says that the Secret must not be written, the inner one that the API server refused.
    async fn replace(self, names: &Names, mut secret: Secret, kek: &Kek) -> Result<Result<Object, Failure>> {
        check_ours(&secret, names)?;
        check_mutable(&secret)?;
        let before = secret.data.insert(DATA_KEY.to_owned(), Base64::of(kek));
        Ok(self.secrets.replace(&names.secret, &secret, before.as_ref()).await)
    }
}
