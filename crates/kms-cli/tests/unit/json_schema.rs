//! The JSON Schemas in `docs/schema`: the fields and types of the program, the meanings of `docs/json-output.md`.

use std::collections::BTreeMap;

use kms_testkit::schema::{check, of};
use serde_json::Value;

use crate::{
    cmd::{clusters, devices, escrow, keys, program},
    json_docs::{Row, documented},
    output::Failure,
    progress::ProgressLine,
};

/// The file of a schema, the section of the page, and the schema.
type Document = (&'static str, &'static str, Value);

/// The documents from the name of the file, the section and the type of each.
macro_rules! documents {
    ($($file:literal $section:literal $document:ty,)*) => {
        vec![$(($file, $section, of::<$document>($section))),*]
    };
}

fn documents() -> Vec<Document> {
    documents![
        "check" "kms check" keys::check::Document,
        "close" "kms close" devices::close::Document,
        "create" "kms create" keys::create::Document,
        "delete" "kms delete" keys::delete::Document,
        "error" "Errors" Failure,
        "escrow-create" "kms escrow create" escrow::create::Document,
        "escrow-drill" "kms escrow drill" escrow::drill::Document,
        "escrow-list" "kms escrow list" escrow::list::Document,
        "escrow-restore" "kms escrow restore" escrow::restore::Document,
        "escrow-slot-add" "kms escrow slot add" escrow::slot::add::Document,
        "escrow-slot-check" "kms escrow slot check" escrow::slot::check::Document,
        "escrow-slot-remove" "kms escrow slot remove" escrow::slot::remove::Document,
        "explain" "kms explain" program::explain::Document,
        "format" "kms format" devices::format::Document,
        "get" "kms get" keys::get::Document<'_>,
        "list" "kms list" keys::list::Document,
        "migrate" "kms migrate" clusters::migrate::document::Document,
        "migrate-progress" "Progress of kms migrate" ProgressLine<clusters::migrate::progress::Reached>,
        "open" "kms open" devices::open::Document,
        "providers" "kms providers" program::providers::Document,
        "put" "kms put" keys::put::Document,
        "recover" "kms recover" devices::recover::Document,
        "resize" "kms resize" devices::resize::Document,
        "rotate" "kms rotate" devices::rotate::document::Document,
        "rotate-all" "kms rotate --all" devices::rotate::all::Document,
        "rotate-progress" "Progress of kms rotate --all" ProgressLine<devices::rotate::OsdEnded<'_>>,
        "slots" "kms slots" devices::slots::Document,
        "status" "kms status" devices::status::Document,
        "undelete" "kms undelete" keys::undelete::Document,
        "verify" "kms verify" devices::verify::Document,
        "version" "kms version" program::version::Document,
    ]
}

/// The documents of commands that ask Kubernetes.
#[cfg(feature = "k8s-secret")]
fn of_clusters() -> Vec<Document> {
    documents![
        "cronjobs-apply" "kms cronjobs apply" clusters::cronjobs::apply::Document,
        "cronjobs-render" "kms cronjobs render" clusters::cronjobs::List,
        "cronjobs-rights" "kms cronjobs rights" clusters::cronjobs::List,
        "doctor" "kms doctor" clusters::doctor::document::Document,
        "inventory" "kms inventory" clusters::inventory::document::Document<'_>,
        "inventory-prune" "kms inventory prune" clusters::inventory::prune::Document,
        "render-env" "kms render env" clusters::render::EnvDocument,
        "render-volumes" "kms render volumes" clusters::render::VolumesDocument,
    ]
}

/// Whether a schema allows this type.
fn allows(schema: &Value, name: &str) -> bool {
    match &schema["type"] {
        Value::String(one) => one == name,
        Value::Array(several) => several.iter().any(|one| one == name),
        _ => schema["anyOf"].as_array().is_some_and(|any| any.iter().any(|schema| allows(schema, name))),
    }
}

/// Whether a schema is of the type that the page says.
fn fits(schema: &Value, documented: &str) -> bool {
    documented.split(" or ").all(|kind| match kind {
        "boolean" | "null" | "object" | "string" => allows(schema, kind),
        "number" => allows(schema, "integer"),
        "list" => allows(schema, "array"),
        "list of objects of Kubernetes" => allows(&schema["items"], "object"),
        "list of strings" => allows(&schema["items"], "string"),
        "map of numbers" => allows(&schema["additionalProperties"], "integer"),
        "map of strings" => allows(&schema["additionalProperties"], "string"),
        other => panic!("the page has the type {other:?}"),
    }) && allows(schema, "null") == documented.contains("null")
}

/// Gives each field the meaning that the page has, and compares its type with that of the page.
fn describe(schema: &mut Value, path: &str, page: &BTreeMap<String, Row>) {
    if let Some(any) = schema.get_mut("anyOf").and_then(Value::as_array_mut) {
        any.iter_mut().for_each(|schema| describe(schema, path, page));
    }
    if let Some(items) = schema.get_mut("items") {
        describe(items, &format!("{path}[]"), page);
    }
    for (name, field) in schema.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        describe(field, &path, page);
        // The page does not repeat the fields of each error.
        if let Some(row) = page.get(&path) {
            assert!(fits(field, &row.kind), "{path} is {field}, and documented as {}", row.kind);
            if !row.meaning.is_empty() {
                field["description"] = row.meaning.replace("\\|", "|").into();
            }
        }
    }
}

#[test]
fn the_schemas_of_the_documents_are_up_to_date() {
    let mut all = documents();
    #[cfg(feature = "k8s-secret")]
    all.extend(of_clusters());
    for (file, section, mut schema) in all {
        describe(&mut schema, "", &documented(section));
        check(file, &schema);
    }
}
