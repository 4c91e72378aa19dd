//! The recipients of an archive: the public keys that it is encrypted to.

use std::fmt;

use age::{Recipient, plugin, plugin::RecipientPluginV1, tag, tagpq, x25519};
use kms_core::{Error, Result};

use crate::{error::not_encrypted, plugin::PluginMessages};

/// The public keys that an archive is encrypted to. Each of their identities decrypts it.
pub struct Recipients {
    names: Vec<String>,
    recipients: Vec<Box<dyn Recipient + Send>>,
}

impl fmt::Debug for Recipients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { names, recipients: _ } = self;
        f.debug_list().entries(names).finish()
    }
}

impl Recipients {
    /// Parses the text of a recipients file, as `age -R` takes it: one recipient on each line. Skips empty lines and
    /// lines that begin with `#`.
    ///
    /// Takes `age1…`, `age1tag…` and `age1tagpq…`, and the recipients of plugins, whose programs must be installed.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` with the number of the first line that is not a recipient, if there are no recipients, or if a
    /// plugin is missing.
    pub fn parse(text: &str) -> Result<Self> {
        let mut found = Self { names: Vec::new(), recipients: Vec::new() };
        let mut of_plugins: Vec<plugin::Recipient> = Vec::new();
        for (line, number) in text.lines().map(str::trim).zip(1..) {
            if line.is_empty() || line.starts_with('#') || found.names.iter().any(|known| known == line) {
                continue;
            }
            if let Ok(recipient) = line.parse::<x25519::Recipient>() {
                found.recipients.push(Box::new(recipient));
            } else if let Ok(recipient) = line.parse::<tag::Recipient>() {
                found.recipients.push(Box::new(recipient));
            } else if let Ok(recipient) = line.parse::<tagpq::Recipient>() {
                found.recipients.push(Box::new(recipient));
            } else if let Ok(recipient) = line.parse::<plugin::Recipient>() {
                of_plugins.push(recipient);
            } else {
                return Err(not_a_recipient(line, number));
            }
            found.names.push(line.to_owned());
        }
        let mut programs: Vec<&str> = of_plugins.iter().map(plugin::Recipient::plugin).collect();
        programs.sort_unstable();
        programs.dedup();
        for program in programs {
            let recipient = RecipientPluginV1::new(program, &of_plugins, &[], PluginMessages::default());
            let recipient =
                recipient.map_err(|cause| not_encrypted(age::EncryptError::PluginResolve(cause)))?;
            found.recipients.push(Box::new(recipient));
        }
        if found.names.is_empty() {
            return Err(Error::config("the file has no recipients: age-keygen prints one, such as age1…"));
        }
        Ok(found)
    }

    /// The recipients as text, in their order.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The recipients of both.
    pub fn common<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = &'a str> {
        self.names.iter().filter(|name| other.names.contains(name)).map(String::as_str)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &(dyn Recipient + Send)> {
        self.recipients.iter().map(|recipient| &**recipient)
    }
}

/// The line itself stays out of the error: a person may have taken the file of the identity for that of the recipient.
fn not_a_recipient(line: &str, number: usize) -> Error {
    let lower = line.to_ascii_lowercase();
    let why = if lower.starts_with("age-secret-key-") || lower.starts_with("age-plugin-") {
        "is an identity, which must stay secret: give its recipient (age-keygen -y)"
    } else if lower.starts_with("ssh-") {
        "is an SSH key, which is not supported: make a recipient with age-keygen"
    } else {
        "is not a recipient, such as age1…"
    };
    Error::config(format!("line {number} of the recipients {why}"))
}

#[cfg(test)]
pub(crate) mod tests {
    use age::secrecy::ExposeSecret as _;

    use super::*;
    use crate::Identities;

    /// A recipient and its identity.
    pub(crate) fn pair() -> (Recipients, Identities) {
        let identity = x25519::Identity::generate();
        let recipients = Recipients::parse(&identity.to_public().to_string()).unwrap();
        (recipients, Identities::parse(identity.to_string().expose_secret().as_bytes()).unwrap())
    }

    /// A recipient of the tests of the crate age.
    const TAG: &str = "age1tag1qt8lw0ual6avlwmwatk888yqnmdamm7xfd0wak53ut6elz5c4swx2yqdj4e";

    #[test]
    fn recipients_of_all_kinds_are_read() {
        let own = x25519::Identity::generate().to_public().to_string();
        let found = Recipients::parse(&format!("# a\n\n{own}\r\n{own}\n{TAG}\n")).unwrap();
        assert_eq!(found.names(), [own.as_str(), TAG]);
        assert_eq!(found.iter().count(), 2);
        let other = Recipients::parse(TAG).unwrap();
        assert_eq!(found.common(&other).collect::<Vec<_>>(), [TAG]);
        assert_eq!(pair().0.common(&other).next(), None);
    }

    #[test]
    fn a_line_that_is_not_a_recipient_is_named_by_its_number_and_not_shown() {
        let secret = x25519::Identity::generate().to_string();
        let cases = [
            ("# only a comment", "no recipients"),
            ("age1canary", "line 1 of the recipients is not a recipient"),
            ("\nssh-ed25519 canary", "line 2 of the recipients is an SSH key"),
            (secret.expose_secret(), "line 1 of the recipients is an identity"),
            // A valid recipient of a plugin that is not installed.
            ("age1canary1qqqsyqcyq5rqwzqfsmcw8n", "recipient"),
        ];
        for (text, what) in cases {
            let error = Recipients::parse(text).unwrap_err();
            assert!(error.to_string().contains(what), "{error}");
            let shown = format!("{error:?}");
            assert!(!shown.contains("SECRET-KEY") && !shown.contains("ed25519"), "{shown}");
        }
    }
}
