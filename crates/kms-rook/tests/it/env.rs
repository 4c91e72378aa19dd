//! Compares environment and volumes with Rook's for the same blocks: the output of its operator, and the examples of
//! its unit tests (rook-behaviour §17.1).

use crate::common::{CASES, fixture, security};
use kms_core::{ConnectionDetails, KmsSpec, SecuritySpec};
use kms_rook::{RgwPurpose, env, rgw_volume, volumes};
use kms_source::PodEnvironment;
use serde_json::{Value, json};

fn block(token_secret: &str, details: &[(&str, &str)]) -> SecuritySpec {
    SecuritySpec::new(kms(token_secret, details))
}

fn kms(token_secret: &str, details: &[(&str, &str)]) -> KmsSpec {
    KmsSpec::new(ConnectionDetails::from_iter(details.iter().copied()), token_secret)
}

/// The variables as `NAME=value`, or `NAME<secret/key` for one from a Secret.
fn vars(security: &SecuritySpec) -> Vec<String> {
    let text = |var: k8s_openapi::api::core::v1::EnvVar| match (var.value, var.value_from) {
        (Some(value), None) => format!("{}={value}", var.name),
        (None, Some(source)) => {
            let reference = source.secret_key_ref.unwrap();
            format!("{}<{}/{}", var.name, reference.name, reference.key)
        }
        other => panic!("{other:?}"),
    };
    env(security).unwrap().vars.into_iter().map(text).collect()
}

#[test]
fn the_environment_is_rooks_for_every_block_of_its_operator() {
    for case in CASES {
        let found = env(&security(case)).unwrap();
        assert_eq!(serde_json::to_value(&found.vars).unwrap(), fixture(case, "env.json"), "{case}");
        assert!(found.withheld.is_empty(), "{case}");
    }
}

#[test]
fn the_same_block_gives_the_same_whatever_was_asked_before() {
    for case in CASES {
        let security = security(case);
        let details = || -> Vec<(String, String)> {
            let all = security.kms.connection_details.iter();
            all.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
        };
        let before = details();
        let first = (env(&security).unwrap(), volumes(&security).unwrap());
        for other in CASES {
            env(&crate::common::security(other)).unwrap();
        }
        assert_eq!((env(&security).unwrap(), volumes(&security).unwrap()), first, "{case}");
        assert_eq!(details(), before, "{case}");
    }
}

#[test]
fn a_pod_understands_the_environment() {
    for case in CASES {
        let wanted = security(case);
        let found = env(&wanted).unwrap().vars;
        let pairs =
            found.iter().map(|var| (var.name.as_str(), var.value.as_deref().unwrap_or("from a Secret")));
        let pod = PodEnvironment::new(pairs, std::path::Path::new("/"), kms_dispatch::keys::is_setting);
        let mut given: Vec<_> = pod.security().kms.connection_details.iter().collect();
        // The settings that Rook adds and rewrites (rook-behaviour §13.1).
        given.retain(|(name, value)| *name != "VAULT_BACKEND_PATH" || *value != "secret/");
        let names =
            |all: Vec<(&str, &str)>| all.iter().map(|(name, _)| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(names(given), names(wanted.kms.connection_details.iter().collect()), "{case}");
        assert!(pod.passed_over().next().is_none(), "{case}");
    }
}

#[test]
fn vault_gets_a_path_and_the_files_of_its_tls_settings() {
    let addr = ("VAULT_ADDR", "a");
    let vault = ("KMS_PROVIDER", "vault");
    assert_eq!(
        vars(&block("vault-token", &[vault, addr])),
        ["KMS_PROVIDER=vault", "VAULT_ADDR=a", "VAULT_BACKEND_PATH=secret/", "VAULT_TOKEN<vault-token/token"]
    );
    assert_eq!(
        vars(&block("vault-token", &[vault, addr, ("VAULT_BACKEND_PATH", "rook")])),
        ["KMS_PROVIDER=vault", "VAULT_ADDR=a", "VAULT_BACKEND_PATH=rook", "VAULT_TOKEN<vault-token/token"]
    );
    assert_eq!(
        vars(&block(
            "vault-token",
            &[vault, addr, ("VAULT_BACKEND_PATH", " "), ("VAULT_CACERT", "my-secret")]
        )),
        [
            "KMS_PROVIDER=vault",
            "VAULT_ADDR=a",
            "VAULT_BACKEND_PATH=secret/",
            "VAULT_CACERT=/etc/vault/vault.ca",
            "VAULT_TOKEN<vault-token/token"
        ]
    );
    // An empty TLS setting counts as absent, and blanks around the provider's name do not matter.
    assert_eq!(
        vars(&block("", &[("KMS_PROVIDER", " vault"), ("VAULT_CLIENT_KEY", " ")])),
        ["KMS_PROVIDER= vault", "VAULT_BACKEND_PATH=secret/"]
    );
}

#[test]
fn the_keys_of_ibm_and_kmip_come_from_their_secret() {
    let ibm = block("t", &[("IBM_KP_SERVICE_API_KEY", "s3cr3t"), ("KMS_PROVIDER", "ibmkeyprotect")]);
    assert_eq!(vars(&ibm), ["IBM_KP_SERVICE_API_KEY<t/IBM_KP_SERVICE_API_KEY", "KMS_PROVIDER=ibmkeyprotect"]);
    let kmip = block(
        "t",
        &[
            ("CA_CERT", "pem"),
            ("CLIENT_CERT", "pem"),
            ("CLIENT_KEY", "s3cr3t"),
            ("KMIP_ENDPOINT", "h:5696"),
            ("KMS_PROVIDER", "kmip"),
            ("TLS_SERVER_NAME", "n"),
        ],
    );
    assert_eq!(
        vars(&kmip),
        ["KMIP_KMIP_ENDPOINT=h:5696", "KMIP_KMS_PROVIDER=kmip", "KMIP_TLS_SERVER_NAME=n"]
    );
}

#[test]
fn no_credential_is_in_the_environment_in_clear() {
    let azure = [
        ("KMS_PROVIDER", "azure-kv"),
        ("AZURE_CLIENT_SECRET", "s3cr3t"),
        ("azure_client_cert_password", "s3cr3t"),
    ];
    let vault = [("KMS_PROVIDER", "vault"), ("VAULT_TOKEN", "s3cr3t"), ("VAULT_APPROLE_SECRET_ID", "s3cr3t")];
    for (security, withheld) in [
        (block("", &azure), ["AZURE_CLIENT_SECRET", "azure_client_cert_password"]),
        (block("", &vault), ["VAULT_APPROLE_SECRET_ID", "VAULT_TOKEN"]),
    ] {
        let found = env(&security).unwrap();
        assert_eq!(found.withheld, withheld);
        assert!(!format!("{found:?}").contains("s3cr3t"), "{found:?}");
    }
}

#[test]
fn every_setting_that_is_a_credential_is_known_as_one() {
    use kms_core::config::ConfigKey;
    use kms_dispatch::keys::{AzureConfigKey, IbmKpConfigKey, KmipConfigKey, VaultConfigKey};

    fn secrets<K: ConfigKey>(provider: &str) -> Vec<(String, String)> {
        let keys = K::ALL.iter().filter(|key| key.is_secret());
        let names = keys.flat_map(|key| key.aliases().iter().copied().chain([key.as_str()]));
        names.map(|name| (provider.to_owned(), name.to_owned())).collect()
    }
    let all = [
        secrets::<AzureConfigKey>("azure-kv"),
        secrets::<IbmKpConfigKey>("ibmkeyprotect"),
        secrets::<KmipConfigKey>("kmip"),
        secrets::<VaultConfigKey>("vault"),
    ]
    .concat();
    for known in ["AZURE_CLIENT_SECRET", "CLIENT_KEY", "IBM_KP_SERVICE_API_KEY", "VAULT_TOKEN"] {
        assert!(all.iter().any(|(_, name)| name == known), "{known}: {all:?}");
    }
    for (provider, name) in all {
        let security = block("", &[("KMS_PROVIDER", &provider), (&name, "s3cr3t")]);
        assert!(!format!("{:?}", env(&security).unwrap()).contains("s3cr3t"), "{name}");
    }
}

#[test]
fn a_block_that_names_no_known_provider_is_refused() {
    for details in [&[("KMS_PROVIDER", "Vault")][..], &[("VAULT_ADDR", "a")]] {
        assert!(env(&block("", details)).is_err());
        assert!(volumes(&block("", details)).is_err());
    }
}

/// The sources of a projected volume as `secret:key>file`.
fn sources(volume: &Value) -> Vec<String> {
    let text = |source: &Value| {
        let secret = &source["secret"];
        let items = secret["items"].as_array().unwrap().iter().map(|item| {
            assert_eq!(item["mode"], 0o444);
            format!("{}:{}>{}", secret["name"], item["key"], item["path"]).replace('"', "")
        });
        items.collect::<Vec<_>>()
    };
    volume["projected"]["sources"].as_array().unwrap().iter().flat_map(text).collect()
}

#[test]
fn the_volumes_are_those_of_rooks_deployments() {
    for case in CASES {
        let deployment = fixture(case, "osd-deployment.json");
        let all = deployment.pointer("/spec/template/spec/volumes").unwrap().as_array().unwrap();
        let rooks = all.iter().find(|volume| ["vault", "kmip"].contains(&volume["name"].as_str().unwrap()));
        let ours = volumes(&security(case)).unwrap();
        assert_eq!(
            ours.as_ref().map(|ours| serde_json::to_value(&ours.volume).unwrap()),
            rooks.cloned(),
            "{case}"
        );
        if let Some(ours) = ours {
            let name = rooks.unwrap()["name"].as_str().unwrap();
            let mount = json!({"name": name, "mountPath": format!("/etc/{name}"), "readOnly": true});
            assert_eq!(serde_json::to_value(&ours.mount).unwrap(), mount, "{case}");
        }
    }
}

#[test]
fn an_object_store_gets_the_token_too() {
    let ca = ("VAULT_CACERT", "ca-secret");
    let cert = ("VAULT_CLIENT_CERT", "cert-secret");
    let key = ("VAULT_CLIENT_KEY", "key-secret");
    let (ca_file, cert_file, key_file, token_file) = (
        "ca-secret:cert>vault.ca",
        "cert-secret:cert>vault.crt",
        "key-secret:key>vault.key",
        "token-secret:token>vault.token",
    );
    type Case<'a> = (&'a [(&'a str, &'a str)], &'a str, &'a [&'a str]);
    let cases: [Case<'_>; 7] = [
        (&[ca], "", &[ca_file]),
        (&[ca, cert], "", &[ca_file, cert_file]),
        (&[key, cert, ca], "", &[ca_file, cert_file, key_file]),
        (&[ca], "token-secret", &[ca_file, token_file]),
        (&[key], "token-secret", &[key_file, token_file]),
        (&[ca, cert, key], "token-secret", &[ca_file, cert_file, key_file, token_file]),
        (&[], "token-secret", &[token_file]),
    ];
    for (details, token_secret, wanted) in cases {
        for (purpose, name, path) in [
            (RgwPurpose::SseKms, "vaultssekms", "/etc/vault/ssekms"),
            (RgwPurpose::SseS3, "vaultsses3", "/etc/vault/sses3"),
        ] {
            let found = rgw_volume(&kms(token_secret, details), purpose).unwrap();
            assert_eq!(sources(&serde_json::to_value(&found.volume).unwrap()), wanted);
            assert_eq!((found.volume.name.as_str(), found.mount.name.as_str()), (name, name));
            assert_eq!((found.mount.mount_path.as_str(), found.mount.read_only), (path, Some(true)));
        }
    }
    assert_eq!(rgw_volume(&kms("", &[("VAULT_ADDR", "a")]), RgwPurpose::SseKms), None);
}
