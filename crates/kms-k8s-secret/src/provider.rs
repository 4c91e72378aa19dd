//! The provider itself.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    fmt,
    time::SystemTime,
};

use async_trait::async_trait;
use futures_util::stream;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kms_core::{
    Capability, DeleteMode, Error, ErrorKind, Existing, Freshness, Kek, KeyInfo, KeyName, KeyStream,
    KeyVersion, KmsProvider, KmsProviderExt, Probe, PutMode, Result, Retry, Stored, UpdateRight,
    provider::Deleted,
};

use crate::{
    PROVIDER,
    api::{Base64, Object, Secret, Secrets},
    builder::Owner,
    error::{Cause, Failure},
    name::{ANNOTATION, LABEL, Names},
    probe,
};

/// The type of the Secrets that Rook writes.
pub(crate) const TYPE: &str = "kubernetes.io/rook";

/// The key of the data that is the KEK.
pub(crate) const DATA_KEY: &str = "dmcrypt-key";

/// The annotation that is another one after each write of a KEK that was there already.
const WRITE_ANNOTATION: &str = "kms.ceph.rook.io/write";
/// Random bytes in it.
const NONCE_BYTES: usize = 8;
/// The annotation of a Secret whose `dmcrypt-key` is no KEK, but the Unique Identifier of one on a KMIP server.
///
/// Rook keeps both in Secrets of the same name and shape (spec 3), so whoever writes the latter says so by this.
pub const KMIP_ANNOTATION: &str = "kms.ceph.rook.io/kmip-unique-identifier";

/// How often an overwrite starts anew when somebody else writes the same Secret at the same moment.
const OVERWRITE_ROUNDS: usize = 8;

/// How often a list starts anew when it took longer to read than the API server remembers.
pub(crate) const LIST_ROUNDS: usize = 3;

/// Keeps KEKs in Kubernetes Secrets, one each, as Rook does where no KMS is configured.
pub struct KubernetesSecret {
    secrets: Secrets,
    owner: Option<Owner>,
}

impl KubernetesSecret {
    pub(crate) fn new(secrets: Secrets, owner: Option<Owner>) -> Self {
        Self { secrets, owner }
    }

    /// The namespace of the Secrets.
    pub fn kube_namespace(&self) -> &str {
        &self.secrets.kube_namespace
    }

    /// Adds to an error what was done, and to which key.
    fn failed(&self, error: Error, operation: &'static str, name: &KeyName) -> Error {
        let secret = Names::of(name).secret;
        error
            .operation(operation)
            .provider(PROVIDER)
            .context("namespace", self.kube_namespace())
            .context("secret", secret)
            .context("key", name.as_str())
    }

    /// The same for an answer of the API server about the Secret of a key.
    fn answer(&self, failure: Failure, operation: &'static str, name: &KeyName) -> Error {
        let error = match failure.cause {
            Cause::Absent => Error::key_not_found(name),
            Cause::Changed => changed(),
            _ => failure.error,
        };
        self.failed(error, operation, name)
    }

    /// The Secret for a key that is not there yet, as Rook would write it.
    fn new_secret(&self, names: &Names, kek: &Kek) -> Secret {
        new_secret(&self.secrets.kube_namespace, self.owner.as_ref(), names, Base64::of(kek))
    }

    async fn create(&self, name: &KeyName, kek: &Kek) -> Result<KeyVersion> {
        let names = Names::of(name);
        match self.secrets.create(&names.secret, &self.new_secret(&names, kek)).await {
            Ok(object) => version(&object.metadata),
            Err(failure) if failure.cause == Cause::Exists => Err(self.compared(name, &names, kek).await),
            Err(failure) => Err(self.answer(failure, "put", name)),
        }
    }

    /// The error for a key that exists, with what a look at it tells.
    async fn compared(&self, name: &KeyName, names: &Names, kek: &Kek) -> Error {
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

    async fn overwrite(&self, name: &KeyName, kek: &Kek) -> Result<KeyVersion> {
        let names = Names::of(name);
        // Each write is guarded by what was read just before, so that what others keep in the Secret survives, and no
        // Secret is overwritten that turned into another one meanwhile.
        for _ in 0..OVERWRITE_ROUNDS {
            let written = match self.secrets.read(&names.secret).await {
                Ok(secret) => self.replace(&names, secret, kek).await?,
                Err(failure) if failure.cause == Cause::Absent => {
                    self.secrets.create(&names.secret, &self.new_secret(&names, kek)).await
                }
                Err(failure) => return Err(failure.error),
            };
            match written {
                Ok(object) => return version(&object.metadata),
                Err(failure) if matches!(failure.cause, Cause::Changed | Cause::Exists | Cause::Absent) => {}
                Err(failure) => return Err(failure.error),
            }
        }
        // None of the writes was applied.
        Err(Error::new(ErrorKind::Conflict, "others write the same key all the time").retry(Retry::Always))
    }

    async fn update(&self, name: &KeyName, kek: &Kek, expected: &KeyVersion) -> Result<KeyVersion> {
        let names = Names::of(name);
        let mut secret =
            self.secrets.read(&names.secret).await.map_err(|failure| self.answer(failure, "put", name))?;
        if secret.metadata.resource_version.as_deref() != Some(expected.as_str()) {
            return Err(changed());
        }
        // The API server makes no new version of a Secret that is written as it is, and a write that was sent for
        // this one could still be applied after ours.
        if read_kek(&secret, &names).is_ok_and(|stored| stored.ct_eq(kek)) {
            mark(&mut secret, WRITE_ANNOTATION)?;
        }
        let written = self.replace(&names, secret, kek).await?;
        version(&written.map_err(|failure| self.answer(failure, "put", name))?.metadata)
    }

    /// Writes another KEK into a Secret that was read, if it is one of ours; everything else in it stays.
    ///
    /// The outer error says that it must not be written, the inner one how the API server answered.
    async fn replace(&self, names: &Names, mut secret: Secret, kek: &Kek) -> Result<Result<Object, Failure>> {
        check_ours(&secret, names)?;
        check_mutable(&secret)?;
        let before = secret.data.insert(DATA_KEY.to_owned(), Base64::of(kek));
        Ok(self.secrets.replace(&names.secret, &secret, before.as_ref()).await)
    }

    async fn destroy(&self, name: &KeyName) -> Result<Deleted> {
        let names = Names::of(name);
        let secret =
            self.secrets.read(&names.secret).await.map_err(|failure| self.answer(failure, "delete", name))?;
        check_ours(&secret, &names)?;
        // The type of a Secret cannot change, so it is enough that the very same object is deleted.
        match self.secrets.delete(&names.secret, &secret).await {
            Ok(object) => check_gone(object).map(|()| Deleted::Destroyed),
            Err(failure) if failure.cause == Cause::Changed => Err(changed().retry(Retry::Always)),
            Err(failure) => Err(self.answer(failure, "delete", name)),
        }
    }

    fn unsupported(&self, operation: &'static str, message: &'static str) -> Error {
        Error::new(ErrorKind::Unsupported, message).operation(operation).provider(PROVIDER)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl KmsProvider for KubernetesSecret {
    fn provider(&self) -> &'static str {
        PROVIDER
    }

    fn capability(&self) -> Capability {
        Capability::full().with_soft_delete(false).with_versions(false)
    }

    async fn put(&self, name: &KeyName, kek: &Kek, mode: PutMode) -> Result<KeyVersion> {
        self.check_put(kek, &mode)?;
        match mode {
            PutMode::Create => self.create(name, kek).await,
            PutMode::Overwrite => self.overwrite(name, kek).await,
            PutMode::Update(expected) => self.update(name, kek, &expected).await,
        }
        .map_err(|error| self.failed(error, "put", name))
    }

    /// Reads a KEK. Every read is [`Freshness::Fresh`].
    async fn get(&self, name: &KeyName, _: Freshness) -> Result<Stored> {
        let names = Names::of(name);
        let secret =
            self.secrets.read(&names.secret).await.map_err(|failure| self.answer(failure, "get", name))?;
        let stored = read_kek(&secret, &names)
            .and_then(|kek| Ok(Stored::new(kek, version(&secret.metadata)?)))
            .map_err(|error| self.failed(error, "get", name))?;
        Ok(stored.with_times(created(&secret.metadata), updated(&secret.metadata)))
    }

    async fn delete(&self, name: &KeyName, mode: DeleteMode) -> Result<Deleted> {
        match mode {
            DeleteMode::Destroy => {
                self.destroy(name).await.map_err(|error| self.failed(error, "delete", name))
            }
            _ => {
                Err(self
                    .unsupported("delete", "a deleted Secret is gone for good, there is no soft deletion"))
            }
        }
    }

    fn list(&self) -> KeyStream<'_> {
        let listing = Listing {
            secrets: &self.secrets,
            found: VecDeque::new(),
            next: Next::First,
            seen: HashSet::new(),
            rounds: 1,
        };
        Box::pin(stream::unfold(listing, |mut listing| async move {
            let item = listing.next().await?;
            Some((item, listing))
        }))
    }

    async fn retire_superseded(&self, _: &KeyName, _: &KeyVersion) -> Result<usize> {
        Err(self.unsupported("retire", "a Secret keeps no superseded versions"))
    }

    async fn may_update(&self, names: &[KeyName]) -> Result<Vec<UpdateRight>> {
        probe::may_update(&self.secrets, names).await
    }

    async fn probe(&self) -> Probe {
        probe::probe(&self.secrets).await
    }
}

impl fmt::Debug for KubernetesSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { secrets, owner } = self;
        f.debug_struct("KubernetesSecret").field("secrets", secrets).field("owner", owner).finish()
    }
}

/// Fails if a Secret that was deleted is still there.
pub(crate) fn check_gone(object: Object) -> Result<()> {
    if object.kind == "Status" {
        return Ok(());
    }
    let Some(finalizers) = object.metadata.finalizers else { return Ok(()) };
    Err(Error::new(
        ErrorKind::Unavailable,
        "the Secret is marked as deleted, but stays until its finalizers are removed",
    )
    .context("finalizers", finalizers.join(", ")))
}

/// Writes something into an annotation that no write before had.
pub(crate) fn mark(secret: &mut Secret, annotation: &str) -> Result<()> {
    let mut nonce = [0; NONCE_BYTES];
    getrandom::fill(&mut nonce).map_err(|_error| {
        Error::new(ErrorKind::Unexpected, "the operating system gives no random numbers")
    })?;
    let annotations = secret.metadata.annotations.get_or_insert_default();
    annotations.insert(annotation.to_owned(), format!("{:016x}", u64::from_be_bytes(nonce)));
    Ok(())
}

/// A Secret with this value, as Rook would write it.
pub(crate) fn new_secret(
    kube_namespace: &str,
    owner: Option<&Owner>,
    names: &Names,
    value: Base64,
) -> Secret {
    let labels = BTreeMap::from([(LABEL.to_owned(), names.label.clone())]);
    let annotations = names.annotation.clone().map(|pvc| BTreeMap::from([(ANNOTATION.to_owned(), pvc)]));
    Secret {
        api_version: "v1".to_owned(),
        kind: "Secret".to_owned(),
        metadata: ObjectMeta {
            name: Some(names.secret.clone()),
            namespace: Some(kube_namespace.to_owned()),
            labels: Some(labels),
            annotations,
            owner_references: owner.map(|owner| vec![owner.reference()]),
            ..ObjectMeta::default()
        },
        kind_of_secret: TYPE.to_owned(),
        immutable: None,
        data: BTreeMap::from([(DATA_KEY.to_owned(), value)]),
    }
}

/// A list that is being read.
struct Listing<'a> {
    secrets: &'a Secrets,
    found: VecDeque<KeyInfo>,
    next: Next,
    /// What has been handed out, so that a list that starts anew repeats nothing.
    seen: HashSet<KeyName>,
    rounds: usize,
}

enum Next {
    First,
    Page(String),
    Done,
}

impl Listing<'_> {
    async fn next(&mut self) -> Option<Result<KeyInfo>> {
        loop {
            while let Some(info) = self.found.pop_front() {
                if self.seen.insert(info.name.clone()) {
                    return Some(Ok(info));
                }
            }
            let from = match &self.next {
                Next::First => None,
                Next::Page(from) => Some(from.as_str()),
                Next::Done => return None,
            };
            match self.secrets.page(TYPE, LABEL, from).await {
                Ok(page) => {
                    self.found = page.items.iter().filter_map(|object| key_info(&object.metadata)).collect();
                    // The last page may be empty, and the mark for the next one an empty text.
                    self.next = match page.metadata.continue_.filter(|mark| !mark.is_empty()) {
                        Some(mark) => Next::Page(mark),
                        None => Next::Done,
                    };
                }
                Err(failure) if failure.cause == Cause::Expired && self.rounds < LIST_ROUNDS => {
                    self.rounds += 1;
                    self.next = Next::First;
                }
                Err(failure) => {
                    self.next = Next::Done;
                    return Some(Err(failure.error.operation("list").provider(PROVIDER)));
                }
            }
        }
    }
}

/// What a list shows of a Secret; `None` if it holds no KEK of ours.
fn key_info(metadata: &ObjectMeta) -> Option<KeyInfo> {
    if has_annotation(metadata, KMIP_ANNOTATION) {
        return None;
    }
    let info = KeyInfo::new(Names::key_of(metadata)?).with_times(created(metadata), updated(metadata));
    Some(match version(metadata) {
        Ok(version) => info.with_version(version),
        Err(_) => info,
    })
}

/// The KEK in a Secret.
///
/// The type of the Secret does not matter here: a Secret that somebody restored by `kubectl create secret generic`
/// opens its device, with us as with Rook.
fn read_kek(secret: &Secret, names: &Names) -> Result<Kek> {
    check_meaning(secret, names)?;
    // What the store holds is no setting of the caller, hence the other kind.
    Kek::from_stored_bytes(read_value(secret)?)
        .map_err(|error| unusable(format!("the {DATA_KEY} of the Secret is no KEK: {}", error.message())))
}

fn unusable(message: String) -> Error {
    Error::new(ErrorKind::Protocol, message)
}

/// The bytes in a Secret, in a buffer of the exact size.
pub(crate) fn read_value(secret: &Secret) -> Result<Vec<u8>> {
    let Some(value) = secret.data.get(DATA_KEY) else {
        let keys: Vec<_> = secret.data.keys().map(String::as_str).collect();
        return Err(unusable(if keys.is_empty() {
            format!("the Secret has no {DATA_KEY}; it has no data at all")
        } else {
            format!("the Secret has no {DATA_KEY}; it has: {}", keys.join(", "))
        }));
    };
    value.decoded().ok_or_else(|| unusable(format!("the {DATA_KEY} of the Secret is no base64")))
}

/// Fails if what the Secret holds is not the KEK of this key.
fn check_meaning(secret: &Secret, names: &Names) -> Result<()> {
    if has_annotation(&secret.metadata, KMIP_ANNOTATION) {
        return Err(Error::new(
            ErrorKind::Protocol,
            "the Secret holds the identifier of a key on a KMIP server, no KEK: the cluster that wrote it uses KMIP",
        ));
    }
    check_name(secret, names)
}

/// Fails if the Secret is that of another key, whose shortened name is the same.
pub(crate) fn check_name(secret: &Secret, names: &Names) -> Result<()> {
    let annotated = secret.metadata.annotations.as_ref().and_then(|all| all.get(ANNOTATION));
    if names.secret_is_short && annotated != names.annotation.as_ref() {
        return Err(Error::new(
            ErrorKind::Protocol,
            "the Secret has the name of this key, but belongs to another one by its annotation",
        )
        .context(ANNOTATION, annotated.map_or("none", String::as_str)));
    }
    Ok(())
}

/// Fails if the Secret is none that we may change or delete.
fn check_ours(secret: &Secret, names: &Names) -> Result<()> {
    check_type(secret)?;
    check_meaning(secret, names)
}

pub(crate) fn check_type(secret: &Secret) -> Result<()> {
    let kind = secret.kind_of_secret.as_str();
    if kind != TYPE {
        return Err(Error::new(
            ErrorKind::Protocol,
            format!("the Secret is of type {kind:?} and not {TYPE:?}, so it is left as it is"),
        ));
    }
    Ok(())
}

pub(crate) fn check_mutable(secret: &Secret) -> Result<()> {
    if secret.immutable == Some(true) {
        return Err(Error::config(
            "the Secret is immutable, so nothing else can be stored in it: save it as a manifest, delete it, and apply \
             the manifest without immutable: true",
        ));
    }
    Ok(())
}

fn has_annotation(metadata: &ObjectMeta, annotation: &str) -> bool {
    metadata.annotations.as_ref().is_some_and(|all| all.contains_key(annotation))
}

pub(crate) fn changed() -> Error {
    Error::new(ErrorKind::Conflict, "the key has changed since it was read")
}

pub(crate) fn version(metadata: &ObjectMeta) -> Result<KeyVersion> {
    let version = metadata.resource_version.as_deref().filter(|version| !version.is_empty());
    // After a write the outcome is known, but without a version nobody could go on from it.
    version.map(KeyVersion::new).ok_or_else(|| {
        Error::new(ErrorKind::Protocol, "the answer of the API server has no resource version")
            .retry(Retry::IfIdempotent)
    })
}

fn created(metadata: &ObjectMeta) -> Option<SystemTime> {
    metadata.creation_timestamp.as_ref().map(|time| time.0.into())
}

/// When somebody last wrote the data that is the KEK, as the API server has noted it.
fn updated(metadata: &ObjectMeta) -> Option<SystemTime> {
    let field = format!("f:{DATA_KEY}");
    let writers = metadata.managed_fields.iter().flatten().filter(|entry| {
        entry.fields_v1.as_ref().is_some_and(|fields| fields.0.pointer(&format!("/f:data/{field}")).is_some())
    });
    writers.filter_map(|entry| entry.time.as_ref()).map(|time| time.0).max().map(SystemTime::from)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn secret(value: Value) -> Secret {
        serde_json::from_value(value).unwrap()
    }

    fn names(pvc: &str) -> Names {
        Names::of(&KeyName::new(pvc).unwrap())
    }

    #[test]
    fn what_is_no_kek_is_never_returned() {
        let read = |value: Value| read_kek(&secret(value), &names("a")).unwrap_err();
        let cases = [
            (json!({"metadata": {}}), "it has no data at all"),
            (json!({"metadata": {}, "data": {"b": "QQ==", "c": ""}}), "it has: b, c"),
            (json!({"metadata": {}, "data": {"dmcrypt-key": ""}}), "is no KEK: the KEK is empty"),
            (json!({"metadata": {}, "data": {"dmcrypt-key": "/w=="}}), "is no KEK: the KEK is not UTF-8"),
            (json!({"metadata": {}, "data": {"dmcrypt-key": "?"}}), "is no base64"),
            (
                json!({"metadata": {"annotations": {KMIP_ANNOTATION: ""}}, "data": {"dmcrypt-key": "QQ=="}}),
                "a key on a KMIP server",
            ),
        ];
        for (value, what) in cases {
            let error = read(value);
            assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
            assert!(error.to_string().contains(what), "{what}: {error}");
        }
    }

    #[test]
    fn a_line_break_at_the_end_is_part_of_the_passphrase() {
        let stored = secret(json!({"metadata": {}, "data": {"dmcrypt-key": "QQo="}}));
        assert_eq!(read_kek(&stored, &names("a")).unwrap().expose_secret(), "A\n");
    }

    #[test]
    fn a_shortened_name_counts_with_its_annotation_only() {
        let with = |pvc: Option<&str>| {
            let annotations = pvc.map_or_else(|| json!({}), |pvc| json!({ANNOTATION: pvc}));
            let value = json!({"metadata": {"annotations": annotations}, "data": {"dmcrypt-key": "QQ=="}});
            read_kek(&secret(value), &names("Upper"))
        };
        assert_eq!(with(Some("Upper")).unwrap().expose_secret(), "A");
        assert!(with(Some("Other")).unwrap_err().to_string().contains("belongs to another one"));
        assert!(with(None).unwrap_err().to_string().contains("kms.ceph.rook.io/pvc-name: none"));
    }

    #[test]
    fn only_secrets_of_the_type_are_ours() {
        let kind = |kind: &str| check_ours(&secret(json!({"metadata": {}, "type": kind})), &names("a"));
        assert!(kind("kubernetes.io/rook").is_ok());
        assert!(kind("Opaque").unwrap_err().to_string().contains("\"Opaque\""));
    }

    #[test]
    fn the_time_of_an_update_is_that_of_the_data() {
        let metadata: ObjectMeta = serde_json::from_value(json!({
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "managedFields": [
                {"time": "2026-01-02T00:00:00Z", "fieldsV1": {"f:data": {"f:dmcrypt-key": {}}}},
                {"time": "2026-01-03T00:00:00Z", "fieldsV1": {"f:metadata": {}}},
                {"fieldsV1": {"f:data": {"f:dmcrypt-key": {}}}},
            ],
        }))
        .unwrap();
        let day =
            |since: SystemTime| since.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() / 86_400;
        assert_eq!(day(updated(&metadata).unwrap()) - day(created(&metadata).unwrap()), 1);
        assert_eq!(updated(&ObjectMeta::default()), None);
    }
}
