//! The Secrets that the settings name, read from the API.

use async_trait::async_trait;
use kms_core::{Error, ErrorKind, Result, SecretData, SecretSource};

use crate::{PROVIDER, api::Secrets, connect::Connection, error::Cause, name::check_object};

/// Gives the Secrets of one namespace: that of the CephCluster.
#[derive(Clone, Debug)]
pub struct KubernetesSecretSource {
    secrets: Secrets,
}

impl KubernetesSecretSource {
    /// The Secrets of this namespace.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if the namespace cannot be one.
    pub fn new(client: impl Into<Connection>, kube_namespace: impl Into<String>) -> Result<Self> {
        let secrets = Secrets { connection: client.into(), kube_namespace: kube_namespace.into() };
        check_object("namespace", &secrets.kube_namespace)?;
        Ok(Self { secrets })
    }
}

#[async_trait]
impl SecretSource for KubernetesSecretSource {
    async fn secret(&self, name: &str) -> Result<SecretData> {
        check_object("Secret", name)?;
        let kube_namespace = &self.secrets.kube_namespace;
        let secret = self.secrets.read(name).await.map_err(|failure| {
            let error = match failure.cause {
                Cause::Absent => Error::new(
                    ErrorKind::NotFound,
                    format!("Secret {name:?} was not found in namespace {kube_namespace:?}"),
                ),
                _ => failure.error,
            };
            error.operation("read Secret").provider(PROVIDER)
        })?;
        let mut data = SecretData::new(name);
        for (key, value) in &secret.data {
            let Some(bytes) = value.decoded() else {
                return Err(Error::new(
                    ErrorKind::Protocol,
                    format!("key {key:?} of Secret {name:?} in namespace {kube_namespace:?} is no base64"),
                ));
            };
            data.insert(key, bytes);
        }
        Ok(data)
    }
}
