//! Runs rotations by the program on a real OpenBao: requests, output, exit codes, and secrets that must stay secret.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Stdio},
};

use kms_conformance::leak::Canary;
use kms_core::Kek;
use kms_testkit::{
    luks::{Image, Wrapper},
    servers::openbao::{OpenBao, OpenBaoConfig, TokenSpec},
};
use kms_tests::Kms;
use serde_json::{Value, json};

const NAME: &str = "set1-data-0x7dwl";
const MOUNTS: [&str; 2] = ["rook", "rookv2"];

async fn server() -> OpenBao {
    OpenBao::start(OpenBaoConfig::default()).await.unwrap()
}

fn kms(server: &OpenBao, token: &str, mount: &str) -> Kms {
    // Its clock ends grace periods early.
    Kms::new().program(env!("CARGO_BIN_EXE_kms-hurried")).on_vault(server, token, mount, &[])
}

/// The KEK that the KMS holds.
fn kek(kms: &Kms, name: &str) -> Kek {
    Kek::parse(kms.run(&["get", name]).want(0).stdout).unwrap()
}

/// Creates a new key, and an image that it opens.
fn osd(kms: &Kms, name: &str) -> Image {
    let _ = kms.run(&["create", name]).want(0);
    Image::luks2(&kek(kms, name))
}

/// Copies the image to where Rook keeps the data of an OSD that has started.
fn in_folder(data_dir: &Path, name: &str, id: u32, image: &Image) -> Image {
    let place = data_dir.join(format!("rook-ceph/{name}/ceph-{id}"));
    std::fs::create_dir_all(&place).unwrap();
    std::fs::write(place.join("block"), "").unwrap();
    image.copy(place.join("block-tmp"))
}

fn path(image: &Image) -> String {
    image.path().display().to_string()
}

/// Waits until the program reports that it waits for the end of the grace period, and kills it.
fn killed_in_the_grace(mut child: Child) {
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let said = lines.map_while(Result::ok).find(|line| line.contains("stays valid"));
    assert!(said.is_some(), "it ended without waiting");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test]
#[ignore = "needs cryptsetup and a Vault server: cargo xtask it rotation"]
async fn the_old_kek_opens_nothing_any_more_and_the_new_one_does() {
    let server = server().await;
    let token = server.admin().rook_token().await.unwrap();
    for mount in MOUNTS {
        let kms = kms(&server, &token, mount);
        let image = osd(&kms, NAME);
        let (device, old) = (path(&image), kek(&kms, NAME));
        let volume_key = image.volume_key(&old);
        let rehearsed = kms.run(&["-o", "json", "rotate", NAME, &device, "--dry-run"]).want(0).json();
        assert_eq!(rehearsed["outcome"], "dry-run");
        assert!(kek(&kms, NAME).ct_eq(&old));

        let rotated = kms.run(&["-o", "json", "rotate", NAME, &device, "--grace", "0"]).want(0).json();
        let new = kek(&kms, NAME);
        assert!(!image.opens(&old) && image.opens(&new) && image.slots() == [1]);
        assert_eq!(image.volume_key(&new), volume_key);
        assert_eq!(rotated["outcome"], "rotated");
        assert_eq!(rotated["from_fingerprint"], json!(old.fingerprint()));
        assert_eq!(rotated["to_fingerprint"], json!(new.fingerprint()));
        assert_eq!(rotated["generation"], if mount == "rook" { Value::Null } else { json!(2) });
        assert_eq!(
            rotated["devices"],
            json!([{"path": device, "slot": 1, "pending": null, "removed": [0], "foreign": []}])
        );
        let verified = kms.run(&["verify", NAME, &device]).want(0);
        assert!(verified.stdout.contains("slot 1  pbkdf2"), "{}", verified.stdout);
        let other = Image::luks2(&old);
        let ran = kms.run(&["verify", NAME, &device, &path(&other)]).want(1);
        assert!(ran.stdout.contains("ok ") && ran.stdout.contains("FAIL "), "{}", ran.stdout);
        let _ = kms.run(&["verify", "nosuch", &device]).want(3);
    }
}

#[tokio::test]
#[ignore = "needs cryptsetup and a Vault server: cargo xtask it rotation"]
async fn superseded_versions_are_destroyed_when_asked_for() {
    let server = server().await;
    let token = server.admin().rook_token().await.unwrap();
    let kms = kms(&server, &token, "rookv2");
    let image = osd(&kms, NAME);
    let device = path(&image);
    // Another device may have been left out, and would need the superseded KEK.
    let args = ["-o", "json", "rotate", NAME, &device, "--grace", "0", "--destroy-superseded"];
    let document = kms.run(&args).want(1).json();
    assert_eq!((&document["retired"], &document["confirmed"]), (&Value::Null, &json!(false)));
    let warnings = document["warnings"].to_string();
    assert!(warnings.contains(&format!("no other device than {device}:")), "{warnings}");
    let folder = tempfile::tempdir().unwrap();
    let image = in_folder(folder.path(), NAME, 0, &image);
    let device = path(&image);
    let args = ["-o", "json", "rotate", NAME, &device, "--grace", "0", "--destroy-superseded"];
    let document = kms.run(&args).want(0).json();
    assert_eq!((&document["retired"], &document["confirmed"]), (&json!(2), &json!(true)));
    let versions = format!("rookv2/metadata/rook-ceph-osd-encryption-key-{NAME}");
    let versions = server.admin().call("GET", &versions, Value::Null).await.unwrap();
    let destroyed = |number: &str| versions["data"]["versions"][number]["destroyed"].clone();
    assert_eq!([destroyed("1"), destroyed("2"), destroyed("3")], [json!(true), json!(true), json!(false)]);
    // KV version 1 keeps no versions: the rotation succeeds, but `--destroy-superseded` has nothing to destroy.
    let kms = self::kms(&server, &token, "rook");
    let image = osd(&kms, NAME);
    let ran = kms.run(&["rotate", NAME, &path(&image), "--grace", "0", "--destroy-superseded"]).want(1);
    assert!(ran.stdout.contains("rotated") && ran.stdout.contains("keeps none"), "{}", ran.stdout);
    assert!(image.opens(&kek(&kms, NAME)) && image.slots() == [1]);
}

#[tokio::test]
#[ignore = "needs cryptsetup and a Vault server: cargo xtask it rotation"]
async fn who_may_not_update_changes_nothing() {
    let server = server().await;
    let token = server.admin().rook_token().await.unwrap();
    let policy = "path \"rook/*\" { capabilities = [\"read\"] }\npath \"rookv2/*\" { capabilities = [\"read\"] }\n\
                  path \"sys/mounts\" { capabilities = [\"read\"] }\n";
    server.admin().put_policy("reader", policy).await.unwrap();
    let reader = TokenSpec { policies: &["reader"], ..TokenSpec::default() };
    let reader = server.admin().create_token(reader).await.unwrap();
    for mount in MOUNTS {
        let image = osd(&kms(&server, &token, mount), NAME);
        let poor = kms(&server, &reader, mount);
        let (before, old) = (image.bytes(), kek(&poor, NAME));
        let ran = poor.run(&["rotate", NAME, &path(&image), "--grace", "0"]).want(4);
        assert!(ran.stderr.contains("not update it: nothing was changed"), "{}", ran.stderr);
        assert!(image.bytes() == before, "not one byte of the device has changed");
        assert!(kek(&poor, NAME).ct_eq(&old));
        let _ = poor.run(&["rotate", NAME, &path(&image), "--dry-run"]).want(4);
    }
}

#[tokio::test]
#[ignore = "needs cryptsetup and a Vault server: cargo xtask it rotation"]
async fn a_run_that_is_killed_in_the_grace_is_finished_by_the_next_one() {
    let server = server().await;
    let token = server.admin().rook_token().await.unwrap();
    let kms = kms(&server, &token, "rookv2");
    let image = osd(&kms, NAME);
    let device = path(&image);
    // The KEK that a starting OSD has already fetched.
    let old = kek(&kms, NAME);
    let rooks = ["key-management", "rotate-key", NAME, &device];
    for args in [&["rotate", NAME, &device][..], &rooks] {
        let before = kek(&kms, NAME);
        killed_in_the_grace(kms.command(args).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap());
        let new = kek(&kms, NAME);
        assert!(image.opens(&before) && image.opens(&new) && !before.ct_eq(&new));

        let ran = kms.run(&["-o", "json", "rotate", NAME, &device, "--no-wait"]).want(0).json();
        assert_eq!(
            (&ran["outcome"], &ran["devices"][0]["pending"]),
            (&json!("pending"), &json!(image_other(&image, &new)))
        );
        assert!(kek(&kms, NAME).ct_eq(&new), "no second rotation while the first is young");
        let finish = ["-o", "json", "rotate", NAME, &device, "--finish", "--grace", "0"];
        assert_eq!(kms.run(&finish).want(0).json()["outcome"], "finished");
        assert!(image.slots().len() == 1 && image.opens(&new) && !image.opens(&before));
        assert_eq!(kms.run(&finish).want(0).json()["outcome"], "nothing-to-finish");
    }
    assert!(!image.opens(&old));
}

/// The slot, 0 or 1, that the KEK does not open.
fn image_other(image: &Image, kek: &Kek) -> u8 {
    u8::from(image.opens_slot(0, kek))
}

#[tokio::test]
#[ignore = "needs cryptsetup and a Vault server: cargo xtask it rotation"]
async fn many_osds_cost_few_requests_each_and_a_failure_is_resumed() {
    let server = server().await;
    let token = server.admin().rook_token().await.unwrap();
    let mut requests = server.requests().unwrap();
    for mount in MOUNTS {
        // The KEK, the new KEK, and a look whether it is there. KV version 1 has no conditional write, so a look at the KEK
        // comes right before the write, and another one before the removal of the old slot, until which a late write of an
        // earlier run may have arrived (decision 0008).
        let most = if mount == "rook" { 5 } else { 3 };
        let kms = kms(&server, &token, mount);
        let folder = tempfile::tempdir().unwrap();
        let first = osd(&kms, "osd-0");
        let shared = kek(&kms, "osd-0");
        let mut osds = vec![("osd-0".to_owned(), first)];
        for number in 1..20 {
            let name = format!("osd-{number}");
            let _ =
                kms.run_with(&["put", &name, "--from", "-"], shared.expose_secret_text().unwrap()).want(0);
            let image = in_folder(folder.path(), &name, number, &osds[0].1);
            osds.push((name, image));
        }
        osds[0].1 = in_folder(folder.path(), "osd-0", 0, &osds[0].1);
        let broken = osds[7].1.bytes();
        std::fs::write(osds[7].1.path(), "no device").unwrap();
        let data_dir = folder.path().display().to_string();
        let all =
            ["-o", "json", "rotate", "--all", "--data-dir", &data_dir, "--grace", "0", "--resume", "journal"];

        requests.forget().unwrap();
        let ran = kms.run(&all).want(2);
        let summary = ran.json();
        assert_eq!((&summary["osds"], &summary["outcomes"]), (&json!(20), &json!({"rotated": 19})));
        assert_eq!(summary["failures"][0]["name"], "osd-7");
        let counted = requests.all().unwrap();
        for (name, image) in osds.iter().filter(|(name, _)| name != "osd-7") {
            let id = format!("rook-ceph-osd-encryption-key-{name}");
            let own = counted.iter().filter(|request| request.path.ends_with(&format!("/{id}"))).count();
            assert!(own <= most, "{mount}: {own} requests for {name}");
            assert!(image.opens(&kek(&kms, name)) && image.slots() == [1], "{name}");
        }
        let of_no_osd =
            counted.iter().filter(|request| !request.path.contains("rook-ceph-osd-encryption-key-"));
        let of_no_osd: Vec<_> = of_no_osd.collect();
        assert!(of_no_osd.len() <= 3, "the mount, the rights of all: {of_no_osd:?}");

        // The device is back, and the next run rotates only its OSD.
        std::fs::write(osds[7].1.path(), broken).unwrap();
        requests.forget().unwrap();
        let summary = kms.run(&all).want(0).json();
        assert_eq!((&summary["skipped"], &summary["outcomes"]), (&json!(19), &json!({"rotated": 1})));
        assert!(requests.all().unwrap().len() <= 8, "{:?}", requests.table());
        assert!(osds[7].1.opens(&kek(&kms, "osd-7")) && osds[7].1.slots() == [1]);
        assert!(!kms.folder().join("journal").exists());
    }
}

#[tokio::test]
#[ignore = "needs cryptsetup and a Vault server: cargo xtask it rotation"]
async fn nothing_secret_is_printed_or_handed_to_cryptsetup_where_others_see_it() {
    let server = server().await;
    let token = server.admin().rook_token().await.unwrap();
    let reader = TokenSpec { policies: &["default"], ..TokenSpec::default() };
    let poor = server.admin().create_token(reader).await.unwrap();
    for format in ["text", "json"] {
        let wrapper = Wrapper::new();
        let search = wrapper.folder().display().to_string();
        let setup = |token: &str| {
            kms(&server, token, "rookv2")
                .env("RUST_LOG", "trace")
                .env("PATH", &search)
                .global(&["-o", format])
        };
        let good = setup(&token);
        let plain = kms(&server, &token, "rookv2");
        let _ = plain.run(&["delete", NAME, "--destroy", "--ignore-not-found"]).want(0);
        let image = osd(&plain, NAME);
        let device = path(&image);
        let other = Image::luks2(&Kek::generate().unwrap());
        let first = kek(&plain, NAME);
        let mut printed = vec![
            good.run(&["rotate", NAME, &device, "--dry-run"]).want(0).text(),
            good.run(&["rotate", NAME, &device, "--grace", "0", "--metrics-file", "kms.prom"]).want(0).text(),
        ];
        let second = kek(&plain, NAME);
        let pending = good.run(&["rotate", NAME, &device, "--no-wait"]).want(0);
        assert_eq!(
            pending.stdout.contains("next: ") && pending.stdout.contains("--finish"),
            format == "text"
        );
        printed.extend([
            pending.text(),
            good.run(&["verify", NAME, &device, &path(&other)]).want(1).text(),
            good.run(&["rotate", NAME, &device, "--finish", "--grace", "0"]).want(0).text(),
            good.run(&["rotate", NAME, &path(&other), "--grace", "0", "--metrics-file", "kms.prom"])
                .want(1)
                .text(),
            setup(&poor).run(&["rotate", NAME, &device, "--grace", "0"]).want(4).text(),
        ]);
        let third = kek(&plain, NAME);
        good.file("list", &format!("{NAME} {device}\nnosuch {}\n", path(&other)));
        printed.push(good.run(&["rotate", "--all", "--list", "list", "--grace", "0"]).want(3).text());
        let fourth = kek(&plain, NAME);
        assert!(image.opens(&fourth) && image.slots().len() == 1);
        assert!(printed.iter().any(|text| text.contains("DEBUG")), "it does log");
        printed.push(std::fs::read_to_string(good.folder().join("kms.prom")).unwrap());
        assert!(wrapper.calls().len() > 20, "cryptsetup was the recorded one");
        printed.push(wrapper.calls().join("\n"));
        printed.push(wrapper.environ());
        let canaries = [
            Canary::new("token", &token),
            Canary::new("poor token", &poor),
            Canary::new("first KEK", first.expose_secret_text().unwrap()),
            Canary::new("second KEK", second.expose_secret_text().unwrap()),
            Canary::new("third KEK", third.expose_secret_text().unwrap()),
            Canary::new("fourth KEK", fourth.expose_secret_text().unwrap()),
        ];
        for text in printed.iter().filter(|text| !text.is_empty()) {
            for canary in &canaries {
                assert_eq!(canary.found_in(text), None, "{text}");
            }
        }
        let environ = wrapper.environ();
        let names: std::collections::BTreeSet<&str> =
            environ.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
        assert!(
            names.iter().all(|name| ["LC_ALL", "PATH", "PWD", "OLDPWD", "SHLVL", "_"].contains(name)),
            "{names:?}"
        );
    }
}

#[tokio::test]
#[ignore = "needs cryptsetup and a Vault server: cargo xtask it rotation"]
async fn metrics_tell_results_and_times_of_each_key() {
    let server = server().await;
    let token = server.admin().rook_token().await.unwrap();
    let kms = kms(&server, &token, "rookv2");
    let image = osd(&kms, NAME);
    let value = |metric: &str, name: &str| -> Option<f64> {
        let text = std::fs::read_to_string(kms.folder().join("kms.prom")).unwrap();
        let start = format!("{metric}{{key=\"{name}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&start)?.parse().ok())
    };
    let with = |more: &[&str], code: i32| {
        let _ = kms.run(&[more, &["--metrics-file", "kms.prom"]].concat()).want(code);
    };
    let device = path(&image);
    with(&["rotate", NAME, &device, "--no-wait"], 0);
    assert_eq!(value("kms_rotation_last_run_success", NAME), Some(1.0));
    assert_eq!(value("kms_kek_generation", NAME), Some(2.0));
    assert_eq!(value("kms_rotation_pending_key_slots", NAME), Some(1.0));
    let rotated = value("kms_rotation_last_rotation_timestamp_seconds", NAME).unwrap();
    assert_eq!(value("kms_kek_stored_timestamp_seconds", NAME), Some(rotated));
    with(&["rotate", NAME, &device, "--grace", "0", "--finish"], 0);
    assert_eq!(value("kms_rotation_pending_key_slots", NAME), Some(0.0));
    assert_eq!(
        value("kms_rotation_last_rotation_timestamp_seconds", NAME),
        Some(rotated),
        "nothing was rotated since"
    );
    let succeeded = value("kms_rotation_last_success_timestamp_seconds", NAME).unwrap();
    with(&["rotate", "nosuch", &device, "--grace", "0"], 3);
    with(&["rotate", NAME, "cluster.yaml", "--grace", "0"], 2);
    assert_eq!(value("kms_rotation_last_run_success", NAME), Some(0.0));
    assert_eq!(value("kms_rotation_last_run_success", "nosuch"), Some(0.0));
    assert_eq!(value("kms_rotation_last_success_timestamp_seconds", NAME), Some(succeeded), "it stays");
    assert!(value("kms_rotation_last_run_duration_seconds", NAME).unwrap() > 0.0);
}
