//! A provider for a double of the test.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures_util::TryStreamExt;
use kms_core::{
    ConnectionDetails, Kek, KeyName, KmsProvider, ProviderBuilder, Result,
    layer::{self, LayerOptions},
    secret::{SecretData, SecretMap},
};
use kms_ibmkp::{IbmKeyProtect, IbmKeyProtectBuilder};
use kms_testkit::fake::ibmkp::{API_KEY, IbmKp};

/// The settings of a provider, as a CephCluster and its Secrets would have them.
#[derive(Clone)]
pub(crate) struct Setup<'a> {
    double: &'a IbmKp,
    api_key: String,
    cluster: String,
    page_size: u32,
    details: Vec<(String, String)>,
    environment: Vec<(String, String)>,
}

impl<'a> Setup<'a> {
    pub(crate) fn on(double: &'a IbmKp) -> Self {
        let setup = Self {
            double,
            api_key: API_KEY.to_owned(),
            cluster: String::new(),
            page_size: 100,
            details: double.details(),
            environment: Vec::new(),
        };
        setup.set("IBM_KP_CACERT", "ca")
    }

    pub(crate) fn set(mut self, key: &str, value: &str) -> Self {
        self.details.retain(|(known, _)| known != key);
        self.details.push((key.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn api_key(mut self, api_key: &str) -> Self {
        api_key.clone_into(&mut self.api_key);
        self
    }

    pub(crate) fn cluster(mut self, cluster: &str) -> Self {
        cluster.clone_into(&mut self.cluster);
        self
    }

    pub(crate) fn page_size(mut self, keys: u32) -> Self {
        self.page_size = keys;
        self
    }

    pub(crate) fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) async fn build(&self) -> IbmKeyProtect {
        self.try_build().await.unwrap()
    }

    pub(crate) async fn try_build(&self) -> Result<IbmKeyProtect> {
        let mut secrets = SecretMap::new("the test");
        let api_key = format!("{}\n", self.api_key).into_bytes();
        secrets.insert(SecretData::new("api-key").with("IBM_KP_SERVICE_API_KEY", api_key));
        secrets.insert(SecretData::new("ca").with("cert", self.double.ca().as_bytes().to_vec()));
        let bad_ca = self.double.pki().bad_ca.cert.clone();
        secrets.insert(SecretData::new("bad-ca").with("cert", bad_ca.into_bytes()));
        let details: ConnectionDetails = self.details.iter().cloned().collect();
        IbmKeyProtectBuilder::new()
            .with_details(&details)
            .with_environment(self.environment.iter().map(|(name, value)| (name.as_str(), value.as_str())))
            .with_token_secret("api-key")
            .with_cluster(&self.cluster)
            .with_page_size(self.page_size)
            .build(&secrets)
            .await
    }
}

/// The standard layers with short pauses.
pub(crate) fn quick(provider: IbmKeyProtect) -> Arc<dyn KmsProvider> {
    let mut options = LayerOptions::default();
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

pub(crate) async fn names(provider: &dyn KmsProvider) -> BTreeSet<String> {
    provider.list().map_ok(|info| info.name.to_string()).try_collect().await.unwrap()
}
