//! Keeps the documents that `kms` writes, so that `cargo xtask it` validates them by the schemas in `docs/schema`.

use std::{fs, path::PathBuf};

use kms_testkit::servers;
use serde_json::{Value, json};

use crate::Ran;

/// Keeps the output of a run with `-o json`.
pub(crate) fn keep_output(args: &[&str], ran: &Ran) {
    if args.windows(2).any(|pair| pair == ["-o", "json"]) {
        keep(&json!({"schema": null, "args": args, "stdout": ran.stdout, "stderr": ran.stderr}));
    }
}

/// Keeps a file that `kms` has written: one document of this schema, or with `lines` one in each line.
pub fn keep_file(schema: &str, text: &str, lines: bool) {
    keep(&json!({"schema": schema, "lines": lines, "stdout": text}));
}

fn keep(document: &Value) {
    // A test that runs without xtask has no folder.
    #[expect(clippy::disallowed_methods, reason = "how xtask names the folder")]
    let Some(folder) = std::env::var_os(servers::DOCUMENTS).map(PathBuf::from) else { return };
    let file = tempfile::Builder::new().suffix(".json").tempfile_in(folder).expect("make a file");
    fs::write(file.path(), document.to_string()).expect("write the file");
    let _path = file.keep().expect("keep the file");
}
