//! The certificate of the server, from files that may be replaced at any time.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use kms_core::Result;
use kms_tls::{Identity, source::file};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};
use tracing::warn;

/// The files of a certificate and its key, in PEM, as cert-manager keeps them up to date in a mounted Secret.
///
/// They are read for each connection: they are small, and in memory. While they cannot be used, the last certificate that could
/// is.
#[derive(Debug)]
pub struct Certificate {
    certificate: PathBuf,
    key: PathBuf,
    last: Mutex<Arc<ServerConfig>>,
}

impl Certificate {
    /// Reads the files for the first time.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if they cannot be read, or do not belong together.
    pub fn open(certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Result<Self> {
        let (certificate, key) = (certificate.into(), key.into());
        let last = Mutex::new(read(&certificate, &key)?);
        Ok(Self { certificate, key, last })
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        let Self { certificate, key, last } = self;
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        match read(certificate, key) {
            Ok(config) => *last = config,
            Err(error) => warn!("the certificate of the server cannot be renewed: {error}"),
        }
        TlsAcceptor::from(Arc::clone(&last))
    }
}

fn read(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>> {
    Identity::from_pem(&file(certificate)?, &file(key)?)?.server().map(Arc::new)
}
