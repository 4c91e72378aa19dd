//! The settings of Key Protect, as operators know them (spec 1.8).

use std::{fmt, str::FromStr};

use kms_core::{
    Error,
    config::{ConfigKey, Support},
};

macro_rules! keys {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal, $aliases:expr, $secret:literal;)*) => {
        /// A setting of Key Protect.
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        #[non_exhaustive]
        pub enum IbmKpConfigKey {
            $($(#[doc = $doc])+ $variant,)*
        }

        impl ConfigKey for IbmKpConfigKey {
            const ALL: &'static [Self] = &[$(Self::$variant,)*];

            fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            fn aliases(self) -> &'static [&'static str] {
                match self {
                    $(Self::$variant => &$aliases,)*
                }
            }

            fn is_secret(self) -> bool {
                match self {
                    $(Self::$variant => $secret,)*
                }
            }

            fn doc(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($doc),+),)*
                }
            }

            fn support(self) -> Support {
                match self {
                    $(Self::$variant => Support::Supported,)*
                }
            }
        }
    };
}

keys! {
    /// GUID of the Key Protect instance. Required.
    ServiceInstanceId = "IBM_KP_SERVICE_INSTANCE_ID", [], false;
    /// API key of IAM. Better kept in the token Secret, under this same name.
    ServiceApiKey = "IBM_KP_SERVICE_API_KEY", [], true;
    /// Address of Key Protect in the region of the instance. Default `https://us-south.kms.cloud.ibm.com`.
    BaseUrl = "IBM_KP_BASE_URL", ["IBM_BASE_URL"], false;
    /// Address at which IAM gives tokens, with its path. Default `https://iam.cloud.ibm.com/oidc/token`.
    TokenUrl = "IBM_KP_TOKEN_URL", ["IBM_TOKEN_URL"], false;
    /// Key ring of the keys. Without it new keys go into the ring `default`, and keys of every ring are found. Not known to Rook.
    KeyRing = "IBM_KP_KEY_RING", [], false;
    /// CA certificates for both hosts: name of a Secret with the key `cert`, or a file. Not known to Rook.
    CaCert = "IBM_KP_CACERT", [], false;
    /// Whether `http://` addresses are allowed, over which everybody on the way reads API key and keys. Not known to Rook.
    AllowHttp = "IBM_KP_ALLOW_HTTP", [], false;
}

impl FromStr for IbmKpConfigKey {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Self::find(name).ok_or_else(|| Error::config(format!("{name} is not a setting of Key Protect")))
    }
}

impl fmt::Display for IbmKpConfigKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
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
