//! JSON Schemas of the documents that `kms` writes, from the types that it writes them with.
//!
//! `docs/schema` has a file for each document. A test compares the file with the type; with `KMS_CODEGEN` set, as by
//! `cargo xtask codegen`, it writes the file. `cargo xtask it` validates the documents of live tests by the files.

use std::{fs, path::PathBuf};

use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::Value;

/// The schema of a document, draft 2020-12, without references. Fields that are always written are required.
pub fn of<T: JsonSchema>(title: &str) -> Value {
    let settings = SchemaSettings::draft2020_12().for_serialize().with(|settings| {
        settings.inline_subschemas = true;
    });
    let mut schema = settings.into_generator().into_root_schema_for::<T>();
    schema.insert("title".to_owned(), title.into());
    schema.to_value()
}

/// Compares a schema with `docs/schema/NAME.json`, or writes it.
///
/// # Panics
///
/// If the file has another schema, or cannot be read or written.
#[expect(clippy::disallowed_methods, reason = "how a developer asks for a new file")]
pub fn check(name: &str, schema: &Value) {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/schema"));
    let path = path.join(format!("{name}.json"));
    let text = serde_json::to_string_pretty(schema).unwrap() + "\n";
    if std::env::var_os("KMS_CODEGEN").is_some() {
        fs::write(&path, text).unwrap();
    } else {
        let written = fs::read_to_string(&path).unwrap_or_default();
        assert!(written == text, "docs/schema/{name}.json is out of date (cargo xtask codegen):\n{text}");
    }
}
