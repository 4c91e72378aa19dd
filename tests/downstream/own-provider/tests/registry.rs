//! A CephCluster selects the provider by its `KMS_PROVIDER`.

use kms_core::{ConnectionDetails, Freshness, Kek, KmsProviderExt, KmsSpec, SecuritySpec, secret::SecretMap};
use kms_dispatch::{Options, Registry, check, connect};
use own_provider::DirectoryBuilder;

fn options() -> Options {
    Options::default().with_registry(Registry::new().with::<DirectoryBuilder>("directory").unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_security_block_names_the_registered_provider() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    let details = ConnectionDetails::from_iter([("KMS_PROVIDER", "directory"), ("DIRECTORY_PATH", path)]);
    let spec = SecuritySpec::new(KmsSpec::new(details, ""));
    assert_eq!(check(&spec, &options()).unwrap().as_str(), "directory");
    let kms = connect(&spec, &SecretMap::new("a test"), options()).await.unwrap();
    let name = "set1-data-0".parse().unwrap();
    let ensured = kms.ensure(&name, Kek::generate().unwrap()).await.unwrap();
    assert!(ensured.created && directory.path().join("set1-data-0").is_file());
    let stored = kms.get(&name, Freshness::Fresh).await.unwrap();
    assert!(stored.kek.ct_eq(&ensured.stored.kek));
    // The layers add operation, provider and key to the error.
    let error = kms.get(&"nosuch".parse().unwrap(), Freshness::Fresh).await.unwrap_err();
    assert_eq!(error.to_string(), "directory: get: there is no such key (key: nosuch)");
}

#[test]
fn settings_of_the_provider_are_checked() {
    let details = ConnectionDetails::from_iter([("KMS_PROVIDER", "directory"), ("DIRECTORY_PAHT", "/x")]);
    let error = check(&SecuritySpec::new(KmsSpec::new(details, "")), &options()).unwrap_err();
    assert!(error.to_string().contains("did you mean DIRECTORY_PATH?"), "{error}");
}
