//! A provider for a double of the test.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::{sync::Arc, time::Duration};

use kms_azure::{AzureKeyVault, AzureKeyVaultBuilder};
use kms_core::{
    ConnectionDetails, Kek, KeyName, KmsProvider, ProviderBuilder as _, Result,
    layer::{self, LayerOptions},
    secret::{SecretData, SecretMap},
};
use kms_testkit::fake::azure::Azure;

/// The settings of a provider, as a CephCluster and its Secrets would have them.
#[derive(Clone)]
pub(crate) struct Setup<'a> {
    double: &'a Azure,
    certificate: Vec<u8>,
    page_size: Option<u32>,
    details: Vec<(String, String)>,
}

impl<'a> Setup<'a> {
    pub(crate) fn on(double: &'a Azure) -> Self {
        let certificate = double.service_principal().as_bytes().to_vec();
        let setup = Self { double, certificate, page_size: None, details: double.details() };
        setup.set("AZURE_CACERT", "ca").set("AZURE_CERT_SECRET_NAME", "cert")
    }

    pub(crate) fn set(mut self, key: &str, value: &str) -> Self {
        self.details.retain(|(known, _)| known != key);
        self.details.push((key.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn certificate(mut self, certificate: impl Into<Vec<u8>>) -> Self {
        self.certificate = certificate.into();
        self
    }

    pub(crate) fn page_size(mut self, secrets: u32) -> Self {
        self.page_size = Some(secrets);
        self
    }

    pub(crate) async fn build(&self) -> AzureKeyVault {
        self.try_build().await.unwrap()
    }

    pub(crate) async fn try_build(&self) -> Result<AzureKeyVault> {
        let mut secrets = SecretMap::new("the test");
        secrets.insert(SecretData::new("cert").with("CLIENT_CERT", self.certificate.clone()));
        secrets.insert(SecretData::new("ca").with("cert", self.double.ca().as_bytes().to_vec()));
        let details: ConnectionDetails = self.details.iter().cloned().collect();
        let mut builder = AzureKeyVaultBuilder::new().with_details(&details);
        if let Some(size) = self.page_size {
            builder = builder.with_page_size(size);
        }
        builder.build(&secrets).await
    }
}

/// The standard layers with short pauses.
pub(crate) fn quick(provider: AzureKeyVault) -> Arc<dyn KmsProvider> {
    let mut options = provider.layer_options(LayerOptions::default());
    options.retry.floor = Duration::from_millis(1);
    options.retry.cap = Duration::from_millis(5);
    layer::standard(Arc::new(provider), &options)
}

pub(crate) fn key(name: &str) -> KeyName {
    KeyName::new(name).unwrap()
}

pub(crate) fn kek(text: &str) -> Kek {
    Kek::parse(text.to_owned()).unwrap()
}

/// The name of the secret of a key.
pub(crate) fn secret(name: &str) -> String {
    format!("rook-ceph-osd-encryption-key-{name}")
}
