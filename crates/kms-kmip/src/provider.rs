//! Keys on a KMIP server.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt,
    sync::{Arc, Mutex, atomic::AtomicUsize},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream};
use kms_core::{
    Capability, DeleteMode, Error, ErrorKind, Freshness, Guarantee, Kek, KeyInfo, KeyName, KeyStream,
    KeyVersion, KmsProvider, KmsProviderExt as _, Probe, PutMode, Result, Stored, UpdateRight,
    layer::LayerOptions, provider::Deleted,
};

use crate::{
    PROVIDER,
    client::Client,
    error::{Class, Fault},
    index::{KeyIndex, check_identifier},
    object::{NO_CLUSTER, Object, arrange, cluster_filter},
    put::{dangling, entry},
    store::decoded,
};

/// A KMIP server that keeps KEKs as Rook does, and better.
pub struct Kmip {
    pub(crate) client: Client,
    pub(crate) index: Option<Arc<dyn KeyIndex>>,
    /// `namespace/name` of the CephCluster.
    pub(crate) cluster: Option<String>,
    /// The certificate that we show, for a probe.
    pub(crate) certificate: Vec<u8>,
    /// Which of the shapes of an object the server takes; none of them until it has taken one.
    pub(crate) shape: AtomicUsize,
    /// What does not change of objects that were looked at.
    pub(crate) known: Mutex<HashMap<String, Object>>,
    /// Objects that were replaced where the server takes nothing that would tell so.
    pub(crate) replaced: Mutex<BTreeMap<KeyName, Vec<String>>>,
}

impl fmt::Debug for Kmip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client, index, cluster, certificate: _, shape: _, known: _, replaced: _ } = self;
        f.debug_struct("Kmip")
            .field("client", client)
            .field("index", index)
            .field("cluster", cluster)
            .finish_non_exhaustive()
    }
}

impl Kmip {
    pub(crate) fn new(
        client: Client,
        index: Option<Arc<dyn KeyIndex>>,
        cluster: Option<String>,
        certificate: Vec<u8>,
    ) -> Self {
        Self {
            client,
            index,
            cluster,
            certificate,
            shape: AtomicUsize::new(usize::MAX),
            known: Mutex::default(),
            replaced: Mutex::default(),
        }
    }

    /// Makes room in the options of the layers for `READ_TIMEOUT` and `WRITE_TIMEOUT`: a try may not be cut off
    /// before the limit that was set for one answer in it.
    #[must_use]
    pub fn layer_options(&self, mut options: LayerOptions) -> LayerOptions {
        let limits = &self.client.limits;
        // Resolving, connecting, the handshake, and one exchange.
        let longest = limits
            .connect
            .saturating_mul(3)
            .saturating_add(limits.read.unwrap_or_default())
            .saturating_add(limits.write.unwrap_or_default());
        options.attempt_timeout = options.attempt_timeout.max(longest);
        options.retry.deadline = options.retry.deadline.max(longest);
        options
    }

    /// Whether objects of that cluster are ours.
    pub(crate) fn is_ours(&self, cluster: &str) -> bool {
        self.cluster.as_deref().is_none_or(|ours| ours == cluster || cluster == NO_CLUSTER)
    }

    async fn read(&self, name: &KeyName, freshness: Freshness) -> Result<Stored> {
        if let Some(index) = &self.index
            && let Some(entry) = entry(index.as_ref(), name).await?
        {
            return match self.fetch(&entry.uid).await {
                Ok(kek) => Ok(Stored::new(kek, KeyVersion::new(entry.uid.as_str()))),
                Err(fault) if fault.class == Class::Gone => Err(dangling(name, &entry.uid)),
                Err(fault) => Err(fault.error),
            };
        }
        let mut fresh = freshness == Freshness::Fresh;
        loop {
            let line = self.line(name, fresh).await?.ok_or_else(|| Error::key_not_found(name))?;
            let current = line.current;
            match self.fetch(&current.uid).await {
                Ok(kek) => {
                    // The first object is gone once it has been retired, so that only this one's time is known.
                    return Ok(Stored::new(kek, KeyVersion::new(current.uid))
                        .with_times(None, time(current.initial_date)));
                }
                // Destroyed since it was looked at.
                Err(fault) if fault.class == Class::Gone && !fresh => fresh = true,
                Err(fault) if fault.class == Class::Gone => return Err(Error::key_not_found(name)),
                Err(fault) => return Err(fault.error),
            }
        }
    }

    /// The keys of the index, and those on the server that have no entry in it.
    async fn keys(&self) -> Result<Vec<KeyInfo>> {
        let mut keys = Vec::new();
        let mut listed = BTreeSet::new();
        let mut indexed = HashSet::new();
        if let Some(index) = &self.index {
            for (name, entry) in index.list().await? {
                // A KEK in place of an identifier must not come out as a version.
                if check_identifier(&entry.uid).is_err() {
                    continue;
                }
                let version = KeyVersion::new(entry.uid.as_str());
                indexed.insert(entry.uid.as_str().to_owned());
                keys.push(KeyInfo::new(name.clone()).with_version(version));
                listed.insert(name);
            }
        }
        let mut uids = self.uids().await?;
        uids.retain(|uid| !indexed.contains(uid));
        let mut names: BTreeMap<KeyName, Vec<Object>> = BTreeMap::new();
        for object in self.objects(uids, true).await? {
            for key in object.keys.iter().filter(|key| !listed.contains(key)) {
                names.entry(key.clone()).or_default().push(object.clone());
            }
        }
        for (name, objects) in names {
            match arrange(&name, self.cluster.as_deref(), objects) {
                Ok(Some(line)) => keys.push(
                    KeyInfo::new(name)
                        .with_times(None, time(line.current.initial_date))
                        .with_version(KeyVersion::new(line.current.uid)),
                ),
                Ok(None) => {}
                // It is there, though nobody can say in which version.
                Err(_) => keys.push(KeyInfo::new(name)),
            }
        }
        Ok(keys)
    }

    /// The identifiers of all objects that may be ours, each once.
    async fn uids(&self) -> Result<Vec<String>> {
        let unless_refused = |result| match result {
            Ok(uids) => Ok(uids),
            // It does not know the attribute, or says so that there is nothing.
            Err(fault) => match fault {
                Fault { class: Class::Form | Class::Gone, .. } => Ok(Vec::new()),
                Fault { error, .. } => Err(error),
            },
        };
        let mut uids = Vec::new();
        // From 2.0 on the cluster may stand in one piece with something else (`Label::OneApplication`).
        if let Some(cluster) = &self.cluster
            && self.client.version().await?.major == 1
        {
            uids = unless_refused(self.locate(&[cluster_filter(cluster)]).await)?;
        }
        if uids.is_empty() {
            uids = unless_refused(self.locate(&[]).await)?;
        }
        uids.sort_unstable();
        uids.dedup();
        Ok(uids)
    }
}

/// A time of the server.
fn time(seconds: Option<i64>) -> Option<SystemTime> {
    let seconds = u64::try_from(seconds?).ok().filter(|seconds| *seconds > 0)?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl KmsProvider for Kmip {
    fn provider(&self) -> &'static str {
        PROVIDER
    }

    /// With an index, the index decides between two writers. Without one nobody does: each looks, registers, looks
    /// again, and takes its own object back if it is not the oldest. Two writers of which neither sees the other's
    /// object can still both succeed.
    fn capability(&self) -> Capability {
        let guarantee = if self.index.is_some() { Guarantee::Atomic } else { Guarantee::CheckThenAct };
        Capability::full()
            .with_create(guarantee)
            .with_update(guarantee)
            .with_soft_delete(false)
            .with_base64_only(true)
    }

    /// Stores a KEK. A future that is dropped may leave one object too many on the server, which never counts.
    async fn put(&self, name: &KeyName, kek: &Kek, mode: PutMode) -> Result<KeyVersion> {
        let result = async {
            self.check_put(kek, &mode)?;
            let material = decoded(kek)?;
            match mode {
                PutMode::Create => self.create(name, kek, &material).await,
                PutMode::Overwrite => self.overwrite(name, &material).await,
                PutMode::Update(expected) => self.update(name, &material, expected.as_str()).await,
            }
        };
        let uid = result
            .await
            .map_err(|error| error.operation("put").provider(PROVIDER).context("key", name.as_str()))?;
        Ok(KeyVersion::new(uid))
    }

    async fn get(&self, name: &KeyName, freshness: Freshness) -> Result<Stored> {
        self.read(name, freshness)
            .await
            .map_err(|error| error.operation("get").provider(PROVIDER).context("key", name.as_str()))
    }

    async fn delete(&self, name: &KeyName, mode: DeleteMode) -> Result<Deleted> {
        let result = async {
            if mode != DeleteMode::Destroy {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    "an object that was destroyed is gone for good, there is no soft deletion",
                ));
            }
            self.remove(name).await.map(|()| Deleted::Destroyed)
        };
        result
            .await
            .map_err(|error| error.operation("delete").provider(PROVIDER).context("key", name.as_str()))
    }

    fn list(&self) -> KeyStream<'_> {
        let keys = stream::once(self.keys()).flat_map(|listed| match listed {
            Ok(keys) => stream::iter(keys.into_iter().map(Ok)).left_stream(),
            Err(error) => stream::iter([Err(error)]).right_stream(),
        });
        Box::pin(keys.map(|info| info.map_err(|error: Error| error.operation("list").provider(PROVIDER))))
    }

    async fn retire_superseded(&self, name: &KeyName, current: &KeyVersion) -> Result<usize> {
        self.retire(name, current.as_str())
            .await
            .map_err(|error| error.operation("retire").provider(PROVIDER).context("key", name.as_str()))
    }

    /// Nothing that the server offers shows it: only an update does.
    async fn may_update(&self, names: &[KeyName]) -> Result<Vec<UpdateRight>> {
        Ok(vec![UpdateRight::Unknown; names.len()])
    }

    async fn probe(&self) -> Probe {
        self.run_probe().await
    }
}
