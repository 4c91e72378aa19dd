//! Gives to `-f` what kubectl has printed of objects in a real API server: a List with times, and with managed fields.
//!
//! The files in `tests/fixtures` are `kubectl get cephclusters,deployments,secrets` with `-o yaml --show-managed-fields`
//! and with `-o json`, from kube-apiserver 1.36. A live test does the same with today's server (`cargo xtask it rook`).

use std::{
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;

const EXPORTS: [&str; 2] = ["export.yaml", "export.json"];

fn kms(export: &str, args: &[&str]) -> Output {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(export);
    Command::new(env!("CARGO_BIN_EXE_kms"))
        .args(["--timeout", "100ms", "-o", "json", "-f"])
        .arg(file)
        .args(args)
        .env_clear()
        .output()
        .unwrap()
}

#[test]
fn exports_have_what_tools_for_people_leave_out() {
    for export in EXPORTS {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(export);
        let text = std::fs::read_to_string(file).unwrap();
        for part in ["creationTimestamp", "resourceVersion", "List"] {
            assert!(text.contains(part), "{export} has no {part}");
        }
        assert_eq!(text.contains("managedFields"), export == "export.yaml", "{export}");
    }
}

#[test]
fn the_commands_about_clusters_find_the_cluster_and_its_osd_in_an_export() {
    for export in EXPORTS {
        for (args, path) in [
            (&["cronjobs", "render", "--image", "mine:1"][..], "/items/0/spec/jobTemplate"),
            (&["cronjobs", "rights"], "/items/1/rules"),
            (&["render", "env"], "/env/0/name"),
            (&["render", "volumes"], "/volumes/0/name"),
        ] {
            let ran = kms(export, args);
            let stderr = String::from_utf8_lossy(&ran.stderr);
            assert_eq!((ran.status.code(), &*stderr), (Some(0), ""), "{export}: {args:?}");
            let document: Value = serde_json::from_slice(&ran.stdout).unwrap();
            assert!(document.pointer(path).is_some(), "{export}: {args:?}: {document}");
        }
    }
}

#[test]
fn the_commands_about_keys_find_settings_and_secrets_in_an_export() {
    for export in EXPORTS {
        for args in [
            &["check"][..],
            &["get", "a"],
            &["list"],
            &["create", "a"],
            &["put", "a", "--from", "/dev/null"],
            &["delete", "a"],
            &["undelete", "a"],
        ] {
            let ran = kms(export, args);
            let text = [ran.stdout, ran.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
            // The server is away, so the settings and the Secrets have been accepted; an empty KEK is refused before.
            let (code, words) = if args[0] == "put" { (2, "the KEK is empty") } else { (5, "127.0.0.1:1") };
            assert_eq!(ran.status.code(), Some(code), "{export}: {args:?}: {text}");
            assert!(text.contains(words), "{export}: {args:?}: {text}");
        }
    }
}
