//! The warnings that the API server sends beside a response (RFC 7234 section 5.5).

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use http::{HeaderMap, header::WARNING};
use tracing::warn;

/// The target of these warnings in the log, so that a program can show them as `kubectl` does.
pub const WARNINGS: &str = "kms_kube::warning";

/// The most warnings that are kept to show each of them once.
const MOST: usize = 1000;

/// The warnings of a connection that have been shown.
#[derive(Clone, Debug, Default)]
pub(crate) struct Warnings(Arc<Mutex<BTreeSet<String>>>);

impl Warnings {
    /// Logs each new warning of a response.
    pub(crate) fn show(&self, headers: &HeaderMap) {
        for header in headers.get_all(WARNING) {
            let Some(text) = header.to_str().ok().and_then(text) else { continue };
            let mut shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if shown.len() < MOST && shown.insert(text.clone()) {
                warn!(target: WARNINGS, "{text}");
            }
        }
    }
}

/// The text of a warning: `299 - "text"`, with a backslash before quotes and backslashes. `None` if it has another form.
fn text(header: &str) -> Option<String> {
    let (code, rest) = header.split_once(' ')?;
    let (_agent, quoted) = rest.split_once(' ')?;
    if code != "299" {
        return None;
    }
    let mut chars = quoted.strip_prefix('"')?.chars();
    let mut text = String::new();
    loop {
        match chars.next()? {
            '"' => return Some(text).filter(|text| !text.is_empty()),
            '\\' => text.push(chars.next()?),
            c => text.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_a_warning_is_unquoted() {
        let said = r#"299 - "would violate PodSecurity \"restricted:latest\": privileged (a \\ b)""#;
        let expected = r#"would violate PodSecurity "restricted:latest": privileged (a \ b)"#;
        assert_eq!(text(said).as_deref(), Some(expected));
        for other in ["", "299", "299 -", "299 - \"", "299 - \"\"", "299 - x", "199 - \"x\"", "299 - \"x"] {
            assert_eq!(text(other), None, "{other}");
        }
    }
}
