//! Devices are formatted and labelled by the real cryptsetup.

use std::{fs, os::unix::fs::FileExt, path::Path, process::Command, time::Duration};

use kms_core::{ErrorKind, Kek};
use kms_luks::{
    Cryptsetup, Device, FormatOptions, FormatTarget, Formatted, Identity, Labelled, LuksVersion, Slot,
    SlotKdf,
};

use crate::common::{Image, kek, slots};

const FSID: &str = "5ff0d1c5-0c5b-4a2c-8e53-0b5a37a3ed3c";

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it luks"]
async fn an_empty_device_is_formatted_as_ceph_volume_does_it() {
    let current = kek();
    let image = Image::blank();
    let device = image.device();
    let identity = Identity::new("set1-data-0x7dwl", FSID);
    let options = FormatOptions::new().with_identity(identity);
    assert_eq!(device.format(&current, &options).await.unwrap(), Formatted::Done);
    let header = device.header().await.unwrap();
    assert_eq!(header.version(), LuksVersion::Luks2);
    assert_eq!(header.label(), Some("pvc_name=set1-data-0x7dwl"));
    assert_eq!(header.subsystem(), Some(format!("ceph_fsid={FSID}").as_str()));
    let slot = header.slot(Slot::CURRENT).unwrap();
    assert_eq!(slot.kdf, SlotKdf::Pbkdf2 { hash: "sha256".to_owned(), iterations: 1000 });
    assert_eq!(slots(&device).await, [0]);
    assert!(image.opens(0, &current));
    // Twice 256 bits for XTS.
    assert_eq!(image.volume_key(&current).len(), 64);
    let text = String::from_utf8_lossy(&image.bytes()[4096..16384]).into_owned();
    assert!(text.contains(r#""encryption":"aes-xts-plain64""#), "{text}");
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it luks"]
async fn a_device_that_is_not_empty_is_left_alone_unless_forced() {
    let (current, new) = (kek(), kek());
    let with_data = |at: u64| {
        let image = Image::blank();
        fs::File::options().write(true).open(image.path()).unwrap().write_at(b"x", at).unwrap();
        image
    };
    let used = [
        (Image::luks1(&current), "the KEK does not open it"),
        (Image::luks2(&current), "the KEK does not open it"),
        (with_data(1000), "offset 1000 is not zero"),
        (with_data(9 << 20), "not empty"),
        (with_data((17 << 20) - 1), "not empty"),
    ];
    for (image, what) in used {
        let device = image.device();
        let before = image.bytes();
        let error = device.format(&new, &FormatOptions::new()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(error.to_string().contains(what) && error.to_string().contains("--force"), "{error}");
        assert!(image.bytes() == before);
        device.format(&new, &FormatOptions::new().with_force(true)).await.unwrap();
        assert!(image.opens(0, &new) && !image.opens(0, &current));
    }
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it luks"]
async fn a_header_is_labelled_once_and_never_while_another_process_is_at_work() {
    let current = kek();
    let image = Image::luks2(&current);
    let device = image.device();
    let long = Identity::new(&"p".repeat(60), FSID);

    let lock = image.device();
    let lock = lock.lock().await.unwrap();
    let before = image.bytes();
    assert_eq!(device.set_label(&long).await.unwrap(), Labelled::Busy);
    assert!(image.bytes() == before);
    drop(lock);

    assert_eq!(device.set_label(&long).await.unwrap(), Labelled::Done);
    let labelled = image.bytes();
    assert_eq!(device.set_label(&long).await.unwrap(), Labelled::Unchanged);
    assert!(image.bytes() == labelled);
    let header = device.header().await.unwrap();
    assert_eq!(header.label().map(str::len), Some(47));
    // The label is cut as cryptsetup 2.6 cuts Rook's own label.
    let rooks = Image::luks2(&current);
    let label = format!("pvc_name={}", "p".repeat(60));
    assert_eq!(rooks.cryptsetup(&["config", "--label", &label], &[]), 0);
    assert_eq!(rooks.device().header().await.unwrap().label(), header.label());

    assert_eq!(Image::luks1(&current).device().set_label(&long).await.unwrap(), Labelled::Luks1);
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it luks"]
async fn a_header_that_the_kek_opens_is_done_and_stays_as_it_is() {
    let (current, other) = (kek(), kek());
    let identity = |pvc: &str| FormatOptions::new().with_identity(Identity::new(pvc, FSID));
    for image in [Image::luks1(&current), Image::luks2(&current)] {
        let before = image.bytes();
        let device = image.device();
        let FormatTarget::Header(error) = device.check_format(&FormatOptions::new()).await.unwrap() else {
            panic!("the header was not seen");
        };
        assert!(error.to_string().contains("there is no KEK of this name"), "{error}");
        assert_eq!(device.format(&current, &FormatOptions::new()).await.unwrap(), Formatted::Already);
        let error = device.format(&other, &FormatOptions::new()).await.unwrap_err();
        assert!(error.to_string().contains("the KEK does not open it"), "{error}");
        assert!(image.bytes() == before);
    }
    // A header without a label gets it; a header of another OSD is not taken.
    let image = Image::luks2(&current);
    let device = image.device();
    assert_eq!(device.format(&current, &identity("set1")).await.unwrap(), Formatted::Already);
    assert_eq!(device.header().await.unwrap().label(), Some("pvc_name=set1"));
    let before = image.bytes();
    assert_eq!(device.format(&current, &identity("set1")).await.unwrap(), Formatted::Already);
    let error = device.format(&current, &identity("set2")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("pvc_name=set1") && error.to_string().contains("--label"), "{error}");
    assert!(image.bytes() == before);
}

/// What an error advises, on a device that was used and wiped, does what the user wants.
#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it luks"]
async fn the_advice_for_a_used_device_works() {
    let (old, new) = (kek(), kek());
    let image = Image::luks2(&old);
    let device = image.device();
    let mut advice = device.format(&new, &FormatOptions::new()).await.unwrap_err().to_string();
    let wipefs = Command::new("wipefs").arg("--all").arg(image.path()).output().unwrap();
    assert!(wipefs.status.success());
    // What wipefs leaves of a header is not nothing, so no message may say that wipefs is enough.
    match device.format(&new, &FormatOptions::new()).await {
        Ok(_) => return,
        Err(error) => advice.push_str(&error.to_string()),
    }
    assert!(!advice.contains("wipefs") && advice.contains("--force"), "{advice}");
    device.format(&new, &FormatOptions::new().with_force(true)).await.unwrap();
    assert!(image.opens(0, &new));
}

#[tokio::test]
async fn what_blkid_finds_is_not_formatted_and_a_blkid_without_its_options_is_passed_over() {
    let cases = [
        ("echo DEVNAME=x; echo TYPE=ext4; echo PTTYPE=dos", Some("blkid finds TYPE=ext4 PTTYPE=dos")),
        ("exit 8", Some("several signatures")),
        ("exit 2", None),
        ("echo usage >&2; exit 1", None),
    ];
    for (body, expected) in cases {
        let image = Image::blank();
        image.script("blkid", body);
        let device = image.device_by(Cryptsetup::new().with_search_path(image.beside("")));
        let target = device.check_format(&FormatOptions::new()).await;
        match expected {
            Some(text) => {
                let error = target.unwrap_err();
                assert!(error.to_string().contains(text) && error.to_string().contains("--force"), "{error}");
            }
            None => assert!(matches!(target.unwrap(), FormatTarget::Free), "{body}"),
        }
    }
}

/// Stops the process group of a script at a line, in the middle of what cryptsetup does.
const STOP: &str = "kill -9 $$";

/// What is on the disk when cryptsetup is stopped: parts of the area of the key slots, a header without a slot, the whole
/// header. Each comes from a stand-in that writes and dies.
#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it luks"]
async fn a_format_that_was_stopped_is_repeated_without_force() {
    let current = kek();
    let random = |mib: u32| {
        format!("head -c {mib}M /dev/urandom | dd of=$image bs=32k seek=1 conv=notrunc 2>/dev/null")
    };
    let erase = "cryptsetup \"$@\" && cryptsetup luksErase --batch-mode $image";
    for (stop, ended) in [
        ("".to_owned(), Formatted::Done),
        (random(1), Formatted::Done),
        (random(15), Formatted::Done),
        (erase.to_owned(), Formatted::Done),
        ("cryptsetup \"$@\"".to_owned(), Formatted::Already),
    ] {
        let image = Image::blank();
        let body = format!(
            "image={}; [ \"$1\" = luksFormat ] || exec cryptsetup \"$@\"\n{stop}\n{STOP}",
            image.path().display()
        );
        let script = image.script("stops", &body);
        let options = FormatOptions::new().with_identity(Identity::new("set1", FSID));
        image.device_by(Cryptsetup::new().with_program(script)).format(&current, &options).await.unwrap_err();

        let device = image.device();
        assert_eq!(device.format(&current, &options).await.unwrap(), ended, "{stop}");
        assert!(image.opens(0, &current));
        assert_eq!(device.header().await.unwrap().label(), Some("pvc_name=set1"));
    }
}

/// The note of a stopped run is no permission: neither for a header with a slot, nor for data that came later.
#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it luks"]
async fn the_note_of_a_stopped_run_gives_up_no_data() {
    let (current, other) = (kek(), kek());
    let image = Image::blank();
    let script = image.script("stops", STOP);
    let stopping = image.device_by(Cryptsetup::new().with_program(script));
    stopping.format(&current, &FormatOptions::new()).await.unwrap_err();
    let noted = image.bytes();

    // Another program has formatted the device meanwhile.
    let key = image.key_file(&other);
    let options = ["luksFormat", "--type", "luks2", "--batch-mode", "--pbkdf-force-iterations", "1000"];
    let rest = ["--pbkdf", "pbkdf2", "--key-file", &key];
    assert_eq!(image.cryptsetup(&[&options[..], &rest].concat(), &[]), 0);
    let error = image.device().format(&current, &FormatOptions::new()).await.unwrap_err();
    assert!(error.to_string().contains("the KEK does not open it"), "{error}");
    assert!(image.opens(0, &other));

    fs::write(image.path(), noted).unwrap();
    fs::File::options().write(true).open(image.path()).unwrap().write_at(b"x", 16 << 20).unwrap();
    let error = image.device().format(&current, &FormatOptions::new()).await.unwrap_err();
    assert!(error.to_string().contains("not empty"), "{error}");
}

/// The environment variable with the folder of the process that formats.
const FOLDER: &str = "KMS_LUKS_TEST_FORMAT";

fn options() -> FormatOptions {
    FormatOptions::new().with_identity(Identity::new("set1", FSID))
}

/// The body of the process that is killed.
#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it luks"]
async fn the_formatting_process() {
    #[expect(clippy::disallowed_methods, reason = "the variable marks this process as the one that formats")]
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let folder = Path::new(&folder);
    let current = Kek::parse(fs::read_to_string(folder.join("current")).unwrap()).unwrap();
    let device = Device::new(Cryptsetup::new().with_program(folder.join("script")), folder.join("image"));
    device.format(&current, &options()).await.unwrap();
}

/// Kills the process and its cryptsetup at moments that are spread over the whole run. Each next run needs no `--force`.
#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it luks"]
async fn a_format_that_is_killed_at_any_moment_is_repeated_without_force() {
    const MOMENTS: u32 = 24;
    let start = |image: &Image| {
        fs::write(image.beside("current"), kek().expose_secret_text().unwrap()).unwrap();
        image
            .script("script", &format!("echo $$ > {}; exec cryptsetup \"$@\"", image.beside("id").display()));
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "format::the_formatting_process", "--ignored"])
            .env(FOLDER, image.beside(""));
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap()
    };
    let whole = Image::blank();
    let begin = std::time::Instant::now();
    assert!(start(&whole).wait().unwrap().success());
    let took = begin.elapsed();
    let mut stopped = 0;
    for moment in 0..MOMENTS {
        let image = Image::blank();
        let mut process = start(&image);
        // The moment of the kill is the point of the test; nothing waits for it.
        tokio::time::sleep(took * moment / MOMENTS).await;
        process.kill().unwrap();
        // Killed by its process group, the cryptsetup that the process has started.
        if let Ok(id) = fs::read_to_string(image.beside("id"))
            && let Ok(id) = id.trim().parse::<i32>()
            && let Some(id) = rustix::process::Pid::from_raw(id)
        {
            let _ended = rustix::process::kill_process_group(id, rustix::process::Signal::KILL);
        }
        stopped += u32::from(!process.wait().unwrap().success());
        let current = Kek::parse(fs::read_to_string(image.beside("current")).unwrap()).unwrap();
        let device = image.device();
        let again = async || loop {
            match device.format(&current, &options()).await {
                // A child between fork and exec has copies of the descriptors of the killed process, its lock among them.
                Err(error) if error.to_string().contains("another process is at work") => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                result => return result,
            }
        };
        let again = tokio::time::timeout(Duration::from_secs(60), again()).await.expect("the lock stays");
        again.unwrap_or_else(|error| panic!("moment {moment}: {error}"));
        assert!(image.opens(0, &current), "moment {moment}");
        assert_eq!(device.header().await.unwrap().label(), Some("pvc_name=set1"), "moment {moment}");
    }
    assert!(stopped > MOMENTS / 2, "{stopped} of {MOMENTS} runs were stopped");
}
