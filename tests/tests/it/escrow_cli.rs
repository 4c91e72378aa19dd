//! Escrows by the program, on a real OpenBao, with real LUKS headers, and beside Go's own age.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use kms_conformance::leak::Canary;
use kms_core::Kek;
use kms_testkit::{
    luks::{Image, Wrapper},
    servers::openbao::{OpenBao, OpenBaoConfig},
};
use kms_tests::{Kms, age::Pair, documents::keep_file, terminal::OnTerminal};
use serde_json::{Value, json};

/// A way to make a device that a KEK opens.
type Formatted = fn(&Kek) -> Image;

const OSDS: [(&str, Formatted); 3] =
    [("set1-data-0", Image::luks2), ("set1-data-1", Image::luks1), ("set1-data-2", Image::argon2id)];

struct Scene {
    _server: OpenBao,
    kms: Kms,
    osds: Vec<(&'static str, Kek, Image)>,
    calls: Wrapper,
    token: String,
}

/// Keys in OpenBao, their devices in Rook's folders, and files of two recipients and their identities.
async fn scene() -> Scene {
    let server = OpenBao::start(OpenBaoConfig::default()).await.unwrap();
    let token = server.admin().rook_token().await.unwrap();
    let calls = Wrapper::new();
    let kms = Kms::new()
        .on_vault(&server, &token, "rookv2", &[])
        .env("PATH", &calls.folder().display().to_string())
        .env("RUST_LOG", "trace");
    for name in ["keks", "headers"] {
        let pair = Pair::generate();
        kms.file(&format!("{name}.txt"), &pair.recipient);
        kms.file(&format!("{name}.id"), &pair.identity);
    }
    let mut osds = Vec::new();
    for (id, (name, formatted)) in OSDS.into_iter().enumerate() {
        let _ = kms.run(&["create", name]).want(0);
        let kek = Kek::parse(kms.run(&["get", name]).want(0).stdout).unwrap();
        let folder = kms.folder().join(format!("rook/rook-ceph/{name}/ceph-{id}"));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("block"), "").unwrap();
        let image = formatted(&kek).copy(folder.join("block-tmp"));
        osds.push((name, kek, image));
    }
    Scene { _server: server, kms, osds, calls, token }
}

const DEVICES: [&str; 4] = ["--devices", "--data-dir", "rook", "--header-recipients"];
const BOTH: [&str; 4] = ["-i", "keks.id", "-i", "headers.id"];
const CREATE: [&str; 7] = ["-o", "json", "escrow", "create", "backup", "-R", "keks.txt"];
const DRILL: [&str; 5] = ["-o", "json", "escrow", "drill", "backup"];

/// The states of the KEKs in a drill.
fn states(drill: &Value) -> Vec<&str> {
    drill["keys"].as_array().unwrap().iter().map(|key| key["kek"].as_str().unwrap()).collect()
}

/// Everything in the files of a folder, and in the folders in it.
fn all_bytes(folder: &Path) -> String {
    let mut text = String::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            text += &all_bytes(&path);
        } else {
            text += &String::from_utf8_lossy(&std::fs::read(path).unwrap());
        }
    }
    text
}

#[tokio::test]
#[ignore = "needs cryptsetup and a Vault server: cargo xtask it escrow"]
async fn deleted_keys_come_back_and_their_devices_open() {
    let scene = scene().await;
    let Scene { kms, osds, .. } = &scene;
    let identity = std::fs::read_to_string(kms.folder().join("keks.id")).unwrap();
    let mut canaries = vec![Canary::new("the token", &scene.token), Canary::new("the identity", &identity)];
    canaries.extend(osds.iter().map(|(_, kek, _)| Canary::new("a KEK", kek.expose_secret_text().unwrap())));
    // As ceph-volume labels a device, so that the escrow knows its cluster.
    assert_eq!(osds[0].2.cryptsetup(&["config", "--subsystem", "ceph_fsid=0-1-2"], &[]), 0);
    scene.calls.forget();

    let made = kms.run(&[&CREATE[..], &DEVICES, &["headers.txt"]].concat()).want(0);
    let mut printed = made.text();
    let made = made.json();
    assert_eq!(
        (&made["ok"], &made["proof"], &made["provider"]),
        (&json!(true), &json!("file-key"), &json!("vault"))
    );
    assert_eq!((&made["keks"]["entries"], &made["headers"]["entries"]), (&json!(3), &json!(3)));
    assert_eq!((&made["fsid"], &made["cluster"]), (&json!("0-1-2"), &json!("rook-ceph/rook-ceph")));
    for device in made["devices"].as_array().unwrap() {
        assert_eq!((&device["opened"], &device["slots"]), (&json!(0), &json!([0])), "{device}");
    }
    let listed = kms.run(&["escrow", "list", "backup"]).want(0);
    assert!(listed.stdout.contains("never") && listed.stdout.contains("age1"), "{}", listed.stdout);

    let live = [&DRILL[..], &BOTH, &["--live", "--data-dir", "rook"]].concat();
    let drilled = kms.run(&live).want(0);
    printed += &drilled.text();
    let drilled = drilled.json();
    assert_eq!(states(&drilled), ["current"; 3]);
    for key in drilled["keys"].as_array().unwrap() {
        let [header, device] = [&key["headers"][0], &key["devices"][0]];
        assert_eq!((&header["opened"], &device["opened"]), (&json!(0), &json!(0)), "{key}");
        assert_eq!(device["header"], "same");
    }
    assert!(kms.run(&["escrow", "list", "backup"]).want(0).stdout.contains("ok "));

    for (name, ..) in osds {
        let _ = kms.run(&["delete", name, "--destroy", "--in-use"]).want(0);
    }
    let drilled = kms.run(&[&DRILL[..], &BOTH].concat()).want(0).json();
    assert_eq!(states(&drilled), ["absent"; 3]);
    let restore = ["-o", "json", "escrow", "restore", "backup", "-i", "keks.id"];
    for (more, outcomes) in [
        (&["set1-data-1"][..], vec!["created"]),
        (&["--all"], vec!["created", "unchanged", "created"]),
        (&["--all"], vec!["unchanged"; 3]),
    ] {
        let restored = kms.run(&[&restore, more].concat()).want(0);
        printed += &restored.text();
        let restored = restored.json();
        let found: Vec<_> =
            restored["keys"].as_array().unwrap().iter().map(|key| key["outcome"].as_str().unwrap()).collect();
        assert_eq!(found, outcomes);
    }
    for (name, kek, image) in osds {
        let _ = kms.run(&["verify", name, &image.path().display().to_string()]).want(0);
        assert!(Kek::parse(kms.run(&["get", name]).want(0).stdout).unwrap().ct_eq(kek));
    }
    let _ = kms.run(&[&restore, &["nosuch"][..]].concat()).want(3);

    assert!(printed.contains("TRACE") || printed.contains("DEBUG"), "it does log");
    printed += &scene.calls.calls().join("\n");
    printed += &scene.calls.environ();
    assert!(printed.contains("--test-passphrase"), "the KEKs were tried");
    printed += &all_bytes(&kms.folder().join("backup"));
    for canary in &canaries {
        assert_eq!(canary.found_in(&printed), None);
    }
}

#[tokio::test]
#[ignore = "needs cryptsetup and a Vault server: cargo xtask it escrow"]
async fn a_drill_names_what_would_not_come_back_and_recover_finds_what_does() {
    let scene = scene().await;
    let Scene { kms, osds, .. } = &scene;
    // The wrong identity is seen before the escrow exists.
    let _ = kms.run(&[&CREATE[..], &["-i", "headers.id"]].concat()).want(2);
    assert!(!kms.folder().join("backup").exists());
    let made = kms.run(&[&CREATE[..], &DEVICES, &["headers.txt", "-i", "keks.id"]].concat()).want(0).json();
    assert_eq!(made["proof"], "identity");

    let (name, kek, image) = &osds[0];
    let device = image.path().display().to_string();
    let _ = kms.run_with(&["put", name, "--from", "-", "--replace"], "an unrelated KEK").want(0);
    let _ = kms.run(&["create", "set2-data-0"]).want(0);
    let failed = kms.run(&[&DRILL[..], &BOTH].concat()).want(1);
    assert_eq!(states(&failed.json()), ["other", "current", "current", "missing"]);
    let text = kms.run(&[&["escrow", "drill", "backup"], &BOTH[..]].concat()).want(1).stdout;
    for line in [
        "FAIL  set1-data-0: the KMS returns another KEK than the escrow has: make a new escrow",
        "FAIL  set2-data-0: the escrow does not have the key: make a new escrow",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}: {text}");
    }
    assert!(kms.run(&["escrow", "list", "backup"]).want(0).stdout.contains("FAILED "));
    // Nothing is compared without the KMS, and the headers open all the same.
    let offline = Kms::new();
    let backup = kms.folder().join("backup").display().to_string();
    let ids = ["keks.id", "headers.id"].map(|id| kms.folder().join(id).display().to_string());
    let ran =
        offline.run(&["-o", "json", "escrow", "drill", &backup, "-i", &ids[0], "-i", &ids[1], "--offline"]);
    assert_eq!(states(&ran.want(0).json()), ["not-compared"; 3]);
    let ran = offline.run(&["escrow", "drill", &backup, "-i", &ids[0], "--offline"]).want(2);
    assert!(ran.stderr.contains("headers.tar.age"), "{}", ran.stderr);

    let refused = kms.run(&["escrow", "restore", "backup", name, "-i", "keks.id"]).want(1);
    assert!(refused.stdout.contains("--replace"), "{}", refused.text());
    let _ = kms.run(&["verify", name, &device]).want(1);
    let _ = kms.run(&["recover", name, &device]).want(0);
    // Without its history, only the escrow has the KEK.
    let _ = kms.run(&["delete", name, "--destroy", "--in-use"]).want(0);
    let _ = kms.run_with(&["put", name, "--from", "-"], "an unrelated KEK").want(0);
    let _ = kms.run(&["recover", name, &device]).want(1);
    let escrow = ["-o", "json", "recover", name, &device, "--escrow", "backup", "-i", "keks.id"];
    let found = kms.run(&escrow).want(0).json();
    let candidate = &found["candidates"][1];
    assert_eq!((&found["outcome"], &candidate["escrow"]), (&json!("found"), &json!("backup")));
    assert_eq!((&candidate["escrow_key"], &candidate["opens_all"]), (&json!(name), &json!(true)));
    assert_eq!(kms.run(&[&escrow[..], &["--write"]].concat()).want(0).json()["outcome"], "written");
    assert!(Kek::parse(kms.run(&["get", name]).want(0).stdout).unwrap().ct_eq(kek));
    // The key of another name opens the device too.
    let _ = kms
        .run(&["-o", "json", "recover", "new-name", &device, "--escrow", "backup", "-i", "keks.id"])
        .want(0);
}

#[tokio::test]
#[ignore = "needs cryptsetup and a Vault server: cargo xtask it escrow"]
async fn headers_need_recipients_of_their_own_and_one_bad_device_does_not_stop_the_rest() {
    let scene = scene().await;
    let kms = &scene.kms;
    let refused = kms.run(&[&CREATE[..], &DEVICES, &["keks.txt"]].concat()).want(2);
    assert!(refused.stderr.contains("--together"), "{}", refused.stderr);
    assert!(!kms.folder().join("backup").exists());
    std::fs::write(kms.folder().join("rook/rook-ceph/set1-data-1/ceph-1/block-tmp"), "no header").unwrap();
    let made = kms.run(&[&CREATE[..], &["--together"], &DEVICES[..3]].concat()).want(2);
    let document = made.json();
    assert_eq!(
        (&document["ok"], &document["headers"]["entries"]),
        (&json!(false), &json!(2)),
        "{}",
        made.stdout
    );
    assert!(made.stdout.contains("no LUKS header"), "{}", made.stdout);
    let _ = kms.run(&[&CREATE[..], &["--overwrite", "set1-data-0"]].concat()).want(0);
    let drilled = kms.run(&[&DRILL[..], &["-i", "keks.id"]].concat()).want(1).json();
    assert_eq!(states(&drilled), ["current", "missing", "missing"]);
    let left: Vec<_> = std::fs::read_dir(kms.folder().join("backup")).unwrap().collect();
    assert_eq!(left.len(), 3, "KEKs, document, and the record of the drill");
}

/// Go's own age and tar.
fn go(args: &[&str], folder: &Path, input: &[u8]) -> Vec<u8> {
    let program: PathBuf = kms_testkit::servers::setting("KMS_IT_GO_AGE").unwrap();
    let mut child = Command::new(program)
        .args(args)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // Its output may fill the pipe before it has read everything.
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{args:?}");
    writer.join().unwrap().unwrap();
    output.stdout
}

/// The files that Go finds in an archive.
fn files(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let lines = std::str::from_utf8(bytes).unwrap().lines();
    let file = |line: &str| {
        let file: Value = serde_json::from_str(line).unwrap();
        assert_eq!(file["mode"], 0o400);
        (file["name"].as_str().unwrap().to_owned(), STANDARD.decode(file["data"].as_str().unwrap()).unwrap())
    };
    lines.map(file).collect()
}

#[tokio::test]
#[ignore = "needs cryptsetup, a Vault server and Go: cargo xtask it escrow"]
async fn the_age_of_go_reads_what_kms_writes_and_kms_reads_what_go_writes() {
    let scene = scene().await;
    let Scene { kms, osds, .. } = &scene;
    let folder = kms.folder();
    let keygen = String::from_utf8(go(&["keygen"], folder, b"")).unwrap();
    let (identity, recipient) = keygen.trim().split_once('\n').unwrap();
    kms.file("keks.id", identity);
    kms.file("keks.txt", recipient);
    let _ = kms.run(&[&CREATE[..], &DEVICES, &["headers.txt"]].concat()).want(0);
    let backup = folder.join("backup");
    let archive = |name: &str| std::fs::read(backup.join(name)).unwrap();

    let keks = files(&go(&["read", "keks.id"], folder, &archive("keks.tar.age")));
    assert_eq!(keks[0].0, "manifest.json");
    for ((name, kek, image), (file, bytes)) in osds.iter().zip(&keks[1..]) {
        assert_eq!((file, bytes.as_slice()), (&format!("keks/{name}"), kek.expose_secret_bytes()));
        assert!(image.opens(&Kek::parse_bytes(bytes.clone()).unwrap()));
    }
    let headers = files(&go(&["read", "headers.id"], folder, &archive("headers.tar.age")));
    assert_eq!((headers.len(), headers[3].0.as_str()), (4, "manifest.json"));
    let manifest: Value = serde_json::from_slice(&headers[3].1).unwrap();
    for (schema, text) in [
        ("escrow-manifest", keks[0].1.clone()),
        ("escrow-manifest", headers[3].1.clone()),
        ("escrow-sidecar", archive("escrow.json")),
    ] {
        keep_file(schema, std::str::from_utf8(&text).unwrap(), false);
    }
    for (at, (_, kek, image)) in osds.iter().enumerate() {
        let (entry, (file, bytes)) = (&manifest["headers"][at], &headers[at]);
        assert_eq!((&entry["file"], &entry["bytes"]), (&json!(file), &json!(bytes.len())));
        // The header alone opens, restored by stock cryptsetup.
        let (path, backup) = (folder.join("restored"), folder.join("header"));
        std::fs::write(&path, vec![0; image.bytes().len()]).unwrap();
        std::fs::write(&backup, bytes).unwrap();
        let restored = Image::at(&path);
        let backup = backup.display().to_string();
        let restore = ["luksHeaderRestore", "--batch-mode", "--header-backup-file", &backup];
        assert_eq!(restored.cryptsetup(&restore, &[]), 0);
        assert!(restored.opens(kek));
    }

    // Go writes the same files, with a tar and an encryption of its own.
    let lines = keks.iter().map(|(name, bytes)| {
        json!({"name": name, "mode": 0o400, "data": STANDARD.encode(bytes)}).to_string()
    });
    let written = go(&["write", "keks.txt"], folder, lines.collect::<Vec<_>>().join("\n").as_bytes());
    assert_ne!(written, archive("keks.tar.age"));
    std::fs::write(backup.join("keks.tar.age"), &written).unwrap();
    let changed = kms.run(&[&DRILL[..], &BOTH].concat()).want(1);
    assert!(changed.stderr.contains("is not the one that was written"), "{}", changed.stderr);
    for (name, ..) in osds {
        let _ = kms.run(&["delete", name, "--destroy", "--in-use"]).want(0);
    }
    let _ = kms.run(&["escrow", "restore", "backup", "--all", "-i", "keks.id"]).want(0);
    for (name, _, image) in osds {
        let _ = kms.run(&["verify", name, &image.path().display().to_string()]).want(0);
    }
}

#[tokio::test]
#[ignore = "needs cryptsetup and a Vault server: cargo xtask it escrow"]
async fn a_saved_header_goes_back_only_where_it_belongs() {
    let scene = scene().await;
    let Scene { kms, osds, .. } = &scene;
    let made = kms.run(&[&CREATE[..], &DEVICES, &["headers.txt"]].concat()).want(0).json();
    let uuid = |at: usize| made["devices"][at]["uuid"].as_str().unwrap().to_owned();
    let (uuid, of_another) = (uuid(0), uuid(1));
    let (name, kek, image) = &osds[0];
    let device = image.path().display().to_string();
    let restore = |device: &str, uuid: &str| {
        let named = ["-o", "json", "escrow", "restore", "backup", name, "--header", device, "--uuid", uuid];
        kms.run(&[&named[..], &BOTH].concat())
    };
    let said = |ran: kms_tests::Ran, what: &str| assert!(ran.stderr.contains(what), "{what}: {}", ran.text());
    said(restore(&device, &uuid).want(1), "the KEK opens the device as it is");
    said(restore(&device, &of_another).want(3), "no header of this UUID");
    let other = osds[1].2.path().display().to_string();
    said(restore(&other, &uuid).want(1), "another UUID");
    assert!(osds[1].2.opens(&osds[1].1));

    // The header is lost: zeros where it was.
    let mut bytes = image.bytes();
    bytes[..2 << 20].fill(0);
    std::fs::write(image.path(), &bytes).unwrap();
    let _ = kms.run(&["verify", name, &device]).want(2);
    let restored = restore(&device, &uuid).want(0).json();
    assert_eq!(restored["header"], json!({"device": device, "uuid": uuid, "opened": 0}));
    let _ = kms.run(&["verify", name, &device]).want(0);

    // The KMS has another KEK than the header: neither comes back without a word.
    let _ = kms.run_with(&["put", name, "--from", "-", "--replace"], "an unrelated KEK").want(0);
    std::fs::write(image.path(), &bytes).unwrap();
    let ran = restore(&device, &uuid).want(1);
    assert!(ran.stdout.contains("--replace") && ran.json()["header"].is_null(), "{}", ran.text());
    assert!(!image.opens(kek));
}

#[tokio::test]
#[ignore = "needs cryptsetup and a Vault server: cargo xtask it escrow"]
async fn a_recovery_key_opens_the_device_after_a_rotation_and_until_it_is_removed() {
    let scene = scene().await;
    let Scene { kms, osds, .. } = &scene;
    let (name, kek, image) = &osds[0];
    let device = image.path().display().to_string();
    let add = ["-o", "json", "escrow", "slot", "add", name, &device, "-R", "keks.txt", "--page", "page.age"];
    scene.calls.forget();
    let added = kms.run(&add).want(0);
    let document = added.json();
    assert_eq!((&document["devices"][0]["slot"], image.slots()), (&json!(2), vec![0, 2]));
    let shown = kms.run(&["-o", "json", "slots", &device]).want(0).json();
    assert_eq!(shown["slots"][1]["owner"], "kms-recovery");
    // A second one, and a page that exists, are refused before anything changes.
    let again = kms.run(&[&add[..10], &["other.age"]].concat()).want(1);
    assert!(again.stderr.contains("has a recovery key already"), "{}", again.stderr);
    let (_, _, second) = &osds[2];
    let other = second.path().display().to_string();
    let _ = kms
        .run(&["escrow", "slot", "add", osds[2].0, &other, "-R", "keks.txt", "--page", "page.age"])
        .want(2);
    let luks1 = osds[1].2.path().display().to_string();
    let _ = kms
        .run(&["escrow", "slot", "add", osds[1].0, &luks1, "-R", "keks.txt", "--page", "other.age"])
        .want(2);
    assert!(second.slots() == [0] && !kms.folder().join("other.age").exists());

    let check = ["-o", "json", "escrow", "slot", "check", &device];
    let sealed = [&check[..], &["--page", "page.age", "-i", "keks.id"]].concat();
    assert_eq!(kms.run(&sealed).want(0).json()["devices"][0]["opened"], 2);
    // The page is for stock age, and the key for stock cryptsetup.
    let page = go(&["text", "keks.id"], kms.folder(), &std::fs::read(kms.folder().join("page.age")).unwrap());
    let page = String::from_utf8(page).unwrap();
    let key = page.lines().find_map(|line| line.strip_prefix("recovery key: ")).unwrap().to_owned();
    assert!(page.contains(name) && page.contains('\u{2588}'), "{page}");
    let recovery = Kek::parse(key.as_str()).unwrap();
    assert!(image.opens_slot(2, &recovery));
    let canary = Canary::new("the recovery key", &key);
    let mut printed = added.text() + &scene.calls.calls().join("\n") + &scene.calls.environ();
    assert!(printed.contains("luksAddKey") && printed.contains("token import"), "{printed}");

    // Rotations leave it alone.
    for _ in 0..2 {
        let _ = kms.run(&["rotate", name, &device, "--grace", "0"]).want(0);
        printed += &kms.run_with(&[&check[..], &["--key", "-"]].concat(), &key.to_lowercase()).want(0).text();
    }
    assert!(!image.opens(kek) && image.opens_slot(2, &recovery));
    assert_eq!(canary.found_in(&printed), None);
    let _ = kms.run_with(&["escrow", "slot", "check", &other, "--key", "-"], &key).want(1);

    let removed = kms.run(&["-o", "json", "escrow", "slot", "remove", name, &device]).want(0).json();
    assert_eq!(removed["devices"][0]["removed"], json!([2]));
    assert!(!image.opens(&recovery) && image.slots().len() == 1);
    assert_eq!(kms.run(&sealed).want(1).json()["devices"][0]["marked"], json!([]));
    let _ = kms.run(&["verify", name, &device]).want(0);
    // A header without room for a rotation afterwards stays as it is.
    for slot in 1..7 {
        second.add(&osds[2].1, slot, &Kek::generate().unwrap());
    }
    let full = kms
        .run(&["escrow", "slot", "add", osds[2].0, &other, "-R", "keks.txt", "--page", "other.age"])
        .want(1);
    assert!(full.stderr.contains("no room") && second.slots().len() == 7, "{}", full.stderr);
    assert!(!kms.folder().join("other.age").exists());

    let again = kms.run(&["escrow", "slot", "remove", name, &device]).want(0);
    assert!(again.stdout.contains("has no recovery key"), "{}", again.stdout);
}

/// An identity of the plugin and its recipient, from this command of the plugin.
fn plugin_keys(kms: &Kms, command: &str) -> (String, String) {
    let keygen = String::from_utf8(go(&[command], kms.folder(), b"")).unwrap();
    let (identity, recipient) = keygen.trim().split_once('\n').unwrap();
    (identity.to_owned(), recipient.to_owned())
}

/// Puts the plugin where age looks for it.
fn install_plugin(scene: &Scene) {
    let program: PathBuf = kms_testkit::servers::setting("KMS_IT_GO_AGE").unwrap();
    // The library follows links, and the program knows itself by its name.
    std::fs::hard_link(program, scene.calls.folder().join("age-plugin-kmstest")).unwrap();
}

#[tokio::test]
#[ignore = "needs a Vault server and Go: cargo xtask it escrow"]
async fn a_plugin_encrypts_and_decrypts_and_its_message_is_shown() {
    let scene = scene().await;
    let kms = &scene.kms;
    let (identity, recipient) = plugin_keys(kms, "plugin-keygen");
    kms.file("plugin.id", &identity);
    let mixed = format!("{recipient}\n{}", std::fs::read_to_string(kms.folder().join("keks.txt")).unwrap());
    kms.file("plugin.txt", &mixed);
    let create = ["escrow", "create", "backup", "-R", "plugin.txt"];
    let missing = kms.run(&create).want(2);
    assert!(missing.stderr.contains("age-plugin-kmstest"), "{}", missing.stderr);

    install_plugin(&scene);
    let _ = kms.run(&create).want(0);
    for id in ["plugin.id", "keks.id"] {
        let drilled = kms.run(&["escrow", "drill", "backup", "-i", id]).want(0);
        assert_eq!(drilled.stderr.contains("touch the key"), id == "plugin.id", "{}", drilled.stderr);
        let secret =
            Canary::new("the identity", std::fs::read_to_string(kms.folder().join(id)).unwrap().trim());
        assert_eq!(secret.found_in(&drilled.text()), None);
    }
}

#[tokio::test]
#[ignore = "needs a Vault server and Go: cargo xtask it escrow"]
async fn a_plugin_asks_for_a_pin_on_the_terminal_which_does_not_show_it() {
    let scene = scene().await;
    let kms = &scene.kms;
    let (identity, recipient) = plugin_keys(kms, "pin-keygen");
    kms.file("pin.id", &identity);
    kms.file("pin.txt", &recipient);
    install_plugin(&scene);
    let _ = kms.run(&["escrow", "create", "backup", "-R", "pin.txt"]).want(0);

    let drill = ["escrow", "drill", "backup", "-i", "pin.id"];
    for (typed, code) in [("314159", 0), ("271828", 2)] {
        let mut terminal = OnTerminal::start_asking(&kms.command(&drill));
        terminal.until("use slot 1? [y: use it, n: skip it]: ");
        terminal.type_line("y");
        terminal.until("PIN of slot 1: ");
        terminal.type_line(typed);
        let (ended, stdout, shown) = terminal.end();
        assert_eq!(ended, code, "{stdout}{shown}");
        assert!(!shown.contains(typed) && !stdout.contains(typed), "{shown}");
        assert_eq!(stdout.contains("would come back"), code == 0, "{stdout}");
    }
    let mut terminal = OnTerminal::start_asking(&kms.command(&drill));
    terminal.until("use slot 1?");
    terminal.type_line("n");
    assert_eq!(terminal.end().0, 2);
    // Without a terminal there is no answer.
    let ran = kms.run(&drill).want(2);
    assert!(ran.stderr.contains("there is no terminal for an answer: use slot 1?"), "{}", ran.stderr);
}
