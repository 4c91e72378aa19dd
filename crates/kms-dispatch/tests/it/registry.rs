//! Tests that a registered provider is checked and connected like any other.

use async_trait::async_trait;
use kms_core::{
    ConnectionDetails, ErrorKind, Kek, KmsProviderExt, KmsSpec, ProviderBuilder, Result, SecretSource,
    SecuritySpec,
    config::{Problems, Settings, SettingsSource},
    memory::Memory,
    secret::SecretMap,
};
use kms_dispatch::{Options, Provider, Registry, check, connect};

kms_core::config_keys! {
    /// A setting of the provider of this test.
    pub enum MemoryKey of "Memory" {
        /// Where the keys are. Required.
        Place = "MEMORY_PLACE";
    }
}

#[derive(Debug, Default)]
struct MemoryBuilder(SettingsSource<MemoryKey>);

#[async_trait]
impl ProviderBuilder for MemoryBuilder {
    const TITLE: &'static str = "Memory";

    type Key = MemoryKey;
    type Parsed = String;
    type Credentials = ();
    type Provider = Memory;

    fn source(&self) -> &SettingsSource<MemoryKey> {
        &self.0
    }

    fn source_mut(&mut self) -> &mut SettingsSource<MemoryKey> {
        &mut self.0
    }

    fn parse(&self, settings: &Settings<MemoryKey>, problems: &mut Problems) -> Option<String> {
        settings.required(MemoryKey::Place, problems).map(ToOwned::to_owned)
    }

    async fn read(
        &self,
        _settings: &Settings<MemoryKey>,
        _parsed: Option<&String>,
        _secrets: &dyn SecretSource,
        _problems: &mut Problems,
    ) -> Result<Option<()>> {
        Ok(Some(()))
    }

    async fn assemble(
        self,
        _settings: Settings<MemoryKey>,
        _place: String,
        _credentials: (),
    ) -> Result<Memory> {
        Ok(Memory::new())
    }
}

fn spec(details: &[(&str, &str)]) -> SecuritySpec {
    SecuritySpec::new(KmsSpec::new(ConnectionDetails::from_iter(details.iter().copied()), ""))
}

fn options() -> Options {
    Options::default().with_registry(Registry::new().with::<MemoryBuilder>("memory").unwrap())
}

#[tokio::test]
async fn a_registered_provider_is_reached_by_its_name() {
    let spec = spec(&[("KMS_PROVIDER", " memory\n"), ("MEMORY_PLACE", "here")]);
    let provider = check(&spec, &options()).unwrap();
    assert_eq!(provider, Provider::Own { name: "memory", title: "Memory" });
    let kms = connect(&spec, &SecretMap::new("a test"), options()).await.unwrap();
    let name = "set1-data-0".parse().unwrap();
    assert!(kms.ensure(&name, Kek::generate().unwrap()).await.unwrap().created);
    let error = check(&spec, &Options::default()).unwrap_err();
    assert!(error.to_string().contains("KMS_PROVIDER is not a known provider"), "{error}");
}

#[tokio::test]
async fn its_settings_are_checked_and_its_name_is_suggested() {
    for (details, message) in [
        (&[("KMS_PROVIDER", "memory"), ("MEMORY_PLCE", "x")][..], "did you mean MEMORY_PLACE?"),
        (&[("KMS_PROVIDER", "memory")][..], "MEMORY_PLACE is missing"),
        (&[("KMS_PROVIDER", "memroy")][..], "did you mean memory?"),
    ] {
        let error = connect(&spec(details), &SecretMap::new("a test"), options()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
        assert!(error.to_string().contains(message), "{error}");
        assert_eq!(check(&spec(details), &options()).unwrap_err().kind(), ErrorKind::ConfigInvalid);
    }
}

#[test]
fn a_name_is_registered_once_and_is_not_one_of_ours() {
    for name in ["vault", "kmip", "k8s", "Kubernetes", "", " memory"] {
        let error = Registry::new().with::<MemoryBuilder>(name).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConfigInvalid, "{name}");
    }
    assert!(Registry::new().with::<MemoryBuilder>("a").unwrap().with::<MemoryBuilder>("a").is_err());
}

/// [`Provider::capability`] equals the capability of the provider itself, except for the size of a KEK.
#[cfg(all(feature = "azure", feature = "ibmkp"))]
#[tokio::test]
async fn the_stated_capability_is_that_of_the_provider() {
    let mut secrets = SecretMap::new("a test");
    secrets.insert(kms_core::SecretData::new("api-key").with("IBM_KP_SERVICE_API_KEY", b"a-key".to_vec()));
    let ibm = ConnectionDetails::from_iter([
        ("KMS_PROVIDER", "ibmkeyprotect"),
        ("IBM_KP_SERVICE_INSTANCE_ID", "11111111-2222-3333-4444-555555555555"),
    ]);
    let ibm = SecuritySpec::new(KmsSpec::new(ibm, "api-key"));
    let azure = spec(&[
        ("KMS_PROVIDER", "azure-kv"),
        ("AZURE_VAULT_URL", "https://a.vault.azure.net"),
        ("AZURE_CREDENTIAL", "managed-identity"),
    ]);
    for (provider, spec) in [(Provider::IbmKeyProtect, ibm), (Provider::AzureKeyVault, azure)] {
        let kms = connect(&spec, &secrets, Options::default()).await.unwrap();
        let (own, stated) = (kms.capability(), provider.capability().unwrap());
        assert_eq!(own.with_max_kek_bytes(stated.max_kek_bytes), stated, "{provider}");
    }
}
