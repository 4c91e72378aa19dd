//! A host with devices, for tests of commands: a folder stands in for the kernel, a script for cryptsetup. The tests of
//! `kms-luks` and of the whole program use the real ones.

use std::{
    fs,
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
};

use kms_luks::{Cryptsetup, Sysfs};

const UUID: &str = "01234567-89ab-cdef-0123-456789abcdef";

/// The stand-in for cryptsetup. A device is a file with a header of LUKS1; a file beside it holds what opens it.
const SCRIPT: &str = r#"#!/bin/sh
cd "$(dirname "$0")"
echo "$*" >> calls
[ -e hold ] && { echo on > started; read -r line < go-on; rm hold; }
for last; do before=$device; device=$last; done
wrong() { [ "$(cat /proc/self/fd/3)" != "$(cat "$1.kek")" ]; }
case "$1 $2" in
  'luksFormat '*) cp header "$last"; cat /proc/self/fd/3 > "$last.kek";;
  'open --test-passphrase') wrong "$last" && exit 2;;
  'open '*)
    wrong "$before" && exit 2
    mapping=sys/block/dm-$(ls sys/block | wc -l)
    mkdir -p "$mapping/dm" "$mapping/slaves/loop0/loop"
    echo "$last" > "$mapping/dm/name"
    echo CRYPT-LUKS1-0123456789abcdef0123456789abcdef-x > "$mapping/dm/uuid"
    echo 8 > "$mapping/size"
    echo 7:0 > "$mapping/slaves/loop0/dev"
    readlink -f "$before" > "$mapping/slaves/loop0/loop/backing_file"
    touch "nodes/$last";;
  'close '*)
    for mapping in sys/block/dm-*; do
      [ "$(cat "$mapping/dm/name")" = "$last" ] && rm -r "$mapping"
    done;;
esac
exit 0
"#;

/// The host. Dropping it removes all its files.
#[derive(Debug)]
pub(crate) struct Host {
    folder: tempfile::TempDir,
}

impl Host {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["sys/block/sda", "nodes"] {
            fs::create_dir_all(folder.path().join(name)).unwrap();
        }
        let mut header = vec![0; 4096];
        header[..8].copy_from_slice(b"LUKS\xba\xbe\x00\x01");
        header[72..78].copy_from_slice(b"sha256");
        // The data begin in sector 8.
        header[107] = 8;
        header[168..168 + UUID.len()].copy_from_slice(UUID.as_bytes());
        header[208..212].copy_from_slice(&0x00AC_71F3_u32.to_be_bytes());
        fs::write(folder.path().join("header"), header).unwrap();
        // Another process writes the script: a file that any process has open for writing cannot be executed.
        let script = folder.path().join("cryptsetup");
        let mut shell = Command::new("sh")
            .args(["-c", "cat > \"$0\" && chmod 755 \"$0\""])
            .arg(&script)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        shell.stdin.take().unwrap().write_all(SCRIPT.as_bytes()).unwrap();
        assert!(shell.wait().unwrap().success());
        Self { folder }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// An empty device.
    pub(crate) fn empty(&self, name: &str) -> String {
        fs::write(self.path(name), [0; 4096]).unwrap();
        self.path(name).display().to_string()
    }

    /// A device that this KEK opens.
    pub(crate) fn device(&self, name: &str, kek: &str) -> String {
        fs::copy(self.path("header"), self.path(name)).unwrap();
        fs::write(self.path(&format!("{name}.kek")), kek).unwrap();
        self.path(name).display().to_string()
    }

    pub(crate) fn cryptsetup(&self) -> Cryptsetup {
        Cryptsetup::new()
            .with_program(self.path("cryptsetup"))
            .with_sysfs(Sysfs::at(self.path("sys"), self.path("nodes")))
    }

    /// Makes the next cryptsetup wait. Returns two named pipes: cryptsetup reports through the first that it waits;
    /// writing to the second lets it continue.
    pub(crate) fn hold(&self) -> [PathBuf; 2] {
        let pipes = ["started", "go-on"].map(|name| self.path(name));
        assert!(Command::new("mkfifo").args(&pipes).status().unwrap().success());
        fs::write(self.path("hold"), "").unwrap();
        pipes
    }

    /// The calls of cryptsetup, by their first arguments.
    pub(crate) fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("calls")).unwrap_or_default();
        text.lines().filter_map(|line| line.split(' ').next()).map(ToOwned::to_owned).collect()
    }
}
