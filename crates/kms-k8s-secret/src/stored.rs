//! Encodes and decodes the content of a key's Secret (rook-behaviour §3).

use std::{borrow::Cow, collections::BTreeMap, time::SystemTime};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kms_core::{Error, ErrorKind, Kek, KeyInfo, KeyVersion, Result, Retry};
use kms_kube::{Base64, Object, Owner, Secret};

use crate::name::{ANNOTATION, LABEL, Names};

/// The type of the Secrets that Rook writes.
pub(crate) const TYPE: &str = "kubernetes.io/rook";

/// The key of the data that holds the KEK.
pub(crate) const DATA_KEY: &str = "dmcrypt-key";

/// The number of random bytes in an annotation that marks a write.
const NONCE_BYTES: usize = 8;

/// The annotation of a Secret whose `dmcrypt-key` is not a KEK, but the Unique Identifier of a KEK on a KMIP server.
///
/// Rook keeps both in Secrets of the same name and shape (rook-behaviour §3), so this crate marks the identifiers.
pub const KMIP_ANNOTATION: &str = "kms.ceph.rook.io/kmip-unique-identifier";

/// A Secret with this value, as Rook writes it.
pub(crate) fn new_secret(
    kube_namespace: &str,
    owner: Option<&Owner>,
    names: &Names,
    value: Base64,
) -> Secret {
    let labels = BTreeMap::from([(LABEL.to_owned(), names.label.clone())]);
    let annotations = names.annotation.clone().map(|pvc| BTreeMap::from([(ANNOTATION.to_owned(), pvc)]));
    let metadata = ObjectMeta {
        name: Some(names.secret.clone()),
        namespace: Some(kube_namespace.to_owned()),
        labels: Some(labels),
        annotations,
        owner_references: owner.map(|owner| vec![owner.reference()]),
        ..ObjectMeta::default()
    };
    Secret::new(metadata, TYPE, BTreeMap::from([(DATA_KEY.to_owned(), value)]))
}

/// Sets an annotation to a value that no earlier write has set.
///
/// The API server makes no new resource version of an object that is written unchanged. A new version is what makes a
/// conditional write that is still in flight fail.
pub(crate) fn mark(secret: &mut Secret, annotation: &str) -> Result<()> {
    let mut nonce = [0; NONCE_BYTES];
    getrandom::fill(&mut nonce).map_err(|_error| {
        Error::new(ErrorKind::Unexpected, "the operating system provides no random numbers")
    })?;
    let annotations = secret.metadata.annotations.get_or_insert_default();
    annotations.insert(annotation.to_owned(), format!("{:016x}", u64::from_be_bytes(nonce)));
    Ok(())
}

/// The KEK in a Secret.
///
/// The type of the Secret is not checked: a Secret that was restored by `kubectl create secret generic` opens its device,
/// as it does with Rook.
pub(crate) fn read_kek(secret: &Secret, names: &Names) -> Result<Kek> {
    check_meaning(secret, names)?;
    // `Kek` reports ConfigInvalid for a bad value of the caller; a bad stored value is Protocol.
    Kek::from_stored_bytes(read_value(secret)?)
        .map_err(|error| invalid(format!("the {DATA_KEY} of the Secret is not a KEK: {}", error.message())))
}

/// The bytes in a Secret, in a buffer of the exact size.
pub(crate) fn read_value(secret: &Secret) -> Result<Vec<u8>> {
    let Some(value) = secret.data.get(DATA_KEY) else {
        let keys: Vec<_> = secret.data.keys().map(String::as_str).collect();
        return Err(invalid(if keys.is_empty() {
            format!("the Secret has no {DATA_KEY}; it has no data at all")
        } else {
            format!("the Secret has no {DATA_KEY}; it has: {}", keys.join(", "))
        }));
    };
    value.decoded().ok_or_else(|| invalid(format!("the {DATA_KEY} of the Secret is not base64")))
}

/// Checks that the Secret holds the KEK of this key.
fn check_meaning(secret: &Secret, names: &Names) -> Result<()> {
    if has_annotation(&secret.metadata, KMIP_ANNOTATION) {
        return Err(invalid(
            "the Secret holds the identifier of a key on a KMIP server instead of a KEK: the cluster that wrote it \
             uses KMIP",
        ));
    }
    check_name(secret, names)
}

/// Checks that the Secret belongs to this key, and not to another key with the same shortened name.
pub(crate) fn check_name(secret: &Secret, names: &Names) -> Result<()> {
    let annotated = secret.metadata.annotations.as_ref().and_then(|all| all.get(ANNOTATION));
    if names.secret_is_short && annotated != names.annotation.as_ref() {
        return Err(invalid("the Secret has the name of this key, but its annotation names another key")
            .context(ANNOTATION, annotated.map_or("none", String::as_str)));
    }
    Ok(())
}

/// Checks that this provider may change or delete the Secret.
pub(crate) fn check_ours(secret: &Secret, names: &Names) -> Result<()> {
    check_type(secret)?;
    check_meaning(secret, names)
}

/// Checks that the Secret has the type that Rook writes.
pub(crate) fn check_type(secret: &Secret) -> Result<()> {
    let secret_type = secret.secret_type.as_str();
    if secret_type != TYPE {
        return Err(invalid(format!(
            "the Secret is of type {secret_type:?} instead of {TYPE:?}, so it is left unchanged"
        )));
    }
    Ok(())
}

/// Checks that the data of the Secret can change.
pub(crate) fn check_mutable(secret: &Secret) -> Result<()> {
    if secret.immutable == Some(true) {
        return Err(Error::config(
            "the Secret is immutable, so its data cannot change: save it as a manifest, delete it, and apply the manifest \
             without immutable: true",
        ));
    }
    Ok(())
}

/// Checks from the response to a delete that the Secret is gone.
pub(crate) fn check_gone(object: Object) -> Result<()> {
    match object.kind.as_str() {
        "Status" => return Ok(()),
        "PartialObjectMetadata" | "Secret" => {}
        _ => {
            return Err(invalid(
                "the response of the API server does not confirm that the Secret is deleted",
            ));
        }
    }
    let Some(finalizers) = object.metadata.finalizers else { return Ok(()) };
    Err(Error::new(
        ErrorKind::Unavailable,
        "the Secret is marked as deleted, but stays until its finalizers are removed",
    )
    .context("finalizers", finalizers.join(", ")))
}

/// The list entry of a Secret; `None` if the Secret does not hold a KEK of this provider.
pub(crate) fn key_info(metadata: &ObjectMeta) -> Option<KeyInfo> {
    if has_annotation(metadata, KMIP_ANNOTATION) {
        return None;
    }
    let info = KeyInfo::new(Names::key_of(metadata)?).with_times(created(metadata), updated(metadata));
    Some(match version(metadata) {
        Ok(version) => info.with_version(version),
        Err(_) => info,
    })
}

/// The version of a key: the resource version of its Secret.
pub(crate) fn version(metadata: &ObjectMeta) -> Result<KeyVersion> {
    let version = metadata.resource_version.as_deref().filter(|version| !version.is_empty());
    // A write has been applied at this point, but the caller needs the version to continue, so it must read back.
    version.map(KeyVersion::new).ok_or_else(|| {
        invalid("the response of the API server has no resource version").retry(Retry::IfIdempotent)
    })
}

/// When the Secret was created.
pub(crate) fn created(metadata: &ObjectMeta) -> Option<SystemTime> {
    metadata.creation_timestamp.as_ref().map(|time| time.0.into())
}

/// When the KEK was last written, as the API server has recorded it.
pub(crate) fn updated(metadata: &ObjectMeta) -> Option<SystemTime> {
    let field = format!("/f:data/f:{DATA_KEY}");
    let writers =
        metadata.managed_fields.iter().flatten().filter(|entry| {
            entry.fields_v1.as_ref().is_some_and(|fields| fields.0.pointer(&field).is_some())
        });
    writers.filter_map(|entry| entry.time.as_ref()).map(|time| time.0).max().map(SystemTime::from)
}

fn has_annotation(metadata: &ObjectMeta, annotation: &str) -> bool {
    metadata.annotations.as_ref().is_some_and(|all| all.contains_key(annotation))
}

fn invalid(message: impl Into<Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Protocol, message)
}

#[cfg(test)]
mod tests {
    use kms_core::KeyName;
    use serde_json::{Value, json};

    use super::*;

    fn secret(value: Value) -> Secret {
        serde_json::from_value(value).unwrap()
    }

    fn names(pvc: &str) -> Names {
        Names::of(&KeyName::new(pvc).unwrap())
    }

    #[test]
    fn a_value_that_is_not_a_kek_is_never_returned() {
        let read = |value: Value| read_kek(&secret(value), &names("a")).unwrap_err();
        let cases = [
            (json!({"metadata": {}}), "it has no data at all"),
            (json!({"metadata": {}, "data": {"b": "QQ==", "c": ""}}), "it has: b, c"),
            (json!({"metadata": {}, "data": {"dmcrypt-key": ""}}), "is not a KEK: the KEK is empty"),
            (json!({"metadata": {}, "data": {"dmcrypt-key": "?"}}), "is not base64"),
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
    fn bytes_that_are_not_text_are_a_kek_as_in_rook() {
        let stored = secret(json!({"metadata": {}, "data": {"dmcrypt-key": "/wBrCg=="}}));
        assert_eq!(read_kek(&stored, &names("a")).unwrap().expose_secret_bytes(), b"\xff\0k\n");
    }

    #[test]
    fn a_line_break_at_the_end_is_part_of_the_passphrase() {
        let stored = secret(json!({"metadata": {}, "data": {"dmcrypt-key": "QQo="}}));
        assert_eq!(read_kek(&stored, &names("a")).unwrap().expose_secret_text().unwrap(), "A\n");
    }

    #[test]
    fn a_shortened_name_counts_with_its_annotation_only() {
        let with = |pvc: Option<&str>| {
            let annotations = pvc.map_or_else(|| json!({}), |pvc| json!({ANNOTATION: pvc}));
            let value = json!({"metadata": {"annotations": annotations}, "data": {"dmcrypt-key": "QQ=="}});
            read_kek(&secret(value), &names("Upper"))
        };
        assert_eq!(with(Some("Upper")).unwrap().expose_secret_text().unwrap(), "A");
        assert!(with(Some("Other")).unwrap_err().to_string().contains("annotation names another key"));
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
