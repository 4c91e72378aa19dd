//! The Secrets that the settings name, read from the API.

use async_trait::async_trait;
use kms_core::{Error, ErrorKind, Result, SecretData, SecretSource};

use super::{
    connect::Connection,
    error::Cause,
    names::{KUBERNETES, check_object},
    secrets::Secrets,
};

/// The Secrets of one namespace, which is that of the CephCluster.
#[derive(Clone, Debug)]
pub struct KubernetesSecretSource {
    secrets: Secrets,
}

impl KubernetesSecretSource {
    /// The Secrets of this namespace.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if the text cannot be the name of a namespace.
    pub fn new(client: impl Into<Connection>, kube_namespace: impl Into<String>) -> Result<Self> {
        Ok(Self { secrets: Secrets::new(client, kube_namespace)? })
    }
}

#[async_trait]
impl SecretSource for KubernetesSecretSource {
    async fn secret(&self, name: &str) -> Result<SecretData> {
        check_object("Secret", name)?;
        let kube_namespace = self.secrets.kube_namespace();
        let secret = self.secrets.read(name).await.map_err(|failure| {
            let error = match failure.cause {
                Cause::Absent => Error::new(
                    ErrorKind::NotFound,
                    format!("Secret {name:?} was not found in namespace {kube_namespace:?}"),
                ),
                _ => failure.error,
            };
            error.operation("read Secret").provider(KUBERNETES)
        })?;
        let mut data = SecretData::new(name);
        for (key, value) in &secret.data {
            let Some(bytes) = value.decoded() else {
                return Err(Error::new(
                    ErrorKind::Protocol,
                    format!("key {key:?} of Secret {name:?} in namespace {kube_namespace:?} is not base64"),
                ));
            };
            data.insert(key, bytes);
        }
        Ok(data)
    }
}
