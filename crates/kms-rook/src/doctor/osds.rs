//! The rules over the Deployments of OSDs.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::EnvVar;
use kms_core::{Error, SecuritySpec};

use super::{
    codes::{DEPLOYMENT, FAILED_ROTATION, OTHER_SETTINGS},
    commands::Commands,
    diagnosis::{Diagnosis, Finding},
};
use crate::{client::LastRotation, discover::Discovery, env::env, osd::Osd};

/// The outcome that a failed rotation records.
const FAILED: &str = "failed";
/// The setting that names the provider. KMIP has it with a prefix.
const PROVIDER: &str = "KMS_PROVIDER";

/// Checks the Deployments: whether each can be understood, whether its pods get the settings of the CephCluster, and how
/// the last rotation ended that it records.
pub fn osds(found: &Discovery, security: &SecuritySpec, commands: &Commands, diagnosis: &mut Diagnosis) {
    let count = found.osds.len();
    let broken = found.faults.iter().map(|fault| {
        let object = format!("Deployment {}", fault.deployment);
        // The finding names the Deployment itself.
        let error = Error::clone(&fault.error);
        Finding::failed(DEPLOYMENT, object, error, commands.show("deployment", &fault.deployment))
    });
    let plain = match found.plain {
        0 => String::new(),
        plain => format!("; {plain} OSDs on PVCs are not encrypted"),
    };
    diagnosis.add_all(DEPLOYMENT, broken, "Deployments", format!("{count} encrypted OSDs{plain}"));

    if let Ok(wanted) = env(security) {
        let wanted = Settings::of(&wanted.vars);
        let differ = found.osds.iter().filter_map(|osd| {
            let names = Settings::of(&osd.pod.kms).differences(&wanted);
            (!names.is_empty()).then(|| {
                Finding::new(
                    OTHER_SETTINGS,
                    format!("Deployment {}", osd.deployment),
                    format!(
                        "its pods get other values than the CephCluster has: {}; the OSD asks another KMS at its next \
                         start until the operator updates the Deployment",
                        names.join(", ")
                    ),
                    commands.show("deployment", &osd.deployment),
                )
            })
        });
        diagnosis.add_all(OTHER_SETTINGS, differ, "Deployments", "the settings of the CephCluster");
    }

    let failed = found.osds.iter().filter_map(|osd| {
        let last = LastRotation::of(&osd.annotations)?;
        (last.outcome.as_deref() == Some(FAILED)).then(|| failed_rotation(osd, &last, commands))
    });
    diagnosis.add_all(FAILED_ROTATION, failed, "Deployments", "no rotation that is recorded has failed");
}

fn failed_rotation(osd: &Osd, last: &LastRotation, commands: &Commands) -> Finding {
    let before = last.rotated_at.as_ref().map_or_else(
        || "no rotation before it is recorded".to_owned(),
        |time| format!("the last one that succeeded was at {time}"),
    );
    Finding::new(
        FAILED_ROTATION,
        format!("Deployment {}", osd.deployment),
        format!("the last rotation of its key failed; {before}"),
        commands.kubectl(&format!("events --for deployment/{}", osd.deployment)),
    )
}

/// The settings of a container, each with its value, or with the Secret that has it.
struct Settings<'a>(BTreeMap<&'a str, &'a str>);

impl<'a> Settings<'a> {
    fn of(vars: &'a [EnvVar]) -> Self {
        let value = |var: &'a EnvVar| match &var.value_from {
            Some(from) => from.secret_key_ref.as_ref().map_or("", |secret| &secret.name),
            None => var.value.as_deref().unwrap_or_default(),
        };
        Self(vars.iter().map(|var| (var.name.as_str(), value(var))).collect())
    }

    fn provider(&self) -> Option<&'a str> {
        self.0.iter().find(|(name, _)| name.ends_with(PROVIDER)).map(|(_, value)| *value)
    }

    /// The names of the settings that differ. A setting that only one side has does not count, since Rook adds settings
    /// while it reconciles (rook-behaviour W4); only the provider does.
    fn differences(&self, other: &Self) -> Vec<&'a str> {
        let kept_in_kubernetes = |provider: Option<&str>| provider.is_none_or(|name| name == "kubernetes");
        let (ours, theirs) = (self.provider(), other.provider());
        if ours != theirs && !(kept_in_kubernetes(ours) && kept_in_kubernetes(theirs)) {
            return vec![PROVIDER];
        }
        let differs = |(name, value): (&&'a str, &&'a str)| {
            other.0.get(name).is_some_and(|other| other.trim() != value.trim()).then_some(*name)
        };
        self.0.iter().filter_map(differs).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::{from_secret, plain};

    #[test]
    fn settings_differ_by_value_by_secret_and_by_provider() {
        let vault = |address: &str, secret: &str| {
            [
                plain("KMS_PROVIDER", "vault"),
                plain("VAULT_ADDR", address),
                from_secret("VAULT_TOKEN", secret, "token"),
            ]
        };
        let wanted = vault("https://a", "token");
        let differences = |vars: &[EnvVar]| {
            Settings::of(vars)
                .differences(&Settings::of(&wanted))
                .into_iter()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert!(differences(&vault("https://a", "token")).is_empty());
        assert_eq!(differences(&vault("https://b", "other")), ["VAULT_ADDR", "VAULT_TOKEN"]);
        assert_eq!(differences(&[]), [PROVIDER]);
        assert_eq!(differences(&[plain("KMIP_KMS_PROVIDER", "kmip")]), [PROVIDER]);
        // Rook adds this one itself.
        assert!(
            differences(&[&vault("https://a", "token")[..], &[plain("VAULT_BACKEND", "v2")]].concat())
                .is_empty()
        );
        let kubernetes = [plain("KMS_PROVIDER", "kubernetes")];
        assert!(Settings::of(&[]).differences(&Settings::of(&kubernetes)).is_empty());
    }
}
