//! Opens and closes devices on real device-mapper: kms distinguishes stale mappings from used ones, and a running OSD
//! keeps its mapping (rook-behaviour §8.5, rook-behaviour §8.6).

use std::time::Duration;

use kms_tests::machine::{Disk, Machine};
use serde_json::Value;

use super::{FSID, Host, NAME};

/// The table of a mapping, without the key.
fn table(machine: &mut Machine, mapper: &str) -> String {
    machine.run(&format!("dmsetup table {mapper}")).unwrap().want(0).text
}

/// The outcome of a command that opens a single device.
fn outcome(machine: &mut Machine, command: &str) -> String {
    let opened = machine.run(&format!("kms -o json {command}")).unwrap().want(0).json();
    opened["devices"][0]["outcome"].as_str().unwrap().to_owned()
}

fn status(machine: &mut Machine, mapper: &str) -> Value {
    machine.run(&format!("kms -o json status {mapper}")).unwrap().want(0).json()
}

#[tokio::test]
#[ignore = "needs QEMU: cargo xtask it vm"]
async fn devices_are_opened_once_grow_and_are_closed_when_unused() {
    let mut host = Host::new(1).await;
    let disks = ["data", "other"].map(|name| Disk::new(host.folder.path(), name, 32).unwrap());
    let mut machine = disks.iter().fold(host.boot(), |boot, disk| boot.disk(disk)).start().unwrap();
    let mut run = |command: &str, code| machine.run(command).unwrap().want(code).text;

    run(&format!("kms format {NAME} /dev/vda --fsid {FSID}"), 0);
    let repeated = run(&format!("kms format {NAME} /dev/vda"), 0);
    assert!(repeated.contains("already-formatted"), "{repeated}");
    run("kms format other /dev/vdb", 0);
    let refused = run("kms format other /dev/vda", 1);
    assert!(refused.contains("has a LUKS header, and the KEK does not open it"), "{refused}");
    let header = run("cryptsetup luksDump /dev/vda", 0);
    assert!(header.contains(&format!("pvc_name={NAME}")), "{header}");
    assert!(header.contains(&format!("ceph_fsid={FSID}")), "{header}");

    // The mapping has the name and the options that Rook gives it: the key is not in the kernel's keyring.
    let mapper = format!("{NAME}-block-dmcrypt");
    assert_eq!(outcome(&mut machine, &format!("open {NAME} /dev/vda")), "opened");
    let mapped = table(&mut machine, &mapper);
    assert!(mapped.contains("allow_discards") && !mapped.contains("logon"), "{mapped}");
    let before = status(&mut machine, &mapper);
    assert_eq!(before["devices"], serde_json::json!(["vda"]));
    assert_eq!((&before["bytes"], &before["stale"]), (&Value::from(16 << 20), &Value::from(false)));

    // A second start, a name that another device has, a device that is open under another name.
    assert_eq!(outcome(&mut machine, &format!("open {NAME} /dev/vda")), "already-open");
    for command in [
        format!("kms open other /dev/vdb --mapper {mapper}"),
        format!("kms open {NAME} /dev/vda --mapper second"),
    ] {
        let _ = machine.run(&command).unwrap().want(1);
    }
    assert_eq!((table(&mut machine, &mapper), status(&mut machine, &mapper)), (mapped, before));
    let _ = machine.run("dmsetup info second").unwrap().want(1);

    // `kms` neither closes nor replaces a mapping of another program.
    let mut run = |command: &str, code| machine.run(command).unwrap().want(code).text;
    run("dmsetup create foreign --table '0 2048 error'", 0);
    run("kms open other /dev/vdb --mapper foreign", 1);
    run("kms close foreign", 1);
    assert_eq!(run("dmsetup table foreign", 0), "0 2048 error");

    // A mapping whose creation was interrupted before or after its table was loaded is unused.
    let uuid = run("cryptsetup luksUUID /dev/vdb", 0).replace('-', "");
    for load in ["true", "dmsetup load half --table '0 2048 error'"] {
        let create = format!("dmsetup create half --notable --uuid CRYPT-LUKS2-{uuid}-half && {load}");
        let _ = machine.run(&create).unwrap().want(0);
        assert_eq!(outcome(&mut machine, "open other /dev/vdb --mapper half"), "replaced", "{load}");
        let _ = machine
            .run("dd if=/dev/mapper/half of=/dev/null bs=1M count=1 && kms close half")
            .unwrap()
            .want(0);
    }

    // A device that Rook has opened counts as open, and can grow without a key.
    let mut run = |command: &str, code| machine.run(command).unwrap().want(code).text;
    run("truncate -s 24M /tmp/image && losetup /dev/loop0 /tmp/image", 0);
    run("kms format third /dev/loop0", 0);
    run("kms get third /tmp/kek", 0);
    let rooks =
        "cryptsetup luksOpen --verbose --disable-keyring --allow-discards --key-file /tmp/kek /dev/loop0";
    run(&format!("{rooks} third-block-dmcrypt"), 0);
    assert_eq!(outcome(&mut machine, "open third /dev/loop0"), "already-open");
    let mut run = |command: &str, code| machine.run(command).unwrap().want(code).text;
    run(
        "dd if=/dev/urandom of=/tmp/data bs=1M count=2; dd if=/tmp/data of=/dev/mapper/third-block-dmcrypt bs=1M",
        0,
    );
    run("truncate -s 40M /tmp/image && losetup -c /dev/loop0", 0);
    let resized: Value = serde_json::from_str(&run("kms -o json resize third-block-dmcrypt", 0)).unwrap();
    assert_eq!(
        (&resized["bytes_before"], &resized["bytes"]),
        (&Value::from(8 << 20), &Value::from(24 << 20))
    );
    run("cmp -n 2097152 /tmp/data /dev/mapper/third-block-dmcrypt", 0);

    // A device in use stays open; after the first close there is nothing left to close.
    run("mkfifo /tmp/end", 0);
    machine
        .spawn("user", &format!("exec 4< /dev/mapper/{mapper}; echo in use; read -r line < /tmp/end"))
        .unwrap();
    machine.follow("user", 1, Duration::from_secs(30)).unwrap();
    let _ = machine.run(&format!("kms close {mapper}")).unwrap().want(1);
    let _ = machine.run(&format!("dd if=/dev/mapper/{mapper} of=/dev/null bs=1M count=1")).unwrap().want(0);
    let _ = machine.run("echo > /tmp/end").unwrap().want(0);
    let _ = machine.finish("user", Duration::from_secs(30)).unwrap().want(0);
    let mut run = |command: &str, code| machine.run(command).unwrap().want(code).text;
    run(&format!("kms close {mapper}"), 0);
    run(&format!("kms close {mapper}"), 3);
    run(&format!("kms close {mapper} --ignore-not-found"), 0);
    run(&format!("kms status {mapper}"), 3);

    // An open device needs no KMS; for a closed one, the exit code shows that the KMS is missing.
    host.server.kill();
    let mut run = |command: &str, code| machine.run(command).unwrap().want(code).text;
    run("kms --timeout 1s open third /dev/loop0", 0);
    run(&format!("kms --timeout 1s open {NAME} /dev/vda"), 5);
    machine.power_off().unwrap();
}

#[tokio::test]
#[ignore = "needs QEMU: cargo xtask it vm"]
async fn a_mapping_whose_disk_was_pulled_out_is_replaced_when_the_disk_is_back() {
    let host = Host::new(1).await;
    let disks = ["data", "other"].map(|name| Disk::new(host.folder.path(), name, 32).unwrap());
    let mut machine = disks.iter().fold(host.boot(), |boot, disk| boot.disk(disk)).start().unwrap();
    let mut run = |command: &str, code| machine.run(command).unwrap().want(code).text;
    run(&format!("kms format {NAME} /dev/vdb"), 0);
    run(&format!("kms open {NAME} /dev/vdb --mapper osd0"), 0);
    run("dd if=/dev/urandom of=/tmp/data bs=1M count=2", 0);
    run("dd if=/tmp/data of=/dev/mapper/osd0 bs=1M conv=fsync", 0);

    let card = run("readlink -f /sys/block/vdb/device/..", 0);
    run(&format!("echo 1 > {card}/remove"), 0);
    run("test -e /sys/block/vdb", 1);
    let gone: Value = serde_json::from_str(&run("kms -o json status osd0", 1)).unwrap();
    assert_eq!(gone["stale"], true, "{gone}");

    run("echo 1 > /sys/bus/pci/rescan", 0);
    // The name is not free yet: the mapping still holds the disk that is gone.
    let disk = run("ls /dev/vd[b-z]", 0);
    assert_eq!(outcome(&mut machine, &format!("open {NAME} {disk} --mapper osd0")), "replaced", "{disk}");
    let mut run = |command: &str, code| machine.run(command).unwrap().want(code).text;
    run("cmp -n 2097152 /tmp/data /dev/mapper/osd0", 0);
    run("kms status osd0", 0);
    run("kms close osd0", 0);
    machine.power_off().unwrap();
}
