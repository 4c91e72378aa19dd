//! `kms doctor`: makes every check in one run, and says what to do about each finding.
//!
//! A check has a code, and a page in `docs/doctor/`. The rules over the objects of a cluster are in `kms_rook::doctor`; the
//! steps to the KMS are those of `kms check`.

mod accounts;
mod catalogue;
mod cluster;
mod connection;
mod devices;
pub(crate) mod document;
mod escrow;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use clap::ValueEnum;
use kms_core::{Error, KmsProvider, Result};
use kms_rook::{
    doctor::{
        Code, Commands, Diagnosis, Finding,
        codes::{self, CREDENTIALS, DELETING, PLAIN_SETS, RIGHTS, SETTINGS},
        keys,
    },
    inventory::{Facts, Gap, Inventory, Source},
};

use self::{
    catalogue::{Circumstances, applicable},
    document::{Document, KeyExchangeDocument, Shown},
};
use crate::{
    args::{Files, Global, duration},
    cmd::{
        clusters::{
            accounts::{Account, account_of_operator},
            commands::{commands, shown},
        },
        devices::DATA_DIR,
        keys::list::collect,
    },
    exit::Exit,
    invocation::Invocation,
    kubernetes::Kubernetes,
    output::{Output, chain},
    settings,
    steps::Steps,
    target::{Target, provider_name},
};

#[cfg(test)]
pub(crate) use self::document::tests::printed;

/// The arguments.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) files: Files,

    /// Show only what is not in order
    #[arg(long)]
    short: bool,

    /// Leave a check out of the output and the exit code, by its code: KMS0804
    #[arg(long, value_name = "CODE", value_delimiter = ',', value_parser = catalogue::code)]
    skip: Vec<Code>,

    /// The state from which a finding makes the exit code 1
    #[arg(long, value_name = "STATE", value_enum, default_value_t)]
    fail_on: FailOn,

    /// A key whose current version is older than this is a finding: 90d, 2160h
    #[arg(long, value_name = "AGE", value_parser = duration)]
    older_than: Option<Duration>,

    /// Make a TLS connection to the KMS a finding if its key exchange is not post-quantum
    #[arg(long)]
    post_quantum: bool,

    /// An escrow of the keys, to be looked at without an identity
    #[arg(long, value_name = "DIR")]
    escrow: Option<PathBuf>,

    /// The service account of the Rook operator [default: rook-ceph-system in the namespace of the cluster]
    #[arg(long, value_name = "NAMESPACE[/ACCOUNT]", value_parser = account_of_operator)]
    operator: Option<Account>,

    /// The folder where Rook keeps the data of OSDs on this host; may be repeated
    #[arg(long, value_name = "DIR", default_value = DATA_DIR)]
    data_dir: Vec<PathBuf>,
}

/// The findings that `--fail-on` means.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub(crate) enum FailOn {
    /// Errors
    #[default]
    Error,
    /// Errors and warnings
    Warning,
}

/// The source of the OSDs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Scope {
    /// The API server.
    Kubernetes,
    /// Deployments in files, or none.
    Files,
}

/// What all checks share.
struct Doctor<'a> {
    invocation: &'a Invocation<'a>,
    /// The options of the call, with the name of the CephCluster once it is known.
    global: Global,
    commands: Commands,
    diagnosis: Diagnosis,
    /// The key exchanges with the KMS.
    key_exchanges: Vec<KeyExchangeDocument>,
}

/// Makes every check that applies. A check that fails keeps only those from being made that need it.
pub(crate) async fn run(args: Args, invocation: &Invocation<'_>, output: &mut Output<'_>) -> Result<Exit> {
    let Args { files: _, short, skip, fail_on, older_than, post_quantum, escrow, operator, data_dir } = args;
    let global = invocation.global.clone();
    let folders = devices::Folders::find(&data_dir, &global);
    let scope = if global.cluster.is_some() { Scope::Kubernetes } else { Scope::Files };
    let (diagnosis, key_exchanges) = (Diagnosis::new(), Vec::new());
    let mut doctor = Doctor { invocation, commands: commands(&global), global, diagnosis, key_exchanges };
    let target = doctor.target().await;
    let kms = match &target {
        Some(target) => doctor.connect(target, post_quantum).await,
        None => None,
    };
    let mut facts = Facts::default();
    if let Some(kms) = &kms {
        doctor.list(&**kms, &mut facts).await;
    }
    if let Some(folder) = &escrow {
        let are_listed = doctor.diagnosis.has_made(codes::KEYS) && !doctor.diagnosis.has_found(codes::KEYS);
        doctor.escrow(folder, target.as_ref(), are_listed.then_some(&facts.keys));
    }
    let seen = match (&target, doctor.global.cluster.clone()) {
        (Some(target), Some(named)) => {
            Some(doctor.cluster(target, &named, operator.as_ref(), &mut facts).await)
        }
        (Some(target), None) => doctor.files(target, &mut facts),
        (None, _) => None,
    };
    let has_osds = scope == Scope::Kubernetes || seen.is_some();
    // Without the keys or the OSDs there is no inventory, and the finding that keeps them is named.
    if kms.is_some() && seen.is_some() {
        let inventory = Inventory::new(facts, SystemTime::now(), older_than);
        keys(&inventory, older_than.is_some(), &doctor.commands, &mut doctor.diagnosis);
    }
    let osds = seen.as_ref().map(|found| found.osds.as_slice()).unwrap_or_default();
    let host = folders.is_host();
    doctor.devices(folders, kms.as_deref(), osds).await;
    let provider = target.as_ref().and_then(|target| Some(target.provider().ok()?.as_str()));
    let catalogue = applicable(Circumstances {
        kubernetes: scope == Scope::Kubernetes,
        osds: has_osds,
        host,
        age: older_than.is_some(),
        escrow: escrow.is_some(),
    });
    let entries = doctor.diagnosis.settle(&catalogue, &skip);
    let shown = Shown {
        provider,
        cluster: doctor.global.cluster.as_ref().map(shown),
        key_exchanges: doctor.key_exchanges,
        skipped: skip,
        fail_on,
        short,
        verbose: doctor.global.verbose > 0,
    };
    Document::new(entries, &shown).show(&shown, output)
}

impl Doctor<'_> {
    /// Finds the settings, after a look at the API server if they come from there. `None` if there are none.
    async fn target(&mut self) -> Option<Target> {
        let Invocation { environment, registry, .. } = self.invocation;
        let kubernetes = Kubernetes::new(&self.global, self.global.timeout);
        if self.global.cluster.is_some() && !self.api_server(&kubernetes).await {
            return None;
        }
        let found = async {
            if let Some(named) = self.global.cluster.as_ref().filter(|named| named.name.is_empty()) {
                self.global.cluster = Some(kubernetes.only_cluster(&named.kube_namespace).await?);
                self.commands = commands(&self.global);
            }
            settings::find(&self.global, environment, registry, &kubernetes).await
        };
        match found.await {
            Ok(settings) => Some(Target::new(settings, kubernetes, &self.global, environment, registry)),
            Err(error) => {
                self.settings_failed(error);
                None
            }
        }
    }

    fn settings_failed(&mut self, error: Error) {
        // Where nothing names a KMS, a check says no more than this finding.
        let is_named = self.global.cluster.is_some() || !self.global.files.is_empty();
        let next = if is_named { "check --read-only" } else { "doctor --cluster NAMESPACE" };
        let next = self.commands.kms(next);
        self.diagnosis.add(Finding::failed(SETTINGS, self.source(), error, next));
    }

    /// The source of the settings, in words.
    fn source(&self) -> String {
        match &self.global.cluster {
            Some(named) => format!("CephCluster {}", shown(named)),
            None if self.global.files.is_empty() => "the environment".to_owned(),
            None => "the files".to_owned(),
        }
    }

    /// Connects to the KMS. `None` if the settings cannot be used, or a step failed.
    async fn connect(&mut self, target: &Target, post_quantum: bool) -> Option<Arc<dyn KmsProvider>> {
        let (steps, connected) = Steps::to(target).await;
        let name = target.provider().map_or("the KMS", |provider| provider_name(provider.as_str()));
        let has_failed = steps.error().is_some();
        let next = self.commands.kms("check --read-only");
        let made = &steps.key_exchanges;
        connection::key_exchanges(made, name, post_quantum, &next, &mut self.diagnosis);
        self.key_exchanges = made.iter().map(|made| KeyExchangeDocument::of(made, name)).collect();
        connection::of_kms().add(steps, name, &next, &mut self.diagnosis);
        self.settings_warnings(target);
        connected.filter(|_| !has_failed).map(|connected| connected.kms)
    }

    /// The warnings about settings that are not errors.
    fn settings_warnings(&mut self, target: &Target) {
        let object = self.source();
        let show = self.commands.kubectl("get cephcluster -o yaml");
        let plain = target.warnings().into_iter().map(|text| Finding::new(PLAIN_SETS, &object, text, &show));
        self.diagnosis.add_all(PLAIN_SETS, plain, &object, "no device set says otherwise");
        let deleting = target.is_being_deleted().then(|| {
            let text = "it is being deleted; if its keys are Kubernetes Secrets, they are deleted with it";
            Finding::new(DELETING, &object, text, &show)
        });
        self.diagnosis.add_all(DELETING, deleting, &object, "it is not being deleted");
    }

    /// Lists the keys.
    async fn list(&mut self, kms: &dyn KmsProvider, facts: &mut Facts) {
        let failed = match collect(kms).await {
            Ok((keys, cut)) => {
                facts.keys = keys;
                cut
            }
            Err(error) => Some(error),
        };
        match failed {
            None => {
                let count = format!("{} keys", facts.keys.len());
                self.diagnosis.pass(codes::KEYS, kms.provider(), count);
            }
            Some(error) => {
                facts.gaps.push(Gap::failed(Source::Keys, chain(&error), error.clone()));
                let next = self.commands.kms("list");
                self.diagnosis.add(Finding::failed(codes::KEYS, kms.provider(), error, next));
            }
        }
    }
}

/// A check that has found nothing of its own while the check before it has passed.
const FOLLOWING: [(Code, Code); 4] = [
    (codes::TLS, codes::CERTIFICATE),
    (codes::API_TLS, codes::API_CERTIFICATE),
    (codes::LOGIN, CREDENTIALS),
    (codes::READ, RIGHTS),
];
