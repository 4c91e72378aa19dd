//! Chooses the proxy for a request from the environment, by the rules of Go's `golang.org/x/net/http/httpproxy`.
//!
//! Rook is written in Go, so operators set `NO_PROXY` for these rules. Other libraries read it differently: curl has no
//! ranges, and some send requests for `localhost` to the proxy, which then reads the token and the KEK.
//! `tests/go/httpproxy` makes a table of questions and of the answers of Go's library; the tests of `kms-http` and
//! `kms-kube` compare their answers with it.

use std::{fmt, net::IpAddr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use crate::{Error, Result};

/// The proxy variables of an environment. The caller passes the environment; nothing here reads it.
///
/// `Debug` does not show the addresses of the proxies, which may hold passwords.
#[derive(Clone, Default)]
pub struct ProxyRules {
    http: Option<String>,
    https: Option<String>,
    excluded: Excluded,
    /// Whether `REQUEST_METHOD` is set, as for a CGI script. There, `HTTP_PROXY` may come from a client's `Proxy` header.
    cgi: bool,
}

impl ProxyRules {
    /// Reads `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`. The name in lower case takes precedence if it has a value.
    ///
    /// Host names in `NO_PROXY` must be in ASCII: an international name in the form `xn--…`.
    pub fn from_environment<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let pairs: Vec<(&str, &str)> = pairs.into_iter().collect();
        let value = |wanted: &str| pairs.iter().find(|(name, value)| *name == wanted && !value.is_empty());
        let either =
            |lower: &str, upper: &str| value(lower).or_else(|| value(upper)).map(|(_, value)| *value);
        Self {
            http: either("http_proxy", "HTTP_PROXY").map(str::to_owned),
            https: either("https_proxy", "HTTPS_PROXY").map(str::to_owned),
            excluded: Excluded::parse(either("no_proxy", "NO_PROXY").unwrap_or_default()),
            cgi: value("REQUEST_METHOD").is_some(),
        }
    }

    /// Returns the proxy for a request, as the variable spells it; `None` if the request goes to the server directly.
    ///
    /// `host` is a name in ASCII or an address, with or without brackets. `localhost` and loopback addresses never have
    /// a proxy.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` for an `http` request of a CGI script that has a proxy.
    pub fn proxy_for(&self, scheme: &str, host: &str, port: u16) -> Result<Option<&str>> {
        let proxy = match scheme {
            "https" => self.https.as_deref(),
            "http" => self.http.as_deref(),
            _ => None,
        };
        let Some(proxy) = proxy else { return Ok(None) };
        if scheme == "http" && self.cgi {
            return Err(Error::config(
                "HTTP_PROXY is not used while REQUEST_METHOD is set: in a CGI script a client chooses its value; unset \
                 one of the two",
            ));
        }
        let host = host.trim_matches(['[', ']']).to_ascii_lowercase();
        Ok((!self.excluded.covers(&host, port)).then_some(proxy))
    }

    /// Whether some request may have a proxy.
    pub fn is_some(&self) -> bool {
        self.http.is_some() || self.https.is_some()
    }
}

impl fmt::Debug for ProxyRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { http, https, excluded, cgi } = self;
        f.debug_struct("ProxyRules")
            .field("http", &http.is_some())
            .field("https", &https.is_some())
            .field("excluded", excluded)
            .field("cgi", cgi)
            .finish()
    }
}

/// The value of `Proxy-Authorization` (RFC 7617) for the user information of a proxy's address, `user:password`.
pub fn basic_credentials(user_information: &str) -> Zeroizing<String> {
    let encoded = Zeroizing::new(STANDARD.encode(decoded(user_information).as_slice()));
    let mut value = Zeroizing::new(String::with_capacity(6 + encoded.len()));
    value.push_str("Basic ");
    value.push_str(&encoded);
    value
}

/// Decodes `%41` to `A`; text that is not encoded stays.
fn decoded(text: &str) -> Zeroizing<Vec<u8>> {
    let mut out = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.filter(|digits| !digits.starts_with('+'));
        match byte.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) if *first == b'%' => {
                out.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            _ => {
                out.push(*first);
                rest = after;
            }
        }
    }
    out
}

/// The hosts that need no proxy.
#[derive(Clone, Debug, Default)]
struct Excluded {
    all: bool,
    entries: Vec<Entry>,
}

/// An entry of `NO_PROXY`. An empty port stands for all ports.
#[derive(Clone, Debug)]
enum Entry {
    Range {
        network: IpAddr,
        bits: u32,
    },
    Address {
        address: IpAddr,
        port: String,
    },
    /// `suffix` begins with a dot. It matches subdomains, and with `itself` the name after the dot too.
    Name {
        suffix: String,
        itself: bool,
        port: String,
    },
}

impl Excluded {
    fn parse(text: &str) -> Self {
        let entries = text.split(',').map(|entry| entry.trim().to_lowercase());
        let entries: Vec<String> = entries.filter(|entry| !entry.is_empty()).collect();
        Self {
            all: entries.iter().any(|entry| entry == "*"),
            entries: entries.iter().filter_map(|entry| Entry::parse(entry)).collect(),
        }
    }

    fn covers(&self, host: &str, port: u16) -> bool {
        let address = host.parse::<IpAddr>().ok().map(|address| address.to_canonical());
        host == "localhost"
            || address.is_some_and(|address| address.is_loopback())
            || self.all
            || self.entries.iter().any(|entry| entry.covers(host, address, &port.to_string()))
    }
}

impl Entry {
    fn parse(text: &str) -> Option<Self> {
        if let Some(range) = range(text) {
            return Some(range);
        }
        let (host, port) = split_host_port(text).unwrap_or((text, ""));
        let port = port.to_owned();
        if let Ok(address) = host.parse::<IpAddr>() {
            return Some(Self::Address { address: address.to_canonical(), port });
        }
        let name = if host.starts_with("*.") { host.get(1..)? } else { host };
        match name.as_bytes().first()? {
            b'.' => Some(Self::Name { suffix: name.to_owned(), itself: false, port }),
            _ => Some(Self::Name { suffix: format!(".{name}"), itself: true, port }),
        }
    }

    fn covers(&self, host: &str, address: Option<IpAddr>, port: &str) -> bool {
        let on = |only: &str| only.is_empty() || only == port;
        match (self, address) {
            (Self::Range { network, bits }, Some(address)) => in_range(*network, *bits, address),
            (Self::Address { address, port: only }, Some(asked)) => *address == asked && on(only),
            (Self::Name { suffix, itself, port: only }, None) => {
                let named = host.ends_with(suffix) || (*itself && suffix.get(1..) == Some(host));
                named && on(only)
            }
            _ => false,
        }
    }
}

/// Parses a range such as `10.0.0.0/8`.
fn range(text: &str) -> Option<Entry> {
    let (network, bits) = text.split_once('/')?;
    let network: IpAddr = network.parse().ok()?;
    let digits = !bits.is_empty() && bits.bytes().all(|byte| byte.is_ascii_digit());
    let bits: u32 = digits.then(|| bits.parse().ok())??;
    match network {
        // An IPv4 network in the form of IPv6 is one of IPv4 as long as the range leaves that form alone.
        IpAddr::V6(mapped) if bits >= 96 && mapped.to_ipv4_mapped().is_some() => {
            (bits <= 128).then(|| Entry::Range { network: network.to_canonical(), bits: bits - 96 })
        }
        IpAddr::V6(_) => (bits <= 128).then_some(Entry::Range { network, bits }),
        IpAddr::V4(_) => (bits <= 32).then_some(Entry::Range { network, bits }),
    }
}

fn in_range(network: IpAddr, bits: u32, address: IpAddr) -> bool {
    let (network, address, width) = match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            (u128::from(network.to_bits()), u128::from(address.to_bits()), 32)
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => (network.to_bits(), address.to_bits(), 128),
        _ => return false,
    };
    // `/0` shifts every bit out, which `>>` does not allow.
    bits <= width && (network ^ address).checked_shr(width - bits).unwrap_or(0) == 0
}

/// Splits `host:port` or `[host]:port` as Go's `net.SplitHostPort` does; `None` where that fails, as for an IPv6 address
/// without brackets and for one in brackets without a port.
fn split_host_port(text: &str) -> Option<(&str, &str)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']').and_then(|(host, rest)| Some((host, rest.strip_prefix(':')?)))?,
        None => text.rsplit_once(':').filter(|(host, _)| !host.contains([':', ']']))?,
    };
    (!host.contains('[') && !port.contains([':', '[', ']'])).then_some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_of_a_proxy_is_not_shown() {
        let rules = ProxyRules::from_environment([
            ("https_proxy", "http://user:canary@proxy:3128"),
            ("HTTP_PROXY", "canary"),
            ("NO_PROXY", ".svc,10.0.0.0/8"),
            ("PATH", "/bin"),
        ]);
        assert!(rules.is_some());
        let shown = format!("{rules:?}");
        assert!(shown.contains(".svc") && !shown.contains("canary"), "{shown}");
        assert!(!ProxyRules::from_environment([("HTTPS_PROXY", "")]).is_some());
    }

    #[test]
    fn hosts_are_known_in_every_spelling() {
        let rules = ProxyRules::from_environment([("HTTP_PROXY", "p"), ("NO_PROXY", "Kms.example,fd00::1")]);
        for host in ["LOCALHOST", "[::1]", "::1", "127.0.0.53", "KMS.Example", "[fd00::1]", "FD00::1"] {
            assert_eq!(rules.proxy_for("http", host, 8200).unwrap(), None, "{host}");
        }
        assert_eq!(rules.proxy_for("http", "kms.example.org", 8200).unwrap(), Some("p"));
    }

    #[test]
    fn the_credentials_of_a_proxy_are_decoded() {
        assert_eq!(*decoded("user:pa%40ss%3Aword"), b"user:pa@ss:word");
        assert_eq!(*decoded("user:pass%+A%4"), b"user:pass%+A%4");
        assert_eq!(*basic_credentials("user:pa%40ss"), "Basic dXNlcjpwYUBzcw==");
    }
}
