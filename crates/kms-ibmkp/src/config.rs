//! The settings of Key Protect, as operators know them (rook-behaviour §1.8).

use kms_core::config::{Facts, Stricter};

/// What this provider refuses and Rook takes, beside the settings that are not supported.
#[rustfmt::skip]
pub const STRICTER: &[Stricter] = &[
    Stricter { setting: "IBM_KP_BASE_URL", input: ("IBM_KP_BASE_URL", "http://kms.example"), rook: "connects without TLS", reason: "is an http address, which would expose API key and keys on the network", why: "the network could read the IAM token and the keys", remedy: "use https, or allow http with IBM_KP_ALLOW_HTTP: \"true\" (for one call of kms, and not for pods: --allow-http)" },
    Stricter { setting: "IBM_KP_TOKEN_URL", input: ("IBM_KP_TOKEN_URL", "http://iam.example/identity/token"), rook: "connects without TLS", reason: "is an http address, which would expose API key and keys on the network", why: "the network could read the API key", remedy: "use https, or allow http with IBM_KP_ALLOW_HTTP: \"true\" (for one call of kms, and not for pods: --allow-http)" },
    Stricter { setting: "IBM_KP_BASE_URL", input: ("IBM_KP_BASE_URL", "https://user:password@eu-de.kms.cloud.ibm.com"), rook: "takes the address as it is", reason: "has user information in it", why: "credentials in an address end up in logs", remedy: "put credentials into the token Secret" },
    Stricter { setting: "IBM_KP_BASE_URL", input: ("IBM_BASE_URL", "https://us-east.kms.cloud.ibm.com"), rook: "reads `IBM_KP_BASE_URL` alone", reason: "is given twice, with different values", why: "keys could go to another region than meant", remedy: "remove one of them" },
];

kms_core::config_keys! {
    /// A setting of Key Protect.
    pub enum IbmKpConfigKey of "Key Protect" {
        /// GUID of the Key Protect instance.
        ServiceInstanceId = "IBM_KP_SERVICE_INSTANCE_ID" { values: "a GUID", default: "none; required", rook: Facts::SAME, example: "11111111-2222-3333-4444-555555555555" };
        /// API key of IAM. Better kept in the token Secret, under this same name.
        ServiceApiKey = secret "IBM_KP_SERVICE_API_KEY" { values: "an API key", default: "the key of this name of the token Secret", rook: Facts::SAME, example: "example" };
        /// Address of Key Protect in the region of the instance.
        BaseUrl = "IBM_KP_BASE_URL" | "IBM_BASE_URL" { values: "a URL", default: "`https://us-south.kms.cloud.ibm.com`", rook: "reads it in the same way; its documentation says `IBM_BASE_URL`, which its code does not read", example: "https://eu-de.kms.cloud.ibm.com" };
        /// Address of the token endpoint of IAM, with its path.
        TokenUrl = "IBM_KP_TOKEN_URL" | "IBM_TOKEN_URL" { values: "a URL", default: "`https://iam.cloud.ibm.com/oidc/token`", rook: "reads it in the same way; its documentation says `IBM_TOKEN_URL`, which its code does not read", example: "https://iam.cloud.ibm.com/identity/token" };
        /// Key ring of the keys. Without it new keys go into the ring `default`, and reads find keys of every ring.
        KeyRing = "IBM_KP_KEY_RING" { values: "an id", default: "the ring `default` for new keys, every ring for reads", rook: Facts::UNKNOWN, example: "rook" };
        /// CA certificates for both hosts: name of a Secret with the key `cert`, or a file.
        CaCert = "IBM_KP_CACERT" { values: Facts::SECRET_OR_FILE, default: "the CAs of the operating system", rook: Facts::UNKNOWN, example: "ibm-ca" };
        /// Whether `http://` addresses are allowed. Anyone on the network path can then read the API key and the keys.
        AllowHttp = "IBM_KP_ALLOW_HTTP" { values: Facts::BOOLEAN, default: "`false`", rook: "does not know it, and always allows `http://`", example: "true" };
    }
}

#[cfg(test)]
mod tests {
    use kms_core::config::ConfigKey as _;

    use super::*;

    #[test]
    fn every_name_leads_back_to_its_setting() {
        for key in IbmKpConfigKey::ALL {
            assert_eq!(key.to_string().parse::<IbmKpConfigKey>().unwrap(), *key);
            assert_eq!(key.as_str().to_lowercase().parse::<IbmKpConfigKey>().unwrap(), *key);
            for alias in key.aliases() {
                assert_eq!(alias.parse::<IbmKpConfigKey>().unwrap(), *key);
            }
            assert!(key.doc().trim().ends_with('.'), "{key}");
        }
        assert!("IBM_KP_BASE_URI".parse::<IbmKpConfigKey>().is_err());
    }
}
