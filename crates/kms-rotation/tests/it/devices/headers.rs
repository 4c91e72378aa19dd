//! Everything that a LUKS header can be: whether a dry run and a run agree, what each refuses, and that a refusal writes
//! nothing. cryptsetup makes the headers; where this release of it cannot, the test edits the metadata and writes the
//! checksums anew.

use std::{
    fs,
    io::Write as _,
    process::{Command, Stdio},
};

use kms_core::{Freshness, Kek, KmsProvider as _};
use kms_rotation::{Options, Outcome, Silent, verify};
use kms_testkit::luks::Image;
use serde_json::{Value, json};

use crate::bench::{Bench, at_once, kek, name};

/// The bytes of each copy of the header, and of its binary part.
const COPY: usize = 16 << 10;
const BINARY: usize = 4096;

/// The expected end of a rotation.
enum End {
    /// A new KEK.
    Rotated,
    /// A new KEK; cryptsetup repairs the header whenever it reads it, in a dry run too.
    Repaired,
    /// Refused with an error that contains these texts.
    Refused(&'static [&'static str]),
}

use End::{Refused, Repaired, Rotated};

/// A kind of header: its name, how it is made from a header with the KEK in slot 0, and the end of a rotation.
type Case = (&'static str, fn(&Image, &Kek), End);

/// Imports a token of this type that refers to these slots.
fn token(image: &Image, kind: &str, slots: &[&str]) {
    let path = image.path().with_file_name("token.json");
    // Where systemd has installed its handlers, they check these fields.
    let token = json!({
        "type": kind, "keyslots": slots,
        "tpm2-blob": "AAAA", "tpm2-pcrs": [7], "tpm2-policy-hash": "ab".repeat(32),
        "fido2-credential": "AAAA", "fido2-salt": "AAAA", "fido2-rp": "io.systemd.cryptsetup",
    });
    fs::write(&path, token.to_string()).unwrap();
    let options = ["token", "import", "--json-file", path.to_str().unwrap()];
    assert_eq!(image.cryptsetup(&options, &[]), 0, "import a token");
}

fn priority(image: &Image, slot: &str, priority: &str) {
    assert_eq!(image.cryptsetup(&["config", "--key-slot", slot, "--priority", priority], &[]), 0);
}

fn unbound(image: &Image, known: &Kek, slot: &str) {
    let (known, new) = (image.key_file(known), image.key_file(&kek()));
    let options = ["luksAddKey", "--batch-mode", "--unbound", "--key-size", "512", "--key-file", &known];
    let costs = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-slot", slot];
    assert_eq!(image.cryptsetup(&[&options[..], &costs].concat(), &[&new]), 0);
}

/// The metadata of the first copy of the header.
fn metadata(image: &Image) -> Value {
    let bytes = image.bytes();
    let text = bytes[BINARY..COPY].split(|byte| *byte == 0).next().unwrap();
    serde_json::from_slice(text).unwrap()
}

fn sha256(bytes: &[u8]) -> Vec<u8> {
    let mut program = Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    program.stdin.take().unwrap().write_all(bytes).unwrap();
    let output = program.wait_with_output().unwrap().stdout;
    (0..32)
        .map(|at| u8::from_str_radix(std::str::from_utf8(&output[at * 2..][..2]).unwrap(), 16).unwrap())
        .collect()
}

/// Changes the metadata of both copies, with valid checksums.
fn edit(image: &Image, change: impl FnOnce(&mut Value)) {
    let mut json = metadata(image);
    change(&mut json);
    let text = json.to_string();
    let mut bytes = image.bytes();
    for copy in bytes[..2 * COPY].chunks_mut(COPY) {
        copy[BINARY..].fill(0);
        copy[BINARY..][..text.len()].copy_from_slice(text.as_bytes());
        copy[448..512].fill(0);
        let sum = sha256(copy);
        copy[448..480].copy_from_slice(&sum);
    }
    fs::write(image.path(), bytes).unwrap();
}

fn damage(image: &Image, range: std::ops::Range<usize>) {
    let mut bytes = image.bytes();
    bytes[range].fill(b'x');
    fs::write(image.path(), bytes).unwrap();
}

/// Fills the area of the key slots: it holds eight of them.
fn fill_area(image: &Image, kek: &Kek) {
    for slot in 2..9 {
        image.add(kek, slot, kek);
    }
}

/// Fills the metadata with a token.
fn fill_metadata(image: &Image) {
    let used = metadata(image).to_string().len();
    edit(image, |json| {
        let rest = "x".repeat(COPY - BINARY - used - 100);
        json["tokens"]["0"] = json!({"type": "note", "keyslots": [], "text": rest});
    });
}

fn require(image: &Image, feature: &str) {
    edit(image, |json| json["config"]["requirements"] = json!({"mandatory": [feature]}));
}

/// Replaces the image by a header whose data are on another device.
fn detach(image: &Image, kek: &Kek) {
    let data = image.path().with_file_name("data");
    fs::File::create(&data).unwrap().set_len(1 << 20).unwrap();
    fs::File::create(image.path()).unwrap().set_len(16 << 20).unwrap();
    let key = image.key_file(kek);
    let format = ["luksFormat", "--batch-mode", "--type", "luks2", "--key-file", &key, "--pbkdf", "pbkdf2"];
    let rest = ["--pbkdf-force-iterations", "1000", data.to_str().unwrap(), "--header"];
    assert_eq!(image.cryptsetup(&[&format[..], &rest].concat(), &[]), 0, "format with a detached header");
}

fn reencrypt(image: &Image, kek: &Kek) {
    let key = image.key_file(kek);
    let options = ["reencrypt", "--init-only", "--batch-mode", "--key-file", &key, "--resilience", "none"];
    let costs = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--force-offline-reencrypt"];
    assert_eq!(image.cryptsetup(&[&options[..], &costs].concat(), &[]), 0, "begin a re-encryption");
}

const CASES: &[Case] = &[
    ("plain", |_, _| {}, Rotated),
    (
        "a token of clevis, which takes the first free slot",
        |image, current| {
            image.add(current, 1, &kek());
            token(image, "clevis", &["1"]);
        },
        Refused(&["key slot 1", "clevis", "clevis luks bind -s 2", "clevis luks unbind -s 1"]),
    ),
    (
        "a token of a TPM",
        |image, current| {
            image.add(current, 1, &kek());
            token(image, "systemd-tpm2", &["1"]);
        },
        Refused(&["key slot 1", "systemd-tpm2", "systemd-cryptenroll --wipe-slot=1"]),
    ),
    (
        "a token of a security key",
        |image, current| {
            image.add(current, 1, &kek());
            token(image, "systemd-fido2", &["1"]);
        },
        Refused(&["key slot 1", "systemd-fido2"]),
    ),
    (
        "a recovery key of systemd",
        |image, current| {
            image.add(current, 1, &kek());
            token(image, "systemd-recovery", &["1"]);
        },
        Refused(&["key slot 1", "systemd-recovery"]),
    ),
    (
        "a token of an unknown type, on the slot of the KEK",
        |image, _| token(image, "site-escrow", &["0"]),
        Refused(&["key slot 0", "site-escrow", "token remove --token-id 0"]),
    ),
    (
        "a token of the kernel's keyring",
        |image, _| {
            let options = ["token", "add", "--key-description", "x", "--key-slot", "0"];
            assert_eq!(image.cryptsetup(&options, &[]), 0);
        },
        Refused(&["key slot 0", "luks2-keyring"]),
    ),
    (
        "two tokens on two slots",
        |image, current| {
            image.add(current, 1, &kek());
            image.add(current, 2, &kek());
            token(image, "clevis", &["2"]);
            token(image, "systemd-tpm2", &["1", "2"]);
        },
        Refused(&["key slot 1", "token 1 of type systemd-tpm2"]),
    ),
    (
        "a token outside of the pair",
        |image, current| {
            image.add(current, 2, &kek());
            token(image, "clevis", &["2"]);
        },
        Rotated,
    ),
    ("a token without a slot", |image, _| token(image, "note", &[]), Rotated),
    (
        "a token for a slot that does not exist",
        |image, _| edit(image, |json| json["tokens"]["0"] = json!({"type": "clevis", "keyslots": ["1"]})),
        Refused(&["cryptsetup"]),
    ),
    (
        "another key of priority ignore in the pair",
        |image, current| {
            image.add(current, 1, &kek());
            priority(image, "1", "ignore");
        },
        Refused(&["key slot 1", "priority ignore"]),
    ),
    (
        "the KEK in a slot of priority ignore",
        |image, _| priority(image, "0", "ignore"),
        Refused(&["key slot 0", "priority ignore", "--priority normal"]),
    ),
    (
        "priorities outside of the pair",
        |image, current| {
            image.add(current, 2, &kek());
            image.add(current, 3, &kek());
            priority(image, "2", "ignore");
            priority(image, "3", "prefer");
        },
        Rotated,
    ),
    ("an unbound slot in the pair", |image, current| unbound(image, current, "1"), Refused(&["key slot 1"])),
    ("an unbound slot outside of the pair", |image, current| unbound(image, current, "5"), Rotated),
    ("a re-encryption that has begun", reencrypt, Refused(&["re-encrypted"])),
    ("no area is free", fill_area, Refused(&["no room"])),
    (
        "no area is free, but a leftover slot will be",
        |image, current| {
            image.add(current, 1, &kek());
            for slot in 2..8 {
                image.add(current, slot, current);
            }
        },
        Rotated,
    ),
    ("the metadata are full", |image, _| fill_metadata(image), Refused(&["no room"])),
    ("a requirement of the future", |image, _| require(image, "time-travel"), Refused(&["time-travel"])),
    ("hardware encryption", |image, _| require(image, "opal"), Refused(&["opal"])),
    (
        "integrity tags",
        |image, _| {
            edit(image, |json| {
                json["segments"]["0"]["integrity"] = json!({"type": "hmac(sha256)", "journal_encryption": "none", "journal_integrity": "none"});
            });
        },
        Rotated,
    ),
    (
        "flags of the activation",
        |image, _| edit(image, |json| json["config"]["flags"] = json!(["allow-discards"])),
        Rotated,
    ),
    (
        "a slot of a kind of the future in the pair",
        |image, current| {
            image.add(current, 1, &kek());
            edit(image, |json| json["keyslots"]["1"]["type"] = json!("future"));
        },
        Refused(&["image"]),
    ),
    ("a header of its own", detach, Rotated),
    ("a damaged second copy", |image, _| damage(image, COPY..COPY + 512), Repaired),
    ("a damaged first copy", |image, _| damage(image, BINARY..BINARY + 64), Repaired),
    (
        "two damaged copies",
        |image, _| {
            damage(image, BINARY..BINARY + 64);
            damage(image, COPY + BINARY..COPY + BINARY + 64);
        },
        Refused(&["image"]),
    ),
];

/// The key slots and the tokens of others, which a rotation must leave as they are.
fn of_others(image: &Image) -> Value {
    let mut json = metadata(image);
    let keyslots = json["keyslots"].as_object_mut().unwrap();
    keyslots.retain(|slot, _| !["0", "1"].contains(&slot.as_str()));
    json!([keyslots, json["tokens"]])
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it rotation"]
async fn a_dry_run_and_a_run_agree_on_every_kind_of_header() {
    let dry = || {
        let mut options = at_once();
        options.dry_run = true;
        options
    };
    for (case, make, end) in CASES {
        let current = kek();
        let image = Image::luks2(&current);
        make(&image, &current);
        let bench = Bench::with(&current, vec![image]).await;
        let rotate = async |options: Options| bench.rotate(&options).await;
        let before = bench.bytes();
        let rehearsed = rotate(dry()).await;
        assert!(bench.bytes() == before || matches!(end, Repaired), "{case}: a dry run wrote to the device");
        match end {
            Rotated | Repaired => {
                assert_eq!(
                    rehearsed.unwrap_or_else(|error| panic!("{case}: {error}")).outcome,
                    Outcome::DryRun
                );
                let others = of_others(&bench.images[0]);
                let report = rotate(at_once()).await.unwrap_or_else(|error| panic!("{case}: {error}"));
                assert_eq!(report.outcome, Outcome::Rotated, "{case}");
                bench.holds(case).await;
                assert_eq!(of_others(&bench.images[0]), others, "{case}");
            }
            Refused(texts) => {
                let run = rotate(at_once()).await;
                for (which, result) in [("the dry run", rehearsed), ("the run", run)] {
                    let error = result.err().unwrap_or_else(|| panic!("{case}: {which} went on")).to_string();
                    for text in *texts {
                        assert!(error.contains(text), "{case}: {which}: {text} is not in {error}");
                    }
                }
                assert!(bench.bytes() == before, "{case}: a refused run wrote to the device");
                let stored = bench.kms.inner().get(&name(), Freshness::Fresh).await.unwrap();
                assert_eq!(stored.version.as_str(), "1", "{case}");
            }
        }
    }
}

/// A header does not tell a passphrase of a person from the KEK of an earlier rotation; the key derivation does.
#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it rotation"]
async fn a_leftover_slot_that_may_be_a_persons_is_warned_of_before_it_is_removed() {
    for persons in [true, false] {
        let current = kek();
        let image = Image::luks2(&current);
        if persons {
            image.add_argon2id(&current, 1, &kek());
        } else {
            image.add(&current, 1, &kek());
        }
        let bench = Bench::with(&current, vec![image]).await;
        let mut options = Options::default();
        options.wait = false;
        // The KEK is new, so that the slot stays for now.
        for (dry_run, outcome) in [(true, Outcome::DryRun), (false, Outcome::Pending)] {
            options.dry_run = dry_run;
            let report = bench.rotate(&options).await.unwrap();
            assert_eq!((report.outcome, bench.images[0].slots()), (outcome, vec![0, 1]));
            let warned = |warning: &String| {
                warning.contains("key slot 1")
                    && warning.contains("argon2id")
                    && warning.contains("--new-key-slot 2")
            };
            assert_eq!(report.warnings.iter().any(warned), persons, "{:?}", report.warnings);
        }
    }
}

/// Whether `verify` says that the KEK opens the device.
async fn verified(bench: &Bench) -> bool {
    let found = verify(&*bench.kms, &bench.osd(), &Silent).await.unwrap();
    found.failure().inspect(|error| println!("{error}"));
    found.failure().is_none()
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it rotation"]
async fn verify_says_what_a_plain_open_by_cryptsetup_says() {
    for (case, make, _) in CASES {
        let current = kek();
        let image = Image::luks2(&current);
        make(&image, &current);
        let expected = image.opens(&current);
        let bench = Bench::with(&current, vec![image]).await;
        assert_eq!(verified(&bench).await, expected, "{case}");
    }
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it rotation"]
async fn verify_takes_a_kek_as_it_is() {
    let long = "x".repeat(Kek::MAX_BYTES);
    for text in ["a", "abc", "line break\n", "two\r\n", "two\nlines", "\n", " ", "ß", "--key-file", &long] {
        let current = Kek::from_stored(text).unwrap();
        for image in [Image::luks2(&current), Image::luks1(&current)] {
            assert!(image.opens(&current), "{text:?}");
            let bench = Bench::with(&current, vec![image]).await;
            assert!(verified(&bench).await, "{text:?}");
        }
        // A KEK that differs by a line break is another passphrase, to cryptsetup and to verify.
        let image = Image::luks2(&current);
        let longer = Kek::from_stored(format!("{}\n", &text[..text.len().min(100)])).unwrap();
        assert!(!image.opens(&longer), "{text:?}");
        let bench = Bench::with(&longer, vec![image]).await;
        assert!(!verified(&bench).await, "{text:?}");
    }
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it rotation"]
async fn verify_says_why_a_slot_with_the_kek_does_not_count() {
    let (first, current) = (kek(), kek());
    let image = Image::luks2(&first);
    image.add(&first, 3, &current);
    priority(&image, "3", "ignore");
    let bench = Bench::with(&current, vec![image]).await;
    let found = verify(&*bench.kms, &bench.osd(), &Silent).await.unwrap();
    let error = found.failure().unwrap().to_string();
    assert!(error.contains("key slot 3") && error.contains("--priority normal"), "{error}");

    // An unbound slot passes the test of cryptsetup that names it, and opens no data.
    let image = Image::luks2(&first);
    let (known, new) = (image.key_file(&first), image.key_file(&current));
    let options = ["luksAddKey", "--batch-mode", "--unbound", "--key-size", "512", "--key-file", &known];
    let costs = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-slot", "1"];
    assert_eq!(image.cryptsetup(&[&options[..], &costs].concat(), &[&new]), 0);
    assert!(image.opens_slot(1, &current), "the trap works");
    let bench = Bench::with(&current, vec![image]).await;
    assert!(!verified(&bench).await);
}
