//! Parses addresses, clouds, tenants and client ids from their settings.

use kms_core::config::Problems;
use url::Url;

use crate::config::{AzureConfigKey as Key, ENVIRONMENT};

/// The clouds: name, other names, address of Entra ID, and domain of the vaults.
const CLOUDS: [(&str, &[&str], &str, &str); 3] = [
    (
        "AzurePublicCloud",
        &["AzurePublic", "AzureCloud", "Public"],
        "https://login.microsoftonline.com",
        "vault.azure.net",
    ),
    (
        "AzureUSGovernment",
        &["AzureUSGovernmentCloud", "AzureGovernment", "USGovernment"],
        "https://login.microsoftonline.us",
        "vault.usgovcloudapi.net",
    ),
    ("AzureChinaCloud", &["AzureChina", "China"], "https://login.chinacloudapi.cn", "vault.azure.cn"),
];

/// The domains of the vaults of all clouds.
fn vault_domains() -> impl Iterator<Item = &'static str> {
    CLOUDS.iter().map(|(.., domain)| *domain)
}

/// Finds the address of Entra ID in a cloud, and the domain of its vaults. Without a name, the cloud is the public one.
pub(crate) fn cloud(cloud: Option<&str>, problems: &mut Problems) -> Option<(&'static str, &'static str)> {
    let found = CLOUDS.iter().find(|(name, others, ..)| {
        cloud.is_none_or(|cloud| {
            name.eq_ignore_ascii_case(cloud) || others.iter().any(|other| other.eq_ignore_ascii_case(cloud))
        })
    });
    if found.is_none() {
        problems.add(ENVIRONMENT.problem());
    }
    found.map(|(_, _, authority, domain)| (*authority, *domain))
}

/// Parses the `https` address of a host, without query; only Entra ID's may have a path.
pub(crate) fn host(key: Key, text: &str, problems: &mut Problems) -> Option<Url> {
    let mut wrong = |why: &str| problems.add(format!("{key} {why}"));
    let Ok(url) = Url::parse(text) else {
        wrong("is not a URL such as https://name.vault.azure.net");
        return None;
    };
    let before = |problem: Option<&str>| problem.is_none().then_some(());
    let problem = if url.scheme() != "https" {
        Some("has to begin with https://; the SDK sends no token over plain HTTP")
    } else if !url.username().is_empty() || url.password().is_some() {
        Some("has a user or a password in it; remove them: Entra ID issues the credential")
    } else if url.host_str().is_none_or(str::is_empty) {
        Some("has no host")
    } else if url.path() != "/" && key != Key::AuthorityHost {
        // Entra ID of a private cloud is below a path: `https://login.example/adfs`.
        Some("has a path; remove it: it is the address of the vault or host, not of a secret")
    } else if url.query().is_some() || url.fragment().is_some() {
        Some("has a query or a fragment; remove it")
    } else {
        None
    };
    if let Some(problem) = problem {
        wrong(problem);
    }
    before(problem).map(|()| url)
}

/// Parses a tenant: its id, or one of its domain names.
pub(crate) fn tenant(text: &str, problems: &mut Problems) -> Option<String> {
    let valid = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'-');
    if !valid {
        problems.add(format!("{} is neither a GUID nor a domain name", Key::TenantId));
    }
    valid.then(|| text.to_owned())
}

/// Parses a client id.
pub(crate) fn client(text: &str, problems: &mut Problems) -> Option<String> {
    let valid = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if !valid {
        problems.add(format!("{} is not a GUID", Key::ClientId));
    }
    valid.then(|| text.to_owned())
}

/// The scope of a token if the vault's challenge names no scope: the vaults of the vault's cloud, else of `domain`.
pub(crate) fn default_scope(vault: &Url, domain: &str) -> String {
    let host = vault.host_str().unwrap_or_default();
    let domain = vault_domains().find(|known| within(host, known)).unwrap_or(domain);
    format!("https://{domain}/.default")
}

/// The message for a vault that asks for a token for `scope`, which [`is_scope_for`] refuses.
pub(crate) fn foreign_scope(scope: &str) -> String {
    let resource = scope.strip_suffix("/.default").and_then(|text| Url::parse(text).ok());
    let host = resource.as_ref().and_then(Url::host_str).unwrap_or("an unreadable resource");
    let cloud = CLOUDS.iter().find(|(.., domain)| *domain == host).map(|(name, ..)| *name);
    let remedy = match cloud {
        Some(cloud) => format!("that is {cloud}: set AZURE_ENVIRONMENT to it, and check AZURE_VAULT_URL"),
        None => "that is not Key Vault: check AZURE_VAULT_URL and the proxy".to_owned(),
    };
    format!("the vault asks for a token for {host}, and gets none; {remedy}")
}

/// Whether a host is the domain or one of its subdomains.
fn within(host: &str, domain: &str) -> bool {
    host.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Whether the client may send a token for this scope to the vault: the scope must be for vaults, or for this host.
///
/// The scope comes from the vault's challenge, so an attacker in place of the vault can choose it.
pub(crate) fn is_scope_for(scope: &str, vault: &Url) -> bool {
    let Some(audience) = scope.strip_suffix("/.default").and_then(|text| Url::parse(text).ok()) else {
        return false;
    };
    let (Some(audience), Some(host)) = (audience.host_str(), vault.host_str()) else { return false };
    // A vault of a cloud must ask for a token for the vaults of its own cloud. A vault behind another host name (a
    // proxy, a custom domain) may ask for a token for any cloud's vaults, or for itself.
    match vault_domains().find(|domain| within(host, domain)) {
        Some(domain) => audience == domain,
        None => vault_domains().any(|domain| audience == domain) || within(host, audience),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vault_is_an_https_host() {
        for text in ["https://a.vault.azure.net", "https://a.vault.azure.net/", "https://localhost:8443"] {
            let mut problems = Problems::new();
            assert!(host(Key::VaultUrl, text, &mut problems).is_some() && problems.is_empty(), "{text}");
        }
        for (text, why) in [
            ("a.vault.azure.net", "is not a URL"),
            ("http://a.vault.azure.net", "https://"),
            ("https://a.vault.azure.net/secrets/x", "path"),
            ("https://a.vault.azure.net/?canary", "query"),
            ("https://u:canary@a.vault.azure.net", "user"),
        ] {
            let mut problems = Problems::new();
            assert!(host(Key::VaultUrl, text, &mut problems).is_none());
            let found: Vec<_> = problems.iter().collect();
            assert!(found.len() == 1 && found[0].contains(why), "{text}: {found:?}");
            assert!(!found[0].contains("canary"));
        }
    }

    #[test]
    fn the_authority_of_a_private_cloud_has_a_path() {
        let mut problems = Problems::new();
        let url = host(Key::AuthorityHost, "https://login.private.example/adfs", &mut problems).unwrap();
        assert_eq!((url.path(), problems.is_empty()), ("/adfs", true));
        assert!(host(Key::AuthorityHost, "https://login.private.example/?x", &mut problems).is_none());
    }

    #[test]
    fn a_vault_of_another_cloud_names_resource_and_setting() {
        let text = foreign_scope("https://vault.azure.cn/.default");
        assert!(text.contains("vault.azure.cn") && text.contains("AzureChinaCloud"), "{text}");
        assert!(text.contains("AZURE_ENVIRONMENT"), "{text}");
        let text = foreign_scope("https://management.azure.com/.default");
        assert!(text.contains("management.azure.com") && text.contains("AZURE_VAULT_URL"), "{text}");
    }

    #[test]
    fn a_cloud_is_known_or_the_known_ones_are_listed() {
        let mut problems = Problems::new();
        for (cloud, authority) in [
            (None, "https://login.microsoftonline.com"),
            (Some("AzurePublicCloud"), "https://login.microsoftonline.com"),
            (Some("azureusgovernment"), "https://login.microsoftonline.us"),
            (Some("AZURECHINACLOUD"), "https://login.chinacloudapi.cn"),
        ] {
            assert_eq!(super::cloud(cloud, &mut problems).map(|(authority, _)| authority), Some(authority));
        }
        assert!(problems.is_empty());
        assert_eq!(cloud(Some("AzureGermanCloud"), &mut problems), None);
        assert!(problems.iter().next().unwrap().contains("AzureUSGovernment or AzureChinaCloud"));
    }

    #[test]
    fn a_vault_that_asks_for_nothing_gets_a_token_for_vaults_of_its_cloud() {
        let scope = |vault: &str, domain: &str| default_scope(&Url::parse(vault).unwrap(), domain);
        assert_eq!(scope("https://a.vault.azure.cn", "vault.azure.net"), "https://vault.azure.cn/.default");
        assert_eq!(scope("https://kv.example", "vault.azure.net"), "https://vault.azure.net/.default");
        assert_eq!(scope("https://notvault.azure.cn", "vault.azure.net"), "https://vault.azure.net/.default");
    }

    #[test]
    fn a_token_is_for_a_vault_only() {
        let scope = |scope: &str, vault: &str| is_scope_for(scope, &Url::parse(vault).unwrap());
        let public = "https://vault.azure.net/.default";
        assert!(scope(public, "https://a.vault.azure.net"));
        assert!(
            scope(public, "https://localhost:1")
                && scope("https://localhost:1/.default", "https://localhost:1")
        );
        assert!(scope("https://internal.example/.default", "https://kv.internal.example"));
        assert!(!scope(public, "https://a.vault.azure.cn"));
        assert!(!scope("https://management.azure.com/.default", "https://a.vault.azure.net"));
        assert!(!scope("https://management.azure.com/.default", "https://localhost:1"));
        assert!(!scope("https://example/.default", "https://notexample") && !scope("x", "https://a"));
    }
}
