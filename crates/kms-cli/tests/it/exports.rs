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
fn the_commands_about_keys_devices_and_escrows_find_settings_and_secrets_in_an_export() {
    // The server is away, so the settings and the Secrets have been accepted.
    let away = (5, "127.0.0.1:1");
    let folder = tempfile::tempdir().unwrap();
    let recipients = folder.path().join("recipients");
    std::fs::write(&recipients, "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p\n").unwrap();
    let [escrow, recipients] =
        [&folder.path().join("escrow"), &recipients].map(|path| path.to_str().unwrap().to_owned());
    for export in EXPORTS {
        for (args, (code, words)) in [
            (&["check"][..], away),
            (&["get", "a"], away),
            (&["list"], away),
            (&["create", "a"], away),
            // An empty KEK is refused before.
            (&["put", "a", "--from", "/dev/null"], (2, "the KEK is empty")),
            (&["delete", "a"], away),
            (&["undelete", "a"], away),
            (&["verify", "a", "/dev/null"], away),
            // The CephCluster in the export says so.
            (&["rotate", "a", "/dev/null"], (2, "keyRotation.enabled is true")),
            (&["inventory"], away),
            (&["escrow", "create", &escrow, "-R", &recipients], away),
        ] {
            let ran = kms(export, args);
            let text = [ran.stdout, ran.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
            assert_eq!(ran.status.code(), Some(code), "{export}: {args:?}: {text}");
            assert!(text.contains(words), "{export}: {args:?}: {text}");
        }
    }
}
