//! What the plugins of recipients and identities say and ask.

use std::{fmt, sync::Arc};

use age::{Callbacks, secrecy::SecretString};
use tracing::warn;
use zeroize::Zeroizing;

/// Asks a person what the plugin of an identity wants to know, such as the PIN of a hardware key.
///
/// Each question is `None` if there is no person to answer.
pub trait Person: fmt::Debug + Send + Sync {
    /// Asks for one of two answers, and returns whether it is `yes`.
    fn confirm(&self, question: &str, yes: &str, no: Option<&str>) -> Option<bool>;
    /// Asks for a text that may be shown.
    fn text(&self, question: &str) -> Option<String>;
    /// Asks for a secret, which is not shown while it is typed.
    fn secret(&self, question: &str) -> Option<Zeroizing<String>>;
}

/// Passes on what a plugin says, such as to touch a hardware key, and asks the person what it asks.
#[derive(Clone, Debug, Default)]
pub(crate) struct PluginMessages {
    /// `None` if there is no person: then a question is shown, and has no answer.
    pub(crate) person: Option<Arc<dyn Person>>,
}

impl PluginMessages {
    fn ask<T>(&self, question: &str, ask: impl FnOnce(&dyn Person) -> Option<T>) -> Option<T> {
        let answer = self.person.as_ref().and_then(|person| ask(&**person));
        if answer.is_none() {
            warn!("the age plugin asks, and there is no terminal for an answer: {question}");
        }
        answer
    }
}

impl Callbacks for PluginMessages {
    fn display_message(&self, message: &str) {
        warn!("the age plugin says: {message}");
    }

    fn confirm(&self, message: &str, yes: &str, no: Option<&str>) -> Option<bool> {
        self.ask(message, |person| person.confirm(message, yes, no))
    }

    fn request_public_string(&self, description: &str) -> Option<String> {
        self.ask(description, |person| person.text(description))
    }

    fn request_passphrase(&self, description: &str) -> Option<SecretString> {
        self.ask(description, |person| person.secret(description)).map(|secret| secret.as_str().into())
    }
}
