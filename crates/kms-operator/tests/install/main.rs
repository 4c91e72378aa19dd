//! Makes the files that people install the operator with, and compares them with those in `deploy/`.
//!
//! The kustomize base, its component for monitoring and the Helm chart come from one description: [`objects`] has the objects, [`settings`] what people
//! may change in them. `cargo xtask codegen` writes the files; with `--check` it runs these tests as plain `cargo test`
//! does.
#![expect(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a panic is how a test fails"
)]

mod chart;
mod kustomize;
mod objects;
#[path = "../it/rules.rs"]
#[expect(dead_code, reason = "the tests of the rules use more of it")]
mod rules;
mod settings;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

/// The folders below `deploy/` that have no other files.
const FOLDERS: [&str; 2] = ["kustomize/base", "helm/kms-operator"];

/// The first line of each file.
const HEADING: &str = "# Made by cargo xtask codegen from crates/kms-operator/tests/install. Do not edit.\n";

/// The files, by their paths below `deploy/`.
fn files() -> BTreeMap<String, String> {
    kustomize::files().into_iter().chain(chart::files()).collect()
}

/// An object in YAML, with a line end.
fn yaml(object: &Value) -> String {
    let text = serde_saphyr::to_string(object).unwrap();
    format!("{}\n", text.trim_end())
}

/// The files in a folder and in the folders in it.
fn found(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found(&path, into);
        } else {
            into.push(path);
        }
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "how a developer asks for new files")]
fn the_files_in_deploy_are_up_to_date() {
    let overwrite = std::env::var_os("KMS_CODEGEN").is_some();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy");
    let mut stale = Vec::new();
    let files = files();
    for (path, text) in &files {
        let place = root.join(path);
        if fs::read_to_string(&place).is_ok_and(|old| old == *text) {
            continue;
        }
        if overwrite {
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            fs::write(place, text).unwrap();
        } else {
            stale.push(format!("{path} is out of date"));
        }
    }
    for folder in FOLDERS {
        let mut there = Vec::new();
        found(&root.join(folder), &mut there);
        for place in there {
            let path = place.strip_prefix(&root).unwrap().display().to_string();
            if files.contains_key(&path) {
                continue;
            }
            if overwrite {
                fs::remove_file(place).unwrap();
            } else {
                stale.push(format!("{path} is not generated"));
            }
        }
    }
    assert!(stale.is_empty(), "run cargo xtask codegen:\n{}", stale.join("\n"));
}

#[test]
fn each_setting_is_used_and_each_use_is_a_setting() {
    let mut used = Vec::new();
    for file in objects::files() {
        used.extend(file.wanted.map(str::to_owned));
        for object in &file.objects {
            settings::used(object, &mut used);
        }
    }
    used.sort_unstable();
    used.dedup();
    // One decides on an annotation, which only the chart has.
    used.push(settings::KEEP.to_owned());
    used.sort_unstable();
    let mut known: Vec<String> = settings::all().iter().map(|setting| setting.path.to_owned()).collect();
    known.sort_unstable();
    assert_eq!(used, known);
}

#[test]
fn the_operator_reads_no_secret_and_changes_only_its_own_objects() {
    let files = objects::files();
    let roles = files.iter().flat_map(|file| &file.objects);
    let rules = roles.filter_map(|object| object["rules"].as_array()).flatten();
    let texts = |value: &Value| -> Vec<String> { serde_json::from_value(value.clone()).unwrap() };
    let mut count = 0;
    for rule in rules {
        let (groups, resources) = (texts(&rule["apiGroups"]), texts(&rule["resources"]));
        for verb in texts(&rule["verbs"]) {
            let changes = match verb.as_str() {
                "get" | "list" | "watch" => false,
                "create" => false,
                "delete" => !["batch", "kms.ceph.rook.io"].contains(&groups[0].as_str()),
                "patch" | "update" => {
                    !["kms.ceph.rook.io", "coordination.k8s.io"].contains(&groups[0].as_str())
                }
                _ => true,
            };
            assert!(!changes, "{rule}");
        }
        let everything = |name: &String| name == "*" || name.starts_with("secrets");
        assert!(!resources.iter().chain(&groups).any(everything), "{rule}");
        count += 1;
    }
    assert!(count > 10, "{count}");
}
