//! The two sides of a migration, from files.

#[cfg(feature = "k8s-secret")]
use std::collections::BTreeSet;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use kms_core::{Error, KeyName, KmsProvider, Result};
use kms_dispatch::Provider;
use kms_migrate::{Journal, Pair, Place};

use super::change::diff;
use crate::{
    invocation::Invocation,
    kubernetes::Kubernetes,
    settings::{ClusterSettings, Settings as _, read_files},
    target::Target,
};

/// Both sides, before kms has connected to them.
pub(super) struct Sides {
    from: Target,
    to: Target,
    /// The namespace of the CephCluster in Kubernetes, if the user has named it.
    #[cfg_attr(not(feature = "k8s-secret"), expect(dead_code, reason = "Kubernetes cannot be asked"))]
    kube_namespace: Option<String>,
}

/// The connections to both sides.
pub(super) struct Connected {
    from: Arc<dyn KmsProvider>,
    to: Arc<dyn KmsProvider>,
}

impl Connected {
    pub(super) fn pair(&self) -> Pair<'_> {
        Pair { from: &*self.from, to: &*self.to }
    }

    /// The connection to the target.
    pub(super) fn target(&self) -> Arc<dyn KmsProvider> {
        Arc::clone(&self.to)
    }
}

impl Sides {
    /// Reads the files of both sides, and refuses pairs that cannot be migrated.
    ///
    /// If both sides have the same provider, the environment has no settings for either: they would be those of both.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if a side has no settings, if both sides are one place by their settings, or if both keep something
    /// in the same Secrets.
    pub(super) fn read(invocation: &Invocation<'_>, from: &[PathBuf], to: &[PathBuf]) -> Result<Self> {
        let Invocation { global, environment, registry, .. } = invocation;
        if !global.files.is_empty() {
            return Err(Error::config(
                "-f names one KMS, and a migration has two: give the files with --from and --to instead",
            ));
        }
        let settings = |paths: &[PathBuf], side: &'static str| {
            let manifests = read_files(paths, &[])?;
            if manifests.security().is_none() {
                return Err(Error::config(format!(
                    "the files of {side} have no CephCluster and no security block: add one"
                )));
            }
            let settings = ClusterSettings::of_files(manifests, global.cluster.as_ref());
            settings.map(Box::new).map_err(|error| error.context("side", side))
        };
        let (from, to) = (settings(from, "--from")?, settings(to, "--to")?);
        let provider = |side: &ClusterSettings| registry.provider_of(side.security());
        let proxies = environment.only_proxies();
        let shared = provider(&from)? == provider(&to)?;
        let environment = if shared { &proxies } else { *environment };
        let target = |settings| {
            let kubernetes = Kubernetes::new(global, global.timeout);
            Target::new(settings, kubernetes, global, environment, registry)
        };
        let kube_namespace = global.cluster.as_ref().map(|cluster| cluster.kube_namespace.clone());
        let sides = Self { from: target(from), to: target(to), kube_namespace };
        sides.check_places()?;
        Ok(sides)
    }

    fn check_places(&self) -> Result<()> {
        let [from, to] = self.places()?;
        if from == to {
            return Err(Error::config(
                "--from and --to keep keys in the same place: their settings are the same. Name two different places",
            ));
        }
        let uses_secrets = |target: &Target| {
            Ok::<_, Error>(matches!(target.provider()?, Provider::Kmip | Provider::KubernetesSecret))
        };
        let namespaces = (self.from.kube_namespace(), self.to.kube_namespace());
        if let (Some(ours), Some(theirs)) = namespaces
            && ours == theirs
            && uses_secrets(&self.from)?
            && uses_secrets(&self.to)?
        {
            return Err(Error::config(format!(
                "both sides keep the KEK or the identifier of a key in the same Secret of the namespace {ours}, so there is \
                 no moment at which both have the key: migrate to a third KMS first, and from there to the target; or \
                 stop the Rook operator and move OSD by OSD with kms get and kms put"
            )));
        }
        Ok(())
    }

    /// The namespace of the cluster, if it is known.
    pub(super) fn kube_namespace(&self) -> Option<&str> {
        self.from.kube_namespace()
    }

    /// Both sides' settings: the source's and the target's.
    #[cfg(feature = "k8s-secret")]
    pub(super) fn targets(&self) -> [&Target; 2] {
        [&self.from, &self.to]
    }

    /// What a journal notes of both sides.
    pub(super) fn places(&self) -> Result<[Place; 2]> {
        Ok([place(&self.from)?, place(&self.to)?])
    }

    /// Opens the journal of an earlier step.
    pub(super) fn journal(&self, path: &Path) -> Result<Journal> {
        let [from, to] = self.places()?;
        Journal::open(path, &from, &to)
    }

    /// Whether the target keeps the bytes that a KEK stands for in base64, and not its text.
    pub(super) fn target_decodes_base64(&self) -> Result<bool> {
        Ok(matches!(self.to.provider()?, Provider::IbmKeyProtect | Provider::Kmip))
    }

    /// Connects to both sides, to read.
    pub(super) async fn connect(&self) -> Result<Connected> {
        let from = self.from.connect().await.map_err(|error| error.context("side", "--from"))?;
        let to = self.to.connect().await.map_err(|error| error.context("side", "--to"))?;
        Ok(Connected { from, to })
    }

    /// Connects to both sides, to store keys at the target.
    pub(super) async fn connect_to_write(&self) -> Result<Connected> {
        let from = self.from.connect().await.map_err(|error| error.context("side", "--from"))?;
        let to = self.to.connect_to_write().await.map_err(|error| error.context("side", "--to"))?;
        Ok(Connected { from, to })
    }

    /// The change of the CephCluster.
    pub(super) fn change(&self) -> Result<Vec<String>> {
        let [from, to] = [self.from.provider()?, self.to.provider()?].map(Provider::settings);
        let is_credential = |name: &str| {
            // Of a registered provider it is not known which settings are credentials.
            let (Some(from), Some(to)) = (&from, &to) else { return true };
            from.iter().chain(to).any(|setting| setting.is_secret && setting.is_named(name))
        };
        Ok(diff(self.from.security(), self.to.security(), &is_credential))
    }

    /// What deserves attention although nothing fails.
    pub(super) fn notes(&self) -> Result<Vec<String>> {
        let mut notes = Vec::new();
        if self.to.provider()? == Provider::Kmip && !self.to.has_kubernetes() {
            notes.push(
                "the identifiers of the target's KMIP objects are not kept in Secrets, so Rook finds no key there: name the \
                 Kubernetes of the cluster (--kubeconfig, --context)"
                    .to_owned(),
            );
        }
        Ok(notes)
    }

    /// Fails if keys of the journal are rotated: the source must not change between the comparison and the switch.
    pub(super) async fn check_rotation(&self, journal: &Journal) -> Result<()> {
        let names: Vec<KeyName> = journal.entries().map(|(name, _)| name.clone()).collect();
        let mut stops = Vec::new();
        self.add_rotation(&names, &mut stops).await?;
        if stops.is_empty() { Ok(()) } else { Err(Error::config(stops.join("; "))) }
    }

    /// Adds what says that keys are rotated: a rotation during the migration makes copies stale.
    pub(super) async fn add_rotation(&self, names: &[KeyName], stops: &mut Vec<String>) -> Result<()> {
        if self.from.rotates() {
            stops.push(
                "keyRotation.enabled of --from is true, and a rotation makes copies stale: set it to false until the \
                 migration is finished"
                    .to_owned(),
            );
        }
        self.add_cron_jobs(names, stops).await
    }

    #[cfg(feature = "k8s-secret")]
    async fn add_cron_jobs(&self, names: &[KeyName], stops: &mut Vec<String>) -> Result<()> {
        let Some(kube_namespace) = &self.kube_namespace else { return Ok(()) };
        let jobs = self.from.kubernetes().rook(kube_namespace).await?.rotations().await?;
        let active = jobs.iter().filter(|job| !job.is_suspended);
        let rotated: BTreeSet<_> = active.filter_map(|job| job.key.as_deref()).collect();
        let count = names.iter().filter(|name| rotated.contains(name.as_str())).count();
        if count > 0 {
            stops.push(format!(
                "CronJobs rotate {count} of the keys, and a rotation makes copies stale: suspend them until the migration is \
                 finished"
            ));
        }
        Ok(())
    }

    #[cfg(not(feature = "k8s-secret"))]
    #[expect(clippy::unused_async, reason = "the build with Kubernetes awaits")]
    async fn add_cron_jobs(&self, _: &[KeyName], _: &mut Vec<String>) -> Result<()> {
        Ok(())
    }
}

/// What a journal notes of a side: its settings, without credentials.
fn place(target: &Target) -> Result<Place> {
    let provider = target.provider()?;
    let settings = target.public_settings(provider);
    let name = if provider.feature().is_empty() { provider.as_str() } else { provider.feature() };
    Ok(Place::new(name, target.kube_namespace()).with_settings(settings))
}
