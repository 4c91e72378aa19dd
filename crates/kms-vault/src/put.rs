//! Stores a KEK: create, update and overwrite, on both versions of KV.
//!
//! On KV v2, the server decides by `cas`, the version that has to be current. KV v1 has no conditional write: the
//! client reads, compares and writes the key, and a lock serialises the writers of one process.

use kms_core::{Error, ErrorKind, Existing, Freshness, Kek, KeyName, KeyVersion, PutMode, Result, Retry};
use kms_http::http::StatusCode;

use crate::{
    api::{Scope, confirmed, data},
    error::{from_answer, stale},
    get::read,
    mount::Mount,
    stored::{KvVersion, Secret, VersionMetadata, encode_v1, encode_v2, fingerprint, is_malformed},
};

/// The maximum number of attempts of an overwrite on a mount that requires `cas`.
const OVERWRITE_ROUNDS: usize = 3;

/// The outcome of one write.
enum Written {
    Version(KeyVersion),
    /// The server answered 400, in most cases because another version is current.
    Refused(Error),
}

impl Written {
    fn or_refusal(self) -> Result<KeyVersion> {
        match self {
            Self::Version(version) => Ok(version),
            Self::Refused(error) => Err(error),
        }
    }
}

/// Stores a KEK, and returns the version that it got.
pub(crate) async fn put(mount: &Mount, name: &KeyName, kek: &Kek, mode: &PutMode) -> Result<KeyVersion> {
    // Only a mount that is certainly v2 decides between two writers.
    let _lock = match mount.confirmed_version() {
        Some(KvVersion::V2) => None,
        _ => Some(mount.v1_locks.lock(name.as_str()).await),
    };
    // The version of a key that an update expects is of another kind on v1.
    if let PutMode::Update(_) = mode {
        mount.confirm_version().await?;
    }
    mount.as_it_is(move || put_as_it_seems(mount, name, kek, mode)).await
}

async fn put_as_it_seems(mount: &Mount, name: &KeyName, kek: &Kek, mode: &PutMode) -> Result<KeyVersion> {
    match (mount.version().await?, mode) {
        (KvVersion::V2, PutMode::Create) => create_v2(mount, name, kek).await,
        (KvVersion::V2, PutMode::Update(expected)) => update_v2(mount, name, kek, expected).await,
        (KvVersion::V2, PutMode::Overwrite) => overwrite_v2(mount, name, kek).await,
        (KvVersion::V1, mode) => {
            match mode {
                PutMode::Create => drop(check_absent(mount, name, kek).await?),
                PutMode::Update(expected) => check_version_v1(mount, name, expected).await?,
                PutMode::Overwrite => {}
            }
            // The read may have shown that the mount is v2, where this write would have no condition.
            if mount.confirmed_version() == Some(KvVersion::V2) {
                return Err(mount.settle(KvVersion::V2));
            }
            write(mount, name, kek, None).await?.or_refusal()
        }
    }
}

/// Creates on KV v2: the server refuses the write if a version exists.
async fn create_v2(mount: &Mount, name: &KeyName, kek: &Kek) -> Result<KeyVersion> {
    let refused = match write(mount, name, kek, Some(0)).await? {
        Written::Version(version) => return Ok(version),
        Written::Refused(error) => error,
    };
    match check_absent(mount, name, kek).await? {
        // A deleted name keeps its versions, and `cas` has to name the last one.
        Secret::Deleted { version, .. } | Secret::Empty { version: Some(version) } => {
            match write(mount, name, kek, Some(version)).await? {
                Written::Version(version) => Ok(version),
                Written::Refused(refused) => {
                    check_absent(mount, name, kek).await?;
                    Err(stale(refused))
                }
            }
        }
        // A standby with a stale copy has refused a write that the active node accepts. From the read the client has
        // learnt how to reach the active node.
        Secret::Absent => match write(mount, name, kek, Some(0)).await? {
            Written::Version(version) => Ok(version),
            Written::Refused(refused) => Err(stale(refused)),
        },
        Secret::Stored { .. } | Secret::Empty { version: None } => Err(refused),
    }
}

async fn update_v2(mount: &Mount, name: &KeyName, kek: &Kek, expected: &KeyVersion) -> Result<KeyVersion> {
    let number = expected.as_str().parse::<u64>().ok().filter(|number| *number > 0);
    let cas = number.ok_or_else(|| Error::key_changed(name))?;
    if let Written::Version(version) = write(mount, name, kek, Some(cas)).await? {
        return Ok(version);
    }
    match read(mount, name, Freshness::Fresh).await? {
        Secret::Stored { metadata: Some(found), .. } if found.version != cas => Err(Error::key_changed(name)),
        // A standby with a stale copy may have refused the write, as in a create.
        Secret::Stored { .. } => match write(mount, name, kek, Some(cas)).await? {
            Written::Version(version) => Ok(version),
            Written::Refused(refused) => Err(stale(refused)),
        },
        Secret::Deleted { .. } | Secret::Empty { .. } | Secret::Absent => Err(Error::key_not_found(name)),
    }
}

async fn overwrite_v2(mount: &Mount, name: &KeyName, kek: &Kek) -> Result<KeyVersion> {
    let mut cas = None;
    for _ in 0..OVERWRITE_ROUNDS {
        let refused = match write(mount, name, kek, cas).await? {
            Written::Version(version) => return Ok(version),
            Written::Refused(error) => error,
        };
        // The mount may require that every write names the current version.
        let current = read(mount, name, Freshness::Fresh).await?.current_version();
        if cas == Some(current) {
            return Err(stale(refused));
        }
        cas = Some(current);
    }
    Err(Error::key_changed(name).retry(Retry::Always))
}

/// Fails on KV v1 if the key is not of the expected version.
async fn check_version_v1(mount: &Mount, name: &KeyName, expected: &KeyVersion) -> Result<()> {
    match read(mount, name, Freshness::Fresh).await? {
        Secret::Stored { kek, .. } if fingerprint(&kek) == *expected => Ok(()),
        Secret::Stored { .. } => Err(Error::key_changed(name)),
        Secret::Deleted { .. } | Secret::Empty { .. } | Secret::Absent => Err(Error::key_not_found(name)),
    }
}

/// Fails with `AlreadyExists` if a key is stored, and says whether it has the same KEK.
async fn check_absent(mount: &Mount, name: &KeyName, kek: &Kek) -> Result<Secret> {
    match read(mount, name, Freshness::Fresh).await {
        Ok(Secret::Stored { kek: stored, .. }) => {
            let same = if stored.ct_eq(kek) { Existing::Same } else { Existing::Different };
            Err(Error::already_exists(name, same))
        }
        Ok(other) => Ok(other),
        // The stored value is not a KEK, but it occupies the name.
        Err(error) if is_malformed(&error) => {
            Err(Error::already_exists(name, Existing::Unknown).source(error))
        }
        Err(error) => Err(error),
    }
}

/// Writes a secret. On KV v2, `cas` is the version that has to be current.
async fn write(mount: &Mount, name: &KeyName, kek: &Kek, cas: Option<u64>) -> Result<Written> {
    let version = mount.version().await?;
    let body = match version {
        // The form of v2 without a condition.
        KvVersion::V1 if mount.is_nested() => encode_v2(name, kek, None)?,
        KvVersion::V1 => encode_v1(name, kek)?,
        KvVersion::V2 => {
            guard_v2_write(mount, name).await?;
            encode_v2(name, kek, cas)?
        }
    };
    let call = mount.api.write(&mount.data_path(version, name), body, Scope::Data)?;
    let answer = mount.send_write(call).await?;
    match (answer.status, version) {
        (StatusCode::NO_CONTENT, KvVersion::V1) => {
            mount.note_present(name);
            Ok(Written::Version(fingerprint(kek)))
        }
        (StatusCode::OK, KvVersion::V2) => {
            let metadata: VersionMetadata = data(&answer.body)?;
            drop(mount.settle(KvVersion::V2));
            mount.note_present(name);
            Ok(Written::Version(KeyVersion::new(metadata.version.to_string())))
        }
        // A v1 mount has stored the secret where Rook stores it with `kv-v2`.
        (StatusCode::NO_CONTENT, KvVersion::V2)
            if mount.is_nested() && mount.confirm_version().await? == KvVersion::V1 =>
        {
            mount.note_present(name);
            Ok(Written::Version(fingerprint(kek)))
        }
        (StatusCode::NO_CONTENT, KvVersion::V2) => Err(Error::new(
            ErrorKind::Protocol,
            "the server's response to the write has no version; check the proxies in between",
        )
        .retry(Retry::IfIdempotent)),
        (StatusCode::BAD_REQUEST, KvVersion::V2) => Ok(Written::Refused(from_answer(&answer))),
        (StatusCode::NOT_FOUND, version) => {
            mount.not_found(name, version, &answer)?;
            Err(Error::new(ErrorKind::Protocol, "the server responds to a write as if it were a read"))
        }
        (StatusCode::OK, KvVersion::V1) => {
            confirmed(&answer)?;
            Err(from_answer(&answer))
        }
        _ => Err(from_answer(&answer)),
    }
}

/// Makes sure that a v2 write overwrites nothing on a v1 mount, which ignores `cas`. Sends no request once the client
/// knows that the mount is v2.
async fn guard_v2_write(mount: &Mount, name: &KeyName) -> Result<()> {
    if mount.confirmed_version() == Some(KvVersion::V2) {
        return Ok(());
    }
    // As Rook, take `kv-v2` at its word: a policy for v2 paths alone may not show the mount.
    if mount.is_nested() {
        let call = mount.api.read(&mount.data_path(KvVersion::V2, name), Scope::Data)?;
        match mount.send_read(call, Freshness::Any).await {
            Ok(answer) if answer.status == StatusCode::OK => return mount.check_v2_form(&answer.body).await,
            Ok(answer) if answer.status == StatusCode::NOT_FOUND => {
                if let Secret::Deleted { .. } = mount.not_found(name, KvVersion::V2, &answer)? {
                    drop(mount.settle(KvVersion::V2));
                }
                return Ok(());
            }
            Ok(answer) => return Err(from_answer(&answer)),
            // The policy may allow writing without reading.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {}
            Err(error) => return Err(error),
        }
    }
    match mount.confirm_version().await? {
        KvVersion::V2 => Ok(()),
        KvVersion::V1 => Err(mount.settle(KvVersion::V1)),
    }
}
