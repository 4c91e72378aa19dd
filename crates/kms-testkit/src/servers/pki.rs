//! Throwaway certificates: a CA, a server, clients, and certificates that must be refused.
//!
//! Keys are P-256 in PKCS#8. Nothing here is secret for longer than a test runs.

use std::{
    fmt, fs,
    io::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::Arc,
};

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};

/// A certificate, or a chain of them, with its key, both as PEM.
#[derive(Clone)]
pub struct Identity {
    /// The certificate, followed by the certificate of the intermediate CA if there is one.
    pub cert: String,
    /// The private key in PKCS#8.
    pub key: String,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cert: _, key: _ } = self;
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

/// All certificates that tests of TLS need.
#[derive(Debug)]
#[non_exhaustive]
pub struct Pki {
    /// The CA of all identities but the `bad` ones.
    pub ca: Identity,
    /// The server: localhost, `*.vault.test`, 127.0.0.1, `::1` and 10.0.2.2 (this host as a QEMU guest sees it).
    pub server: Identity,
    /// The same names, issued by an intermediate CA; its chain is in `cert`, so clients need only `ca`.
    pub chained_server: Identity,
    /// A client, `CN=client1`.
    pub client1: Identity,
    /// A client, `CN=client2`.
    pub client2: Identity,
    /// `CN=client1`, valid in 2020 only.
    pub expired_client: Identity,
    /// The server's names, valid in 2020 only.
    pub expired_server: Identity,
    /// Another CA, which no client or server trusts.
    pub bad_ca: Identity,
    /// `CN=client1`, issued by `bad_ca`.
    pub bad_client: Identity,
    /// The server's names, issued by `bad_ca`.
    pub bad_server: Identity,
}

/// A CA that can issue certificates.
struct Authority {
    cert: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn root(name: &str) -> Result<Self> {
        let (params, key) = (Self::params(name), KeyPair::generate()?);
        Ok(Self { cert: params.self_signed(&key)?.pem(), issuer: Issuer::new(params, key) })
    }

    fn intermediate(&self, name: &str) -> Result<Self> {
        let (mut params, key) = (Self::params(name), KeyPair::generate()?);
        params.use_authority_key_identifier_extension = true;
        Ok(Self { cert: params.signed_by(&key, &self.issuer)?.pem(), issuer: Issuer::new(params, key) })
    }

    fn params(name: &str) -> CertificateParams {
        let mut params = valid(2020, 2120);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::OrganizationName, "test");
        params.distinguished_name.push(DnType::CommonName, name);
        params
    }

    fn identity(&self) -> Identity {
        Identity { cert: self.cert.clone(), key: self.issuer.key().serialize_pem() }
    }

    fn issue(&self, mut params: CertificateParams, usage: ExtendedKeyUsagePurpose) -> Result<Identity> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        Ok(Identity { cert: params.signed_by(&key, &self.issuer)?.pem(), key: key.serialize_pem() })
    }

    fn server(&self, to: i32) -> Result<Identity> {
        let mut params = valid(2020, to);
        params.distinguished_name.push(DnType::CommonName, "localhost");
        params.subject_alt_names = vec![
            SanType::DnsName("localhost".try_into()?),
            SanType::DnsName("*.vault.test".try_into()?),
            SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            SanType::IpAddress(IpAddr::V6(Ipv6Addr::LOCALHOST)),
            SanType::IpAddress(IpAddr::V4(Ipv4Addr::new(10, 0, 2, 2))),
        ];
        self.issue(params, ExtendedKeyUsagePurpose::ServerAuth)
    }

    fn client(&self, name: &str, from: i32, to: i32) -> Result<Identity> {
        let mut params = valid(from, to);
        params.distinguished_name.push(DnType::OrganizationName, "test");
        params.distinguished_name.push(DnType::CommonName, name);
        self.issue(params, ExtendedKeyUsagePurpose::ClientAuth)
    }
}

/// Parameters of a certificate that is valid from the first day of one year to the first day of another.
fn valid(from: i32, to: i32) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = date_time_ymd(from, 1, 1);
    params.not_after = date_time_ymd(to, 1, 1);
    // The default name is the same for all.
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
}

impl Pki {
    /// Makes all certificates, in a few milliseconds.
    ///
    /// # Errors
    ///
    /// If the system has no randomness.
    pub fn new() -> Result<Self> {
        let ca = Authority::root("Test CA")?;
        let bad_ca = Authority::root("Bad CA")?;
        let intermediate = ca.intermediate("Test intermediate CA")?;
        let mut chained_server = intermediate.server(2120)?;
        chained_server.cert.push_str(&intermediate.cert);
        Ok(Self {
            server: ca.server(2120)?,
            chained_server,
            client1: ca.client("client1", 2020, 2120)?,
            client2: ca.client("client2", 2020, 2120)?,
            expired_client: ca.client("client1", 2020, 2021)?,
            bad_client: bad_ca.client("client1", 2020, 2120)?,
            expired_server: ca.server(2021)?,
            bad_server: bad_ca.server(2120)?,
            ca: ca.identity(),
            bad_ca: bad_ca.identity(),
        })
    }

    /// Each certificate with the name of its files.
    #[must_use]
    pub fn all(&self) -> [(&'static str, &Identity); 10] {
        let Self {
            ca,
            server,
            chained_server,
            client1,
            client2,
            expired_client,
            expired_server,
            bad_ca,
            bad_client,
            bad_server,
        } = self;
        [
            ("ca", ca),
            ("server", server),
            ("chained-server", chained_server),
            ("client1", client1),
            ("client2", client2),
            ("expired-client", expired_client),
            ("expired-server", expired_server),
            ("bad-ca", bad_ca),
            ("bad-client", bad_client),
            ("bad-server", bad_server),
        ]
    }

    /// Writes all certificates to `folder` as `NAME.crt` and `NAME.key`, the keys readable by the owner only.
    ///
    /// # Errors
    ///
    /// If they cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        for (name, Identity { cert, key }) in self.all() {
            let path = folder.join(format!("{name}.crt"));
            fs::write(&path, cert).with_context(|| format!("write {}", path.display()))?;
            write_private(&folder.join(format!("{name}.key")), key)?;
        }
        Ok(())
    }

    /// TLS settings of a client that trusts `ca` and shows `identity` if there is one.
    ///
    /// # Errors
    ///
    /// If the PEM does not parse.
    pub fn client_config(ca: &str, identity: Option<&Identity>) -> Result<rustls::ClientConfig> {
        let mut roots = rustls::RootCertStore::empty();
        for cert in CertificateDer::pem_slice_iter(ca.as_bytes()) {
            roots.add(cert.context("parse the CA")?).context("add the CA")?;
        }
        let builder = rustls::ClientConfig::builder_with_provider(Arc::new(
            rustls::crypto::aws_lc_rs::default_provider(),
        ))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
        let Some(Identity { cert, key }) = identity else { return Ok(builder.with_no_client_auth()) };
        let chain = CertificateDer::pem_slice_iter(cert.as_bytes()).collect::<Result<Vec<_>, _>>()?;
        Ok(builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes())?)?)
    }
}

/// TLS of a server that shows `identity` and, if `client_ca` is set, demands client certificates of that CA (PEM).
pub(crate) fn server_config(identity: &Identity, client_ca: Option<&str>) -> Result<rustls::ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let mut roots = rustls::RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
                roots.add(certificate?)?;
            }
            let verifier =
                rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build()?)
        }
    };
    let chain = CertificateDer::pem_slice_iter(identity.cert.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    Ok(builder.with_single_cert(chain, PrivateKeyDer::from_pem_slice(identity.key.as_bytes())?)?)
}

/// Writes `text` to `path`, readable by the owner only.
///
/// # Errors
///
/// If it cannot be written.
pub fn write_private(path: &Path, text: &str) -> Result<()> {
    fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt as _, time::SystemTime};

    use rustls::{
        RootCertStore,
        client::{WebPkiServerVerifier, danger::ServerCertVerifier as _},
        pki_types::{ServerName, UnixTime},
        server::WebPkiClientVerifier,
    };

    use super::*;

    fn chain(identity: &Identity) -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_slice_iter(identity.cert.as_bytes()).collect::<Result<_, _>>().unwrap()
    }

    fn roots(ca: &Identity) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(chain(ca).remove(0)).unwrap();
        Arc::new(roots)
    }

    fn server_is_trusted(ca: &Identity, server: &Identity, name: &str) -> bool {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(roots(ca), provider).build().unwrap();
        let chain = chain(server);
        let now =
            UnixTime::since_unix_epoch(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap());
        let name = ServerName::try_from(name.to_owned()).unwrap();
        verifier.verify_server_cert(&chain[0], &chain[1..], &name, &[], now).is_ok()
    }

    fn client_is_trusted(ca: &Identity, client: &Identity) -> bool {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(roots(ca), provider).build().unwrap();
        verifier.verify_client_cert(&chain(client)[0], &[], UnixTime::now()).is_ok()
    }

    #[test]
    fn servers_are_trusted_by_their_own_ca_under_their_own_names() {
        let pki = Pki::new().unwrap();
        for name in ["localhost", "v1.vault.test", "127.0.0.1", "::1", "10.0.2.2"] {
            assert!(server_is_trusted(&pki.ca, &pki.server, name), "{name}");
            assert!(server_is_trusted(&pki.ca, &pki.chained_server, name), "{name}");
        }
        assert!(!server_is_trusted(&pki.ca, &pki.server, "foo.example"));
        assert!(!server_is_trusted(&pki.bad_ca, &pki.server, "localhost"));
        assert!(!server_is_trusted(&pki.ca, &pki.bad_server, "localhost"));
        assert!(server_is_trusted(&pki.bad_ca, &pki.bad_server, "localhost"));
    }

    #[test]
    fn clients_are_trusted_unless_expired_foreign_or_not_clients() {
        let pki = Pki::new().unwrap();
        assert!(client_is_trusted(&pki.ca, &pki.client1));
        assert!(client_is_trusted(&pki.ca, &pki.client2));
        assert!(client_is_trusted(&pki.bad_ca, &pki.bad_client));
        assert!(!client_is_trusted(&pki.ca, &pki.bad_client));
        assert!(!client_is_trusted(&pki.ca, &pki.expired_client));
        assert!(!client_is_trusted(&pki.ca, &pki.server));
    }

    #[test]
    fn keys_are_pkcs8_and_readable_by_the_owner_only() {
        let pki = Pki::new().unwrap();
        let folder = tempfile::tempdir().unwrap();
        pki.write(folder.path()).unwrap();
        for (name, identity) in pki.all() {
            let path = folder.path().join(format!("{name}.key"));
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            let key = PrivateKeyDer::from_pem_slice(&fs::read(&path).unwrap()).unwrap();
            assert!(matches!(key, PrivateKeyDer::Pkcs8(_)), "{name}");
            assert_eq!(fs::read_to_string(folder.path().join(format!("{name}.crt"))).unwrap(), identity.cert);
        }
    }

    #[test]
    fn client_config_takes_what_we_make() {
        let pki = Pki::new().unwrap();
        Pki::client_config(&pki.ca.cert, None).unwrap();
        Pki::client_config(&pki.ca.cert, Some(&pki.client1)).unwrap();
    }

    #[test]
    fn debug_shows_no_key() {
        let pki = Pki::new().unwrap();
        assert!(!format!("{pki:?}").contains("BEGIN"));
    }
}
