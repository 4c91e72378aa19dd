//! The settings of Key Protect, as operators know them (rook-behaviour §1.8).

kms_core::config_keys! {
    /// A setting of Key Protect.
    pub enum IbmKpConfigKey of "Key Protect" {
        /// GUID of the Key Protect instance. Required.
        ServiceInstanceId = "IBM_KP_SERVICE_INSTANCE_ID";
        /// API key of IAM. Better kept in the token Secret, under this same name.
        ServiceApiKey = secret "IBM_KP_SERVICE_API_KEY";
        /// Address of Key Protect in the region of the instance. Default `https://us-south.kms.cloud.ibm.com`.
        BaseUrl = "IBM_KP_BASE_URL" | "IBM_BASE_URL";
        /// Address of the token endpoint of IAM, with its path. Default `https://iam.cloud.ibm.com/oidc/token`.
        TokenUrl = "IBM_KP_TOKEN_URL" | "IBM_TOKEN_URL";
        /// Key ring of the keys. Without it new keys go into the ring `default`, and reads find keys of every ring. Not known to Rook.
        KeyRing = "IBM_KP_KEY_RING";
        /// CA certificates for both hosts: name of a Secret with the key `cert`, or a file. Not known to Rook.
        CaCert = "IBM_KP_CACERT";
        /// Whether `http://` addresses are allowed. Anyone on the network path can then read the API key and the keys. Not known to Rook.
        AllowHttp = "IBM_KP_ALLOW_HTTP";
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
