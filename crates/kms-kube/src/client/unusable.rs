//! The error for a client that cannot be built.

use kms_core::{Error, ErrorKind};

/// The error for a client that cannot be built.
///
/// It omits the command line, the environment and the output of a credential plugin, which may hold a token.
pub(super) fn unusable(cause: kube::Error) -> Error {
    match cause {
        kube::Error::Auth(kube::client::AuthError::AuthExecRun { cmd: _, out }) => Error::new(
            ErrorKind::Unauthenticated,
            format!("the credential plugin of the kubeconfig failed with {}", out.status),
        ),
        kube::Error::Auth(kube::client::AuthError::AuthExecStart(cause)) => {
            Error::config("the credential plugin of the kubeconfig cannot be started").source(cause)
        }
        kube::Error::Auth(_) => Error::config("the credentials of the kubeconfig cannot be used"),
        cause @ kube::Error::RustlsTls(_) => {
            Error::config("the certificates of the kubeconfig cannot be used").source(cause)
        }
        kube::Error::ProxyProtocolUnsupported { .. } | kube::Error::ProxyProtocolDisabled { .. } => {
            Error::config(
                "the proxy for the API server must have an http address: see HTTPS_PROXY and proxy-url",
            )
        }
        cause => Error::config("the kubeconfig cannot be used").source(cause),
    }
}
