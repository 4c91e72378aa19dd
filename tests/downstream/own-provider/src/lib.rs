//! A [`KmsProvider`] outside the workspace: a directory with one file for each key.
//!
//! It is an example of a provider for a store that [`kms_core`] does not know.
//! Each file holds the KEK and nothing else. The file's name is the key's name; the file's number and time of writing
//! are the key's version.
//! A file lock serializes writers, across processes too. Readers need no lock, since each write replaces a whole file.

use std::{
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::PathBuf,
};

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use kms_core::{
    Capability, DeleteMode, Error, ErrorKind, Existing, Freshness, Kek, KeyInfo, HistoryMode, PastKek, KeyName, KeyStream,
    KeyVersion, KmsProvider, Probe, ProviderBuilder, PutMode, Result, Retry, SecretSource, Stored,
    UpdateRight,
    config::{Problems, Settings, SettingsSource},
    provider::Deleted,
};

/// The name of the provider in messages.
pub const PROVIDER: &str = "directory";

kms_core::config_keys! {
    /// A setting of the provider.
    pub enum DirectoryConfigKey of "the directory" {
        /// The directory that holds the keys. Required.
        Path = "DIRECTORY_PATH";
    }
}

/// Builds a [`Directory`] from the settings of a CephCluster.
#[derive(Debug, Default)]
pub struct DirectoryBuilder {
    source: SettingsSource<DirectoryConfigKey>,
}

#[async_trait]
impl ProviderBuilder for DirectoryBuilder {
    const TITLE: &'static str = "the directory";

    type Key = DirectoryConfigKey;
    type Parsed = PathBuf;
    type Credentials = ();
    type Provider = Directory;

    fn source(&self) -> &SettingsSource<DirectoryConfigKey> {
        &self.source
    }

    fn source_mut(&mut self) -> &mut SettingsSource<DirectoryConfigKey> {
        &mut self.source
    }

    fn parse(&self, settings: &Settings<DirectoryConfigKey>, problems: &mut Problems) -> Option<PathBuf> {
        settings.required(DirectoryConfigKey::Path, problems).map(PathBuf::from)
    }

    /// Reads the settings only: the directory needs no credentials.
    async fn read(
        &self,
        _: &Settings<DirectoryConfigKey>,
        _: Option<&PathBuf>,
        _: &dyn SecretSource,
        _: &mut Problems,
    ) -> Result<Option<()>> {
        Ok(Some(()))
    }

    async fn assemble(self, _: Settings<DirectoryConfigKey>, path: PathBuf, (): ()) -> Result<Directory> {
        Ok(Directory::new(path))
    }
}

/// KEKs in a directory.
#[derive(Clone, Debug)]
pub struct Directory {
    path: PathBuf,
}

impl Directory {
    /// Uses an existing directory. No I/O.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Runs `work` on a thread that may block.
    async fn blocking<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Self) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let this = self.clone();
        let result = tokio::task::spawn_blocking(move || work(&this)).await;
        result
            .unwrap_or_else(|cause| {
                Err(Error::new(ErrorKind::Unexpected, "the thread has died").source(cause))
            })
            .map_err(|error| error.operation(operation).provider(PROVIDER))
    }

    /// The path of a key. No key name begins with a dot, so the other two files are not keys.
    fn file(&self, name: &KeyName) -> PathBuf {
        self.path.join(name.as_str())
    }

    /// Takes the writers' lock. Closing the file releases it.
    fn lock(&self) -> Result<File> {
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(self.path.join(".lock"));
        let file = file.map_err(failed)?;
        file.lock().map_err(failed)?;
        Ok(file)
    }

    fn read(&self, name: &KeyName) -> Result<Option<Stored>> {
        let file = match File::open(self.file(name)) {
            Ok(file) => file,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound && self.path.is_dir() => return Ok(None),
            Err(cause) => return Err(failed(cause)),
        };
        let metadata = file.metadata().map_err(failed)?;
        // Large enough for every KEK: a growing buffer would leave copies behind.
        let mut bytes = Vec::with_capacity(Kek::MAX_BYTES + 1);
        file.take(Kek::MAX_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
        let kek = Kek::parse_bytes(bytes).map_err(|cause| {
            Error::new(ErrorKind::Protocol, "the file does not hold a KEK")
                .context("key", name.as_str())
                .source(cause)
        })?;
        let version = version(&metadata);
        Ok(Some(Stored::new(kek, version).with_times(None, metadata.modified().ok())))
    }

    fn write(&self, name: &KeyName, kek: &Kek) -> Result<KeyVersion> {
        let new = self.path.join(".new");
        let written = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&new)
            .and_then(|mut file| {
                file.write_all(kek.expose_secret_bytes())?;
                file.sync_all()?;
                file.metadata()
            })
            .and_then(|metadata| fs::rename(&new, self.file(name)).map(|()| metadata))
            .and_then(|metadata| File::open(&self.path)?.sync_all().map(|()| metadata));
        Ok(version(&written.map_err(failed)?))
    }

    fn put_now(&self, name: &KeyName, kek: &Kek, mode: &PutMode) -> Result<KeyVersion> {
        let _lock = self.lock()?;
        let current = self.read(name)?;
        match (mode, current) {
            (PutMode::Create, Some(stored)) => {
                let same = stored.kek.ct_eq(kek);
                Err(Error::already_exists(name, if same { Existing::Same } else { Existing::Different }))
            }
            (PutMode::Update(_), None) => Err(Error::key_not_found(name)),
            (PutMode::Update(expected), Some(stored)) if *expected != stored.version => {
                Err(Error::key_changed(name))
            }
            (PutMode::Create | PutMode::Overwrite | PutMode::Update(_), _) => self.write(name, kek),
        }
    }

    fn delete_now(&self, name: &KeyName) -> Result<Deleted> {
        let _lock = self.lock()?;
        match fs::remove_file(self.file(name)) {
            Ok(()) => Ok(Deleted::Destroyed),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Err(Error::key_not_found(name)),
            Err(cause) => Err(failed(cause)),
        }
    }

    fn list_now(&self) -> Result<Vec<KeyInfo>> {
        let mut keys = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            // Other files are not keys.
            if let Some(Ok(name)) = entry.file_name().to_str().map(KeyName::new) {
                let updated = entry.metadata().and_then(|metadata| metadata.modified()).ok();
                keys.push(KeyInfo::new(name).with_times(None, updated));
            }
        }
        Ok(keys)
    }
}

fn failed(cause: io::Error) -> Error {
    let (kind, retry) = match cause.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            (ErrorKind::PermissionDenied, Retry::Never)
        }
        _ => (ErrorKind::Unavailable, Retry::IfIdempotent),
    };
    Error::new(kind, "the directory cannot be used").retry(retry).source(cause)
}

fn unsupported(what: &str) -> Error {
    Error::new(ErrorKind::Unsupported, format!("this provider cannot {what}")).provider(PROVIDER)
}

/// The version of a key. Each write creates a new file, so storing the same KEK again makes a new version: a write
/// conditional on the previous version must fail.
fn version(metadata: &Metadata) -> KeyVersion {
    KeyVersion::new(format!("{}-{}-{}", metadata.ino(), metadata.mtime(), metadata.mtime_nsec()))
}

#[async_trait]
impl KmsProvider for Directory {
    fn provider(&self) -> &'static str {
        PROVIDER
    }

    fn capability(&self) -> Capability {
        Capability::full().with_soft_delete(false).with_versions(false)
    }

    async fn put(&self, name: &KeyName, kek: &Kek, mode: PutMode) -> Result<KeyVersion> {
        let (name, kek) = (name.clone(), kek.duplicate());
        self.blocking("put", move |this| this.put_now(&name, &kek, &mode)).await
    }

    async fn get(&self, name: &KeyName, _: Freshness) -> Result<Stored> {
        let name = name.clone();
        self.blocking("get", move |this| this.read(&name)?.ok_or_else(|| Error::key_not_found(&name))).await
    }

    async fn delete(&self, name: &KeyName, mode: DeleteMode) -> Result<Deleted> {
        if mode != DeleteMode::Destroy {
            return Err(unsupported("delete a key so that it can be brought back").operation("delete"));
        }
        let name = name.clone();
        self.blocking("delete", move |this| this.delete_now(&name)).await
    }

    fn list(&self) -> KeyStream<'_> {
        let keys = self.blocking("list", Self::list_now);
        Box::pin(stream::once(keys).flat_map(|keys| match keys {
            Ok(keys) => stream::iter(keys).map(Ok).left_stream(),
            Err(error) => stream::iter([Err(error)]).right_stream(),
        }))
    }

    async fn undelete(&self, _: &KeyName) -> Result<KeyVersion> {
        Err(unsupported("bring a deleted key back").operation("undelete"))
    }

    async fn history(&self, name: &KeyName, _: HistoryMode) -> Result<Vec<PastKek>> {
        Ok(vec![self.get(name, Freshness::Fresh).await?.into()])
    }

    async fn retire_superseded(&self, _: &KeyName, _: &KeyVersion) -> Result<usize> {
        Err(unsupported("retire versions, since it keeps none").operation("retire"))
    }

    async fn may_update(&self, names: &[KeyName]) -> Result<Vec<UpdateRight>> {
        Ok(vec![UpdateRight::Granted; names.len()])
    }

    async fn probe(&self, probe: &mut Probe) {
        let keys = self.blocking("probe", |this| Ok(this.list_now()?.len())).await;
        // No step comes after this one.
        let _ended = probe.step("directory", keys.map(|keys| format!("{keys} keys")));
    }
}
