//! Parses a vault's challenge, the header `WWW-Authenticate`, in all forms of servers (RFC 9110 section 11.6.1).

/// The parts of a vault's challenge that we use.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Challenge {
    /// The issuer of the vault's tokens: `https://login.microsoftonline.com/TENANT`.
    pub(crate) authority: Option<String>,
    /// The scope of the vault's tokens: `https://vault.azure.net/.default`.
    pub(crate) scope: Option<String>,
}

impl Challenge {
    /// Parses all headers of a response: some servers put another scheme beside `Bearer`, or into a header of its own.
    pub(crate) fn read<'a>(headers: impl IntoIterator<Item = &'a str>) -> Self {
        let mut found = Self::default();
        let mut resource = None;
        for (name, value) in headers.into_iter().flat_map(parameters) {
            let place = match name.to_ascii_lowercase().as_str() {
                "authorization" | "authorization_uri" => &mut found.authority,
                "scope" => &mut found.scope,
                "resource" | "resource_id" => &mut resource,
                _ => continue,
            };
            if !value.is_empty() {
                place.get_or_insert_with(|| value.to_owned());
            }
        }
        found.scope =
            found.scope.or_else(|| resource.map(|it| format!("{}/.default", it.trim_end_matches('/'))));
        found
    }

    /// The vault's tenant.
    pub(crate) fn tenant(&self) -> Option<&str> {
        let path = self.authority.as_deref()?.split_once("://")?.1.split_once('/')?.1;
        path.split(['/', '?']).next().filter(|tenant| !tenant.is_empty())
    }
}

/// The parameters of a header, quoted or not.
fn parameters(header: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut rest = header;
    std::iter::from_fn(move || {
        let (before, after) = rest.split_once('=')?;
        // The name is the last word, since the scheme stands before the first name.
        let name = before.trim_end().rsplit([' ', ',', '\t']).next().unwrap_or_default();
        let after = after.trim_start();
        let (value, behind) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => after.split_at(after.find([',', ' ', '\t']).unwrap_or(after.len())),
        };
        rest = behind;
        Some((name, value.trim()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const AUTHORITY: &str = "https://login.microsoftonline.com/t";

    #[test]
    fn challenges_of_every_form_are_read() {
        let scope = "https://vault.azure.net/.default";
        for text in [
            r#"Bearer authorization="https://login.microsoftonline.com/t", resource="https://vault.azure.net""#,
            r#"Bearer authorization_uri="https://login.microsoftonline.com/t", resource="https://vault.azure.net/""#,
            r#"bearer Authorization="https://login.microsoftonline.com/t",scope="https://vault.azure.net/.default""#,
            r#"Bearer realm="", authorization = "https://login.microsoftonline.com/t" , resource = "https://vault.azure.net""#,
            "Bearer authorization=https://login.microsoftonline.com/t, resource=https://vault.azure.net",
            r#"Bearer resource="https://vault.azure.net" authorization="https://login.microsoftonline.com/t""#,
            r#"PoP nonce="a=b", Bearer error="invalid_token", authorization="https://login.microsoftonline.com/t", resource="https://vault.azure.net", error_description="resource=x""#,
        ] {
            let found = Challenge::read([text]);
            assert_eq!(found.authority.as_deref(), Some(AUTHORITY), "{text}");
            assert_eq!(found.scope.as_deref(), Some(scope), "{text}");
            assert_eq!(found.tenant(), Some("t"));
        }
        let apart = Challenge::read(["Negotiate", r#"Bearer resource="https://vault.azure.net""#]);
        assert_eq!((apart.authority, apart.scope.as_deref()), (None, Some(scope)));
    }

    #[test]
    fn nonsense_is_no_challenge() {
        for text in [
            "",
            "Bearer",
            "=",
            "=\"",
            "Bearer resource=",
            "Bearer resource=\"\"",
            "Basic realm=\"x\"",
            "\"=,=",
        ] {
            assert_eq!(Challenge::read([text]), Challenge::default(), "{text}");
        }
        assert_eq!(Challenge { authority: Some("x".to_owned()), scope: None }.tenant(), None);
    }
}
