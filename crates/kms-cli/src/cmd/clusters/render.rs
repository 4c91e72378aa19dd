//! `kms render`: prints the part of a pod's manifest that a `security` block requires (rook-behaviour §13).

use clap::{Subcommand, ValueEnum};
use k8s_openapi::api::core::v1::{EnvVar, Volume, VolumeMount};
use kms_core::Result;
use kms_rook::{KmsEnv, Mounted, RgwPurpose, env, rgw_volume, volumes};
use serde::Serialize;
use tracing::warn;

use super::source::Source;
use crate::{
    args::{Files, Global},
    exit::Exit,
    output::{Format, Output},
};

/// The arguments.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Render,
}

/// The parts of a pod.
#[derive(Debug, Subcommand)]
enum Render {
    /// Print the environment, as Rook gives it to its pods
    Env {
        #[command(flatten)]
        files: Files,
    },
    /// Print the volumes with their mounts, as Rook gives them to its pods
    Volumes {
        #[command(flatten)]
        files: Files,
        /// The volume of an object store, instead of that of an OSD
        #[arg(long, value_name = "PURPOSE")]
        object_store: Option<Purpose>,
    },
}

/// What an object store needs a KMS for.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Purpose {
    /// spec.security.kms of a CephObjectStore
    SseKms,
    /// spec.security.s3 of a CephObjectStore
    SseS3,
}

impl Args {
    pub(crate) fn files(&mut self) -> &mut Files {
        match &mut self.command {
            Render::Env { files } | Render::Volumes { files, .. } => files,
        }
    }
}

/// The environment.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct EnvDocument {
    #[cfg_attr(test, schemars(with = "Vec<serde_json::Map<String, serde_json::Value>>"))]
    env: Vec<EnvVar>,
}

/// The volumes.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct VolumesDocument {
    #[cfg_attr(test, schemars(with = "Vec<serde_json::Map<String, serde_json::Value>>"))]
    volumes: Vec<Volume>,
    #[cfg_attr(test, schemars(with = "Vec<serde_json::Map<String, serde_json::Value>>"))]
    volume_mounts: Vec<VolumeMount>,
}

/// Prints the environment or the volumes.
pub(crate) async fn run(args: Args, global: &Global, output: &mut Output<'_>) -> Result<Exit> {
    let Source { cluster, .. } = Source::read(global).await?;
    let security = &cluster.security;
    // kms reports a fault of the block here; otherwise a pod would fail to start because of it.
    kms_dispatch::check(security, &kms_dispatch::Options::default())?;
    match args.command {
        Render::Env { files: _ } => {
            let KmsEnv { vars, withheld, .. } = env(security)?;
            if !withheld.is_empty() {
                warn!(
                    "connectionDetails has credentials in clear, which are left out here; move them into a Secret: {}",
                    withheld.join(", ")
                );
            }
            if vars.is_empty() {
                warn!("there are no variables: with this security block keys are in Kubernetes Secrets");
            }
            print(&EnvDocument { env: vars }, output)?;
        }
        Render::Volumes { files: _, object_store } => {
            let found = match object_store {
                None => volumes(security)?,
                Some(Purpose::SseKms) => rgw_volume(&security.kms, RgwPurpose::SseKms),
                Some(Purpose::SseS3) => rgw_volume(&security.kms, RgwPurpose::SseS3),
            };
            if found.is_none() {
                warn!("there are no volumes: the security block names no Secrets with certificates");
            }
            let (volumes, volume_mounts) =
                found.map(|Mounted { volume, mount, .. }| (volume, mount)).into_iter().unzip();
            print(&VolumesDocument { volumes, volume_mounts }, output)?;
        }
    }
    Ok(Exit::Done)
}

fn print(document: &impl Serialize, output: &mut Output<'_>) -> Result<()> {
    match output.format() {
        Format::Json => output.json(document),
        Format::Text => output.yaml(&[document]),
    }
}
