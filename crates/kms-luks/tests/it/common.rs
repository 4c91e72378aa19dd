//! Images with real LUKS headers, and programs that stand in for cryptsetup.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use kms_core::Kek;
use kms_luks::{Cryptsetup, Device, Slot};
use tempfile::TempDir;

/// The costs of slots that tests make.
pub(crate) const CHEAP: [&str; 5] = ["--batch-mode", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"];

/// An image in a folder of its own.
#[derive(Debug)]
pub(crate) struct Image {
    folder: TempDir,
}

impl Image {
    /// An image of zeros.
    pub(crate) fn blank() -> Self {
        let image = Self { folder: tempfile::tempdir().unwrap() };
        fs::File::create(image.path()).unwrap().set_len(17 << 20).unwrap();
        image
    }

    /// LUKS2 with `kek` in slot 0.
    pub(crate) fn luks2(kek: &Kek) -> Self {
        Self::formatted(kek, &[&["--type", "luks2"], CHEAP.as_slice()].concat())
    }

    /// LUKS1 with `kek` in slot 0.
    pub(crate) fn luks1(kek: &Kek) -> Self {
        Self::formatted(kek, &["--type", "luks1", "--batch-mode", "--pbkdf-force-iterations", "1000"])
    }

    /// An image that cryptsetup formats with these options.
    pub(crate) fn formatted(kek: &Kek, options: &[&str]) -> Self {
        let image = Self::blank();
        let key = image.key_file(kek);
        assert_eq!(image.cryptsetup(&[&["luksFormat", "--key-file", &key], options].concat(), &[]), 0);
        image
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    /// A path in the image's folder.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The image as a device of the real cryptsetup.
    pub(crate) fn device(&self) -> Device {
        self.device_by(Cryptsetup::new())
    }

    pub(crate) fn device_by(&self, cryptsetup: Cryptsetup) -> Device {
        Device::new(cryptsetup, self.path())
    }

    /// A file with the KEK, for calls that are not made by the code under test.
    pub(crate) fn key_file(&self, kek: &Kek) -> String {
        let path = self.beside(&format!("key-{}", kek.fingerprint()));
        fs::write(&path, kek.expose_secret_text().unwrap()).unwrap();
        path.display().to_string()
    }

    /// Runs the real cryptsetup on the image; returns its exit code.
    pub(crate) fn cryptsetup(&self, options: &[&str], after: &[&str]) -> i32 {
        let status = cryptsetup().args(options).arg(self.path()).args(after).stderr(Stdio::null()).status();
        status.unwrap().code().unwrap()
    }

    /// Adds a slot with the real cryptsetup.
    pub(crate) fn slot(&self, known: &Kek, slot: u8, kek: &Kek, costs: &[&str]) {
        let (known, new) = (self.key_file(known), self.key_file(kek));
        let slot = slot.to_string();
        let options = ["luksAddKey", "--key-file", &known, "--new-key-slot", &slot];
        assert_eq!(self.cryptsetup(&[options.as_slice(), costs].concat(), &[&new]), 0);
    }

    /// Whether the real cryptsetup opens the slot with this KEK.
    pub(crate) fn opens(&self, slot: u8, kek: &Kek) -> bool {
        let key = self.key_file(kek);
        let slot = slot.to_string();
        self.cryptsetup(&["open", "--test-passphrase", "--key-slot", &slot, "--key-file", &key], &[]) == 0
    }

    /// The volume key that this KEK unlocks.
    pub(crate) fn volume_key(&self, kek: &Kek) -> Vec<u8> {
        let (key, out) = (self.key_file(kek), self.beside("volume-key"));
        let out_text = out.display().to_string();
        let options =
            ["luksDump", "--batch-mode", "--dump-volume-key", "--key-file", &key, "--volume-key-file"];
        assert_eq!(self.cryptsetup(&[options.as_slice(), &[&out_text]].concat(), &[]), 0);
        let volume_key = fs::read(&out).unwrap();
        fs::remove_file(out).unwrap();
        volume_key
    }

    /// All bytes of the image.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        fs::read(self.path()).unwrap()
    }

    /// A shell script that stands in for cryptsetup.
    pub(crate) fn script(&self, name: &str, body: &str) -> PathBuf {
        let path = self.beside(name);
        // Another process writes the script. If this process did, a child that another test starts meanwhile would
        // inherit the open file, and a file that is open for writing cannot be run.
        let mut shell = Command::new("sh")
            .args(["-c", "cat > \"$0\" && chmod 755 \"$0\""])
            .arg(&path)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        shell.stdin.take().unwrap().write_all(format!("#!/bin/sh\n{body}\n").as_bytes()).unwrap();
        assert!(shell.wait().unwrap().success());
        path
    }

    /// A named pipe, by which a script and a test wait for each other.
    pub(crate) fn fifo(&self, name: &str) -> PathBuf {
        let path = self.beside(name);
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        path
    }
}

fn cryptsetup() -> Command {
    let mut command = Command::new("cryptsetup");
    command
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}

pub(crate) fn kek() -> Kek {
    Kek::generate().unwrap()
}

pub(crate) fn slot(number: u8) -> Slot {
    Slot::new(number).unwrap()
}

/// The numbers of the slots in use.
pub(crate) async fn slots(device: &Device) -> Vec<u8> {
    device.header().await.unwrap().slots().map(|slot| slot.slot.number()).collect()
}

/// Whether a process runs: it exists and is not a zombie.
pub(crate) fn runs(id: &str) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(id).join("stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// Waits until `done` returns `true`, for at most a minute.
pub(crate) async fn until(done: impl Fn() -> bool) {
    let wait = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.expect("it never came to be");
}
