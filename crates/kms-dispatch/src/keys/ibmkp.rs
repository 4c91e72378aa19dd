//! The settings of IBM Key Protect.

use kms_core::{
    KmsSpec,
    config::{Problems, Settings},
};

use super::{KMS_PROVIDER, Row, config_key, https_url};

/// A setting of IBM Key Protect.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum IbmKeyProtectConfigKey {
    /// `IBM_KP_BASE_URL`
    BaseUrl,
    /// `IBM_KP_SERVICE_API_KEY`
    ServiceApiKey,
    /// `IBM_KP_SERVICE_INSTANCE_ID`
    ServiceInstanceId,
    /// `IBM_KP_TOKEN_URL`
    TokenUrl,
}

impl IbmKeyProtectConfigKey {
    const fn row(self) -> Row {
        match self {
            Self::BaseUrl => {
                Row::new("IBM_KP_BASE_URL", "The service, `https://us-south.kms.cloud.ibm.com` by default.")
                    // Rook's documentation has this name, Rook's code reads the other one.
                    .aliases(&["IBM_BASE_URL"])
            }
            Self::ServiceApiKey => Row::new(
                "IBM_KP_SERVICE_API_KEY",
                "The API key; usually the entry of that name in the Secret that `tokenSecretName` names.",
            )
            .secret(),
            Self::ServiceInstanceId => {
                Row::new("IBM_KP_SERVICE_INSTANCE_ID", "The id of the service instance. Required.")
            }
            Self::TokenUrl => Row::new(
                "IBM_KP_TOKEN_URL",
                "Where IAM tokens come from, `https://iam.cloud.ibm.com/oidc/token` by default.",
            )
            .aliases(&["IBM_TOKEN_URL"]),
        }
    }
}

config_key!(IbmKeyProtectConfigKey, [BaseUrl, ServiceApiKey, ServiceInstanceId, TokenUrl]);

/// Notes everything that is wrong with the settings.
pub(crate) fn check(spec: &KmsSpec, problems: &mut Problems) {
    let settings = Settings::from_pairs(spec.connection_details.iter(), &[KMS_PROVIDER], problems);
    settings.required(IbmKeyProtectConfigKey::ServiceInstanceId, problems);
    https_url(&settings, IbmKeyProtectConfigKey::BaseUrl, problems);
    https_url(&settings, IbmKeyProtectConfigKey::TokenUrl, problems);
    if spec.token_secret_name.trim().is_empty()
        && settings.text(IbmKeyProtectConfigKey::ServiceApiKey).is_none()
    {
        problems.add("tokenSecretName is missing: it names the Secret with the key IBM_KP_SERVICE_API_KEY");
    }
}

#[cfg(test)]
mod tests {
    use kms_core::ConnectionDetails;

    use super::*;

    fn problems_of(details: &[(&str, &str)], token_secret: &str) -> Vec<String> {
        let spec = KmsSpec::new(ConnectionDetails::from_iter(details.iter().copied()), token_secret);
        let mut problems = Problems::new();
        check(&spec, &mut problems);
        problems.iter().map(str::to_owned).collect()
    }

    #[test]
    fn the_documented_spellings_are_taken() {
        let found = problems_of(
            &[
                ("KMS_PROVIDER", "ibmkeyprotect"),
                ("IBM_KP_SERVICE_INSTANCE_ID", "1"),
                ("IBM_BASE_URL", "https://eu-de.kms.cloud.ibm.com"),
                ("IBM_TOKEN_URL", "https://iam.cloud.ibm.com/oidc/token"),
            ],
            "ibm",
        );
        assert_eq!(found, [""; 0]);
    }

    #[test]
    fn what_is_missing_or_wrong_is_told_at_once() {
        let found = problems_of(
            &[("IBM_BASE_URL", "https://a"), ("IBM_KP_BASE_URL", "https://b"), ("IBM_TOKEN_URL", "x")],
            " ",
        );
        assert_eq!(
            found,
            [
                "IBM_KP_BASE_URL is given twice, with different values",
                "IBM_KP_SERVICE_INSTANCE_ID is missing",
                "IBM_KP_TOKEN_URL does not begin with https://",
                "tokenSecretName is missing: it names the Secret with the key IBM_KP_SERVICE_API_KEY",
            ]
        );
    }
}
