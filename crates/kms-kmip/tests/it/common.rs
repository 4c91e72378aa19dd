//! A provider for a server of the test.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use kms_core::{
    ConnectionDetails, Kek, KeyIndex, KeyName, ProviderBuilder as _, Result,
    secret::{SecretData, SecretMap},
};
use kms_kmip::{Kmip, KmipBuilder};
use kms_testkit::servers::{Pki, pki::Identity};

pub(crate) const CLUSTER: &str = "rook-ceph/rook-ceph";

/// The settings of a provider, as a CephCluster and its Secret would have them.
#[derive(Clone)]
pub(crate) struct Setup {
    ca: String,
    client: Identity,
    details: Vec<(String, String)>,
    index: Option<Arc<dyn KeyIndex>>,
    cluster: Option<String>,
}

impl Setup {
    pub(crate) fn on(endpoint: &str, pki: &Pki) -> Self {
        Self {
            ca: pki.ca.cert.clone(),
            client: pki.client1.clone(),
            details: vec![("KMIP_ENDPOINT".to_owned(), endpoint.to_owned())],
            index: None,
            cluster: Some(CLUSTER.to_owned()),
        }
    }

    pub(crate) fn set(mut self, key: &str, value: &str) -> Self {
        self.details.retain(|(known, _)| known != key);
        self.details.push((key.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn endpoint(self, endpoint: &str) -> Self {
        self.set("KMIP_ENDPOINT", endpoint)
    }

    pub(crate) fn version(self, version: &str) -> Self {
        self.set("KMIP_PROTOCOL_VERSION", version)
    }

    pub(crate) fn index(mut self, index: Arc<dyn KeyIndex>) -> Self {
        self.index = Some(index);
        self
    }

    pub(crate) fn cluster(mut self, cluster: Option<&str>) -> Self {
        self.cluster = cluster.map(ToOwned::to_owned);
        self
    }

    pub(crate) fn client(mut self, client: &Identity) -> Self {
        self.client = client.clone();
        self
    }

    pub(crate) fn ca(mut self, ca: &str) -> Self {
        ca.clone_into(&mut self.ca);
        self
    }

    pub(crate) async fn build(&self) -> Kmip {
        self.try_build().await.unwrap()
    }

    pub(crate) async fn try_build(&self) -> Result<Kmip> {
        let mut secrets = SecretMap::new("the test");
        secrets.insert(
            SecretData::new("kmip-token")
                .with("CA_CERT", self.ca.clone().into_bytes())
                .with("CLIENT_CERT", self.client.cert.clone().into_bytes())
                .with("CLIENT_KEY", self.client.key.clone().into_bytes()),
        );
        let details: ConnectionDetails = self.details.iter().cloned().collect();
        let mut builder = KmipBuilder::new().with_details(&details).with_token_secret("kmip-token");
        if let Some(cluster) = &self.cluster {
            builder = builder.with_cluster(cluster);
        }
        if let Some(index) = &self.index {
            builder = builder.with_index(Arc::clone(index));
        }
        builder.build(&secrets).await
    }

    /// A line of the private key, which no log may show.
    pub(crate) fn client_key(&self) -> String {
        self.client.key.lines().nth(1).expect("a line of base64").to_owned()
    }
}

pub(crate) fn key(name: &str) -> KeyName {
    KeyName::new(name).unwrap()
}

pub(crate) fn kek() -> Kek {
    Kek::generate().unwrap()
}
