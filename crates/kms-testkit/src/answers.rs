//! Our answers beside those of Go's library, counted.
//!
//! Each table of `tests/go` has its counts in a file beside it. A test compares the file with what it has counted, and the
//! README shows the files. With `KMS_CODEGEN` set, as by `cargo xtask codegen`, the test writes the file.

use std::{collections::BTreeMap, fs, path::PathBuf};

/// The counts: by who accepts, and then by the reason of a refusal.
#[derive(Debug, Default)]
pub struct Answers(BTreeMap<&'static str, BTreeMap<String, usize>>);

impl Answers {
    /// Counts one question. `ours` has the reason, in words, if we refuse what Go accepts.
    pub fn add(&mut self, go: bool, ours: Result<(), &str>) {
        let group = match (go, ours) {
            (true, Ok(())) => "accepted by both",
            (false, Err(_)) => "refused by both",
            (true, Err(_)) => "refused by us alone",
            (false, Ok(())) => "accepted by us alone",
        };
        let reason = ours.err().filter(|_| go).unwrap_or_default();
        *self.0.entry(group).or_default().entry(reason.to_owned()).or_default() += 1;
    }

    /// Compares the counts with `tests/go/FILE`, or writes them.
    ///
    /// # Panics
    ///
    /// If the file has other counts, or cannot be read or written.
    #[expect(clippy::disallowed_methods, reason = "how a developer asks for a new file")]
    pub fn check(&self, file: &str) {
        let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/go")).join(file);
        let counted = serde_json::to_string_pretty(&self.0).unwrap() + "\n";
        if std::env::var_os("KMS_CODEGEN").is_some() {
            fs::write(&path, counted).unwrap();
        } else {
            let written = fs::read_to_string(&path).unwrap();
            assert!(written == counted, "tests/go/{file} is out of date (cargo xtask codegen):\n{counted}");
        }
    }
}
