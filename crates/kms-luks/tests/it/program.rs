//! Runs of cryptsetup: its input, its time limit, and its supported releases.

use std::{fs, time::Duration};

use kms_core::{ErrorKind, Kek};
use kms_luks::{Added, Cryptsetup, Slot};

use crate::common::{Image, kek, runs, slots, until};

/// Long enough for a script to start, also on a machine that is busy.
const SHORT: Duration = Duration::from_secs(2);

/// Runs a script that writes its own process id and its child's to the file `$ids`, and hangs. The time limit must stop
/// both processes.
async fn hangs(image: &Image, name: &str, body: &str) {
    let ids = image.beside(&format!("{name}.ids"));
    let script = image.script(name, &format!("ids={}\n{body}", ids.display()));
    let error = Cryptsetup::new().with_program(script).with_limit(SHORT).version().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.to_string().contains("was stopped"), "{error}");
    let started = fs::read_to_string(&ids).unwrap();
    assert_eq!(started.split_whitespace().count(), 2);
    // We have reaped the program itself; the process that adopts its child reaps the child.
    let own = started.split_whitespace().next().unwrap();
    assert!(!fs::exists(format!("/proc/{own}")).unwrap(), "{own} is still there");
    until(|| !started.split_whitespace().any(runs)).await;
}

#[tokio::test]
async fn a_program_that_hangs_is_ended_with_all_that_it_started() {
    let image = Image::blank();
    tokio::join!(
        // A program that ends on request, with a child that does not.
        hangs(&image, "asked", "sleep 1000 & echo $$ $! > $ids; wait"),
        // A program that ignores the interrupt.
        hangs(&image, "deaf", "trap '' INT; sleep 1000 & echo $$ $! > $ids; while :; do wait; done"),
        // A program that has closed its output, so that there is nothing to read.
        hangs(&image, "mute", "exec > /dev/null 2>&1; sleep 1000 & echo $$ $! > $ids; wait"),
    );
}

#[tokio::test]
async fn a_program_that_leaves_a_child_behind_is_ended_with_it() {
    let image = Image::blank();
    let ids = image.beside("ids");
    let script = image.script("leaves", &format!("sleep 1000 & echo $! > {}", ids.display()));
    let error = Cryptsetup::new().with_program(script).with_limit(SHORT).version().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    let child = fs::read_to_string(ids).unwrap();
    until(|| !runs(child.trim())).await;
}

#[tokio::test]
async fn a_flood_of_output_is_cut_and_not_kept() {
    let image = Image::blank();
    let script = image.script("floods", "head -c 40000000 /dev/zero; head -c 9000000 /dev/zero >&2");
    let error = Cryptsetup::new().with_program(script).version().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol);
}

#[tokio::test]
async fn what_is_no_cryptsetup_is_named() {
    let image = Image::blank();
    let missing = Cryptsetup::new().with_program("/nonexistent/cryptsetup").version().await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::Unsupported);
    assert!(missing.to_string().contains("install cryptsetup"), "{missing}");
    assert!(missing.to_string().contains("/nonexistent/cryptsetup"), "{missing}");

    let barred = Cryptsetup::new().with_program(image.path()).version().await.unwrap_err();
    assert!(barred.to_string().contains("no permission to run"), "{barred}");

    let script = image.script("other", "echo busybox 1.36");
    let other = Cryptsetup::new().with_program(script).version().await.unwrap_err();
    assert_eq!(other.kind(), ErrorKind::Protocol);
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it luks"]
async fn a_release_that_is_too_old_is_named_instead_of_what_it_said() {
    let current = kek();
    let image = Image::luks2(&current);
    let script = image.script(
        "old",
        "[ \"$1\" = --version ] && { echo cryptsetup 2.3.7; exit 0; }; echo 'unknown option' >&2; exit 1",
    );
    let device = image.device_by(Cryptsetup::new().with_program(script));
    for error in [device.header().await.unwrap_err(), device.opens(None, &current).await.unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("cryptsetup 2.3 is too old: install 2.4 or newer"), "{error}");
    }
}

/// Before 2.6 `--key-slot` is the new slot, and there is no `--new-key-slot`.
#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it luks"]
async fn slots_are_added_by_releases_before_2_6() {
    let (current, new) = (kek(), kek());
    let image = Image::luks2(&current);
    let script = image.script(
        "before",
        "[ \"$1\" = --version ] && { echo cryptsetup 2.4.3; exit 0; }\n\
         case \" $* \" in *' --new-key-slot '*) echo '--new-key-slot: unknown option' >&2; exit 1;; esac\n\
         if [ \"$1\" = luksAddKey ]; then\n\
           action=$1; shift\n\
           for arg in \"$@\"; do shift; [ \"$arg\" = --key-slot ] && arg=--new-key-slot; set -- \"$@\" \"$arg\"; done\n\
           set -- $action \"$@\"\n\
         fi\n\
         exec cryptsetup \"$@\"",
    );
    let device = image.device_by(Cryptsetup::new().with_program(script));
    let before = image.bytes();
    let wrong = device.add(Some(Slot::CURRENT), &new, Slot::OTHER, &new).await.unwrap();
    assert_eq!(wrong, Added::WrongKey);
    assert!(image.bytes() == before);
    let added = device.add(Some(Slot::CURRENT), &current, Slot::OTHER, &new).await.unwrap();
    assert_eq!((added, slots(&device).await), (Added::Done, vec![0, 1]));
    assert!(image.opens(1, &new));
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it luks"]
async fn no_secret_is_in_the_arguments_or_in_the_environment() {
    let (current, new) = (kek(), kek());
    let image = Image::luks2(&current);
    let folder = image.beside("");
    // The script records what the kernel shows of the running program to other processes.
    let script = image.script(
        "records",
        &format!(
            "cd {folder} && tr '\\0' '\\n' < /proc/$$/environ >> environ && echo >> environ\n\
             for arg in \"$@\"; do echo \"$arg\" >> arguments; done\n\
             exec cryptsetup \"$@\"",
            folder = folder.display()
        ),
    );
    let device = image.device_by(Cryptsetup::new().with_program(script).with_env("DM_DISABLE_UDEV", "1"));
    device.add(Some(Slot::CURRENT), &current, Slot::OTHER, &new).await.unwrap();
    let proof = device.verify(Slot::OTHER, &new).await.unwrap();
    device.kill(Slot::CURRENT, &proof, &new).await.unwrap();
    device.change(Slot::OTHER, &new, &current).await.unwrap();
    device.header().await.unwrap();

    let arguments = fs::read_to_string(image.beside("arguments")).unwrap();
    for action in ["luksAddKey", "open", "luksKillSlot", "luksChangeKey", "luksDump"] {
        assert!(arguments.lines().any(|line| line == action), "{action} was not run");
    }
    let environ = fs::read_to_string(image.beside("environ")).unwrap();
    for secret in [&current, &new] {
        // Not even a part of the secret appears.
        let part = &secret.expose_secret_text().unwrap()[..20];
        assert!(!arguments.contains(part) && !environ.contains(part));
    }
    for line in environ.lines().filter(|line| !line.is_empty()) {
        let name = line.split('=').next().unwrap();
        assert!(["DM_DISABLE_UDEV", "LC_ALL", "PATH"].contains(&name), "{line}");
    }
    // The language of this process does not matter.
    assert!(environ.lines().any(|line| line == "LC_ALL=C"));
    // Only the files that this test made are left.
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.retain(|name| !name.starts_with("key-"));
    files.sort();
    assert_eq!(files, ["arguments", "environ", "image", "records"]);
}

#[tokio::test]
async fn a_kek_that_is_too_short_starts_no_program() {
    let image = Image::blank();
    let script = image.script("marks", &format!("touch {}", image.beside("started").display()));
    fs::write(image.path(), luks1_header()).unwrap();
    let device = image.device_by(Cryptsetup::new().with_program(script));
    let short = Kek::parse("abc").unwrap();
    let error = device.add(None, &kek(), Slot::OTHER, &short).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
    let forced = kms_luks::FormatOptions::new().with_force(true);
    assert!(device.format(&short, &forced).await.is_err());
    assert!(!image.beside("started").exists());
}

#[tokio::test]
async fn malformed_responses_are_errors() {
    let image = Image::blank();
    fs::write(image.path(), luks2_header()).unwrap();
    let device = |body: &str| {
        let script = image.script("answers", body);
        image.device_by(Cryptsetup::new().with_program(script))
    };
    for body in ["echo '{}'", "echo", "exit 0", "echo '{\"keyslots\": 1, \"digests\": {}}'"] {
        let error = device(body).header().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol, "{body}");
        assert!(error.to_string().contains("image"), "{error}");
    }
    let killed = device("kill -9 $$").header().await.unwrap_err();
    assert!(killed.to_string().contains("signal 9"), "{killed}");
    let memory = device("exit 3").header().await.unwrap_err();
    assert!(memory.to_string().contains("memory"), "{memory}");
    let text =
        device("printf 'one\\n\\033[2Jtwo %300s\\n' x >&2; exit 9").header().await.unwrap_err().to_string();
    assert!(text.contains("exit code 9") && text.contains("[2Jtwo") && !text.contains('\u{1b}'), "{text}");
    assert!(text.len() < 500, "{text}");
}

/// A LUKS1 header with slot 0 in use: the part that is read without cryptsetup.
fn luks1_header() -> Vec<u8> {
    let mut bytes = vec![0; 592];
    bytes[..8].copy_from_slice(b"LUKS\xba\xbe\x00\x01");
    bytes[208..212].copy_from_slice(&0x00AC_71F3_u32.to_be_bytes());
    bytes
}

/// The first block of a header of LUKS2.
fn luks2_header() -> Vec<u8> {
    let mut bytes = vec![0; 8192];
    bytes[..8].copy_from_slice(b"LUKS\xba\xbe\x00\x02");
    bytes
}
