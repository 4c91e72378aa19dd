//! The image as the root file system of a machine: its `kms`, its cryptsetup and its libraries, on a kernel with
//! device-mapper.

use kms_tests::machine::{self, Disk};

use super::{Host, NAME, slots};

/// The memory of the machine, in MiB.
const MEMORY: u32 = 1024;

/// The image's own program.
const KMS: &str = "/usr/local/bin/kms -f /etc/kms/cluster.yaml -f /etc/kms/token.yaml -f /etc/kms/ca.yaml";

#[tokio::test]
#[ignore = "needs QEMU and mmdebstrap: cargo xtask it vm"]
async fn the_image_boots_and_rotates_the_key_of_a_device() {
    let host = Host::with(machine::image().unwrap(), 2).await;
    let disk = Disk::new(host.folder.path(), "osd", 32).unwrap();
    let mut machine = host.boot().memory(MEMORY).disk(&disk).start().unwrap();
    let mut run = |command: &str, code| machine.run(command).unwrap().want(code).text;
    assert_eq!(run("which kms cryptsetup", 0), "/usr/local/bin/kms\n/usr/sbin/cryptsetup");
    let version = run("kms version -v", 0);
    assert!(version.contains("\ncryptsetup  2."), "{version}");

    run(&format!("{KMS} format {NAME} /dev/vda"), 0);
    run(&format!("{KMS} get {NAME} /tmp/old"), 0);
    run(&format!("{KMS} open {NAME} /dev/vda --mapper osd0"), 0);
    run("dd if=/dev/urandom of=/tmp/data bs=1M count=4", 0);
    run("dd if=/tmp/data of=/dev/mapper/osd0 bs=1M conv=fsync", 0);
    // As Rook rotates: while the OSD has its device open.
    let rotated = run(&format!("{KMS} rotate --grace 0s {NAME} /dev/vda"), 0);
    run("kms close osd0", 0);

    let tests = "cryptsetup open --test-passphrase --key-file";
    run(&format!("{tests} /tmp/old /dev/vda"), 2);
    run(&format!("{KMS} get {NAME} /tmp/new"), 0);
    run(&format!("{tests} /tmp/new /dev/vda"), 0);
    run(&format!("{KMS} open {NAME} /dev/vda --mapper osd0"), 0);
    run("cmp -n 4194304 /tmp/data /dev/mapper/osd0", 0);
    assert_eq!(slots(&mut machine, "/dev/vda").len(), 1, "{rotated}");
    machine.power_off().unwrap();
}
