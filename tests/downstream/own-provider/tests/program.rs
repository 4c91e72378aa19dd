//! Runs the `kms` that this crate builds, with the provider of this crate.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use kms_core::Kek;

/// Runs the program with a CephCluster in a file, and with an empty environment.
fn kms(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kms-with-directory"))
        .args(["--output", "json", "-f", "cluster.yaml"])
        .args(args)
        .env_clear()
        .env("HOME", folder)
        .current_dir(folder)
        .output()
        .unwrap()
}

/// The standard output of a run that succeeds.
fn succeeded(output: Output) -> String {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    assert!(output.status.success(), "{}: {}", output.status, text(output.stderr));
    text(output.stdout)
}

fn folder_with_cluster(settings: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("keys")).unwrap();
    let cluster = format!(
        "apiVersion: ceph.rook.io/v1\nkind: CephCluster\n\
         metadata: {{name: rook-ceph, namespace: rook-ceph}}\n\
         spec: {{security: {{kms: {{connectionDetails: {{KMS_PROVIDER: directory, {settings}}}}}}}}}\n"
    );
    fs::write(folder.path().join("cluster.yaml"), cluster).unwrap();
    folder
}

#[test]
fn a_key_is_created_read_and_deleted() {
    let folder = folder_with_cluster("DIRECTORY_PATH: keys");
    let (folder, file) = (folder.path(), folder.path().join("keys/set1-data-0"));

    let created = succeeded(kms(folder, &["create", "set1-data-0"]));
    let stored = fs::read_to_string(&file).unwrap();
    let fingerprint = Kek::parse(stored.as_str()).unwrap().fingerprint();
    assert!(created.contains(&fingerprint) && created.contains("\"created\": true"), "{created}");
    assert!(!created.contains(&stored), "the KEK was printed");

    let got = succeeded(kms(folder, &["get", "set1-data-0", "kek"]));
    assert!(got.contains(&fingerprint) && !got.contains(&stored), "{got}");
    assert_eq!(fs::read_to_string(folder.join("kek")).unwrap(), stored);

    succeeded(kms(folder, &["delete", "set1-data-0", "--destroy"]));
    assert!(!file.exists());
    let absent = kms(folder, &["get", "set1-data-0"]);
    assert!(!absent.status.success() && absent.stdout.is_empty());
    let message = String::from_utf8(absent.stderr).unwrap();
    assert!(message.contains("there is no such key") && message.contains("directory"), "{message}");
}

#[test]
fn a_misspelt_setting_is_reported() {
    let folder = folder_with_cluster("DIRECTORY_PAHT: keys");
    let refused = kms(folder.path(), &["create", "set1-data-0"]);
    let message = String::from_utf8(refused.stderr).unwrap();
    assert!(message.contains("did you mean DIRECTORY_PATH?"), "{message}");
}
