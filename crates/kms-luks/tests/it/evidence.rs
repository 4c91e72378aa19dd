//! What is read and reported is what is on the disk: not in a page cache, and not in an exit code.

use std::{path::Path, process::Command};

use kms_core::ErrorKind;
use kms_luks::{Cryptsetup, Device, Identity, Slot};

use crate::common::{CHEAP, Image, kek, slots};

/// Block devices over one file, each with a page cache of its own, as the paths of a SAN are.
struct Loops(Vec<String>);

impl Loops {
    /// `None` if this user may not make any.
    fn over(path: &Path, options: &[&str]) -> Option<Self> {
        let mut loops = Self(Vec::new());
        for _ in 0..2 {
            let mut losetup = Command::new("losetup");
            let made = losetup.args(["--find", "--show"]).args(options).arg(path).output().unwrap();
            if !made.status.success() {
                assert!(!rustix::process::geteuid().is_root(), "{}", String::from_utf8_lossy(&made.stderr));
                return None;
            }
            loops.0.push(String::from_utf8(made.stdout).unwrap().trim().to_owned());
        }
        Some(loops)
    }

    fn devices(&self) -> [Device; 2] {
        [0, 1].map(|at| Device::new(Cryptsetup::new(), &self.0[at]))
    }
}

impl Drop for Loops {
    fn drop(&mut self) {
        for node in &self.0 {
            let _any = Command::new("losetup").args(["--detach", node]).status();
        }
    }
}

#[tokio::test]
#[ignore = "needs cryptsetup, and loop devices as root: cargo xtask it luks"]
async fn a_header_that_was_written_through_another_node_is_seen() {
    let (current, new) = (kek(), kek());
    let image = Image::luks2(&current);
    let Some(loops) = Loops::over(&image.path(), &[]) else { return };
    let [one, two] = loops.devices();
    // Both page caches hold the first header. The kernel keeps a page cache as long as the node is open, as the lock of a
    // rotation and the mapping of a running OSD keep it.
    let _open = [&one, &two].map(|device| {
        std::fs::read(device.path()).unwrap();
        std::fs::File::open(device.path()).unwrap()
    });
    for device in [&one, &two] {
        assert!(!device.opens(Some(Slot::OTHER), &new).await.unwrap());
        std::fs::read(device.path()).unwrap();
    }
    one.add(Some(Slot::CURRENT), &current, Slot::OTHER, &new).await.unwrap();
    assert!(two.opens(Some(Slot::OTHER), &new).await.unwrap(), "the header in the page cache is stale");
    one.set_label(&Identity::new("set1", "fsid")).await.unwrap();
    assert_eq!(two.header().await.unwrap().label(), Some("pvc_name=set1"));

    // A slot that has gone through one node is no slot to rely on through the other.
    let proof = two.verify(Slot::OTHER, &new).await.unwrap();
    let other = one.verify(Slot::CURRENT, &current).await.unwrap();
    one.kill(Slot::OTHER, &other, &current).await.unwrap();
    let error = two.kill(Slot::CURRENT, &proof, &new).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_eq!(slots(&one).await, [0]);
    assert!(image.opens(0, &current));
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it luks"]
async fn an_exit_code_is_no_evidence_of_a_write() {
    let (current, new) = (kek(), kek());
    for image in [Image::luks1(&current), Image::luks2(&current)] {
        image.slot(&current, 1, &new, &CHEAP);
        let lies =
            image.script("lies", "case $1 in luksKillSlot|config) exit 0;; esac; exec cryptsetup \"$@\"");
        let device = image.device_by(Cryptsetup::new().with_program(lies));
        let proof = device.verify(Slot::OTHER, &new).await.unwrap();
        let error = device.kill(Slot::CURRENT, &proof, &new).await.unwrap_err();
        assert!(error.to_string().contains("the header still has the slot"), "{error}");
        assert_eq!(slots(&device).await, [0, 1]);
    }
    let image = Image::luks2(&current);
    let lies = image.script("lies", "[ $1 = config ] && exit 0; exec cryptsetup \"$@\"");
    let device = image.device_by(Cryptsetup::new().with_program(lies));
    let error = device.set_label(&Identity::new("set1", "fsid")).await.unwrap_err();
    assert!(error.to_string().contains("the header does not have it"), "{error}");
}

/// A dry run takes the lock as the run does, so that it refuses a read-only device as the run does.
#[tokio::test]
#[ignore = "needs cryptsetup, and loop devices as root: cargo xtask it luks"]
async fn a_read_only_device_is_named_before_a_slot_is_changed() {
    let current = kek();
    let image = Image::luks2(&current);
    let Some(loops) = Loops::over(&image.path(), &["--read-only"]) else { return };
    let [device, _] = loops.devices();
    assert!(device.opens(Some(Slot::CURRENT), &current).await.unwrap());
    let errors = [
        device.lock().await.unwrap_err(),
        device.add(Some(Slot::CURRENT), &current, Slot::OTHER, &kek()).await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
        assert!(
            error.to_string().contains("the device is read-only") && error.to_string().contains("--setrw"),
            "{error}"
        );
    }
}
