//! Finds the encrypted OSDs among Deployments.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::Deployment;
use kms_core::{Error, KeyName, Result};

use crate::{
    names::{APP, OSD_APP, OSD_ID_LABEL, PVC_LABEL},
    osd::Osd,
};

/// The OSDs that were found in Deployments.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Discovery {
    /// The encrypted OSDs, ordered by number.
    pub osds: Vec<Osd>,
    /// The number of OSDs on PVCs that are not encrypted.
    pub plain: usize,
    /// The Deployments of OSDs that could not be parsed, or that contradict another one.
    pub faults: Vec<InvalidDeployment>,
}

/// A Deployment of an OSD that could not be parsed, or that contradicts another one.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct InvalidDeployment {
    /// The name of the Deployment.
    pub deployment: String,
    /// The number of its OSD, if the Deployment shows it.
    pub osd_id: Option<u32>,
    /// What is wrong.
    pub error: Error,
}

impl InvalidDeployment {
    /// An error about this Deployment.
    pub fn new(deployment: impl Into<String>, osd_id: Option<u32>, error: Error) -> Self {
        Self { deployment: deployment.into(), osd_id, error }
    }
}

impl Discovery {
    /// The OSD with the key `name`, whose number is `id` if that is known. `None` if no Deployment has it.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if several Deployments have the key, or if the OSD may be one of the [faults](Self::faults): what
    /// devices it has is not known then.
    pub fn osd_of(&self, name: &KeyName, id: Option<u32>) -> Result<Option<&Osd>> {
        let mut with_key = self.osds.iter().filter(|osd| osd.name == *name);
        match (with_key.next(), with_key.next()) {
            (Some(osd), None) => return Ok(Some(osd)),
            (None, _) => {}
            (Some(one), Some(other)) => {
                return Err(Error::config(
                    "several Deployments have an OSD with this key: delete the one that is out of date",
                )
                .context("key", name.as_str())
                .context("deployments", format!("{}, {}", one.deployment, other.deployment)));
            }
        }
        let may_be =
            |fault: &&InvalidDeployment| fault.osd_id.is_none() || id.is_none() || fault.osd_id == id;
        match self.faults.iter().find(may_be) {
            None => Ok(None),
            Some(fault) => Err(Error::config(format!(
                "the Deployment that may be that of this OSD cannot be understood, so the devices of the OSD are not known: \
                 {}; repair the Deployment",
                fault.error.message()
            ))
            .context("key", name.as_str())
            .context("deployment", &fault.deployment)),
        }
    }
}

/// Finds the encrypted OSDs. Skips Deployments that are not of an OSD on a PVC.
///
/// An unparsable Deployment does not block the others; in Rook it fails the reconcile of all OSDs (rook-behaviour W20). If
/// two Deployments have the same OSD number, both are faults: a rotation could open the devices of the wrong one.
pub fn discover<'a>(deployments: impl IntoIterator<Item = &'a Deployment>) -> Discovery {
    let mut search = Search::default();
    deployments.into_iter().for_each(|deployment| search.add(deployment));
    search.finish()
}

/// What one Deployment is.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Found {
    /// An encrypted OSD on PVCs.
    Osd(Box<Osd>),
    /// An OSD on a PVC that is not encrypted.
    Plain,
    /// The Deployment of an OSD on a PVC that could not be parsed.
    Invalid(InvalidDeployment),
}

impl Found {
    /// What a Deployment is; `None` if it is not of an OSD on a PVC.
    pub fn of(deployment: &Deployment) -> Option<Self> {
        if !is_osd_on_pvc(deployment) {
            return None;
        }
        Some(match Osd::of(deployment) {
            Ok(Some(osd)) => Self::Osd(Box::new(osd)),
            Ok(None) => Self::Plain,
            Err(error) => {
                let name = deployment.metadata.name.clone().unwrap_or_default();
                let id = labelled_id(deployment).or_else(|| named_id(&name));
                let error = error.operation("read the Deployment of an OSD").context("deployment", &name);
                Self::Invalid(InvalidDeployment::new(name, id, error))
            }
        })
    }
}

/// A search in Deployments that come one after the other.
#[derive(Debug, Default)]
pub(crate) struct Search {
    found: BTreeMap<u32, Vec<Osd>>,
    discovery: Discovery,
}

impl Search {
    /// Takes the OSD of a Deployment, if it is one on a PVC.
    pub(crate) fn add(&mut self, deployment: &Deployment) {
        self.extend(Found::of(deployment));
    }

    /// Takes a Deployment that could not be parsed.
    pub(crate) fn add_fault(&mut self, fault: InvalidDeployment) {
        self.discovery.faults.push(fault);
    }

    /// What was found, once there are no more Deployments.
    pub(crate) fn finish(self) -> Discovery {
        let Self { found, mut discovery } = self;
        for (id, mut osds) in found {
            match (osds.pop(), osds.is_empty()) {
                (Some(osd), true) => discovery.osds.push(osd),
                (last, _) => {
                    let names: Vec<_> = osds.iter().chain(&last).map(|osd| osd.deployment.clone()).collect();
                    for name in &names {
                        let error = Error::config(format!(
                            "several Deployments belong to the OSD {id}: {}",
                            names.join(", ")
                        ))
                        .operation("read the Deployment of an OSD")
                        .context("deployment", name);
                        discovery.faults.push(InvalidDeployment::new(name, Some(id), error));
                    }
                }
            }
        }
        discovery
    }
}

impl Extend<Found> for Search {
    fn extend<I: IntoIterator<Item = Found>>(&mut self, found: I) {
        for found in found {
            match found {
                Found::Osd(osd) => self.found.entry(osd.id).or_default().push(*osd),
                Found::Plain => self.discovery.plain += 1,
                Found::Invalid(fault) => self.add_fault(fault),
            }
        }
    }
}

fn is_osd_on_pvc(deployment: &Deployment) -> bool {
    let labels = deployment.metadata.labels.as_ref();
    labels.is_some_and(|labels| {
        labels.get(APP).is_some_and(|app| app == OSD_APP) && labels.contains_key(PVC_LABEL)
    })
}

fn labelled_id(deployment: &Deployment) -> Option<u32> {
    deployment.metadata.labels.as_ref()?.get(OSD_ID_LABEL)?.parse().ok()
}

fn named_id(deployment: &str) -> Option<u32> {
    deployment.strip_prefix(OSD_APP)?.strip_prefix('-')?.parse().ok()
}
