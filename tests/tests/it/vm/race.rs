//! Rotates a KEK while its device is in use, and while a boot that has fetched the old KEK is under way.

use std::time::Duration;

use kms_tests::machine::{Disk, Loss, Machine};

use super::{Host, NAME, data::Data, slots};

/// An hour of real time, which is longer than any test: the test kills the rotation in its wait, after it has tried every
/// use of the old KEK.
const GRACE: &str = "120h";
const LIMIT: Duration = Duration::from_secs(120);

/// A script in front of cryptsetup: while a file exists, a process that maps a device waits after it has read the KEK.
const SLOW: &str = "#!/bin/sh
case \"$*\" in
    *--disable-keyring*)
        if [ -e /tmp/hold ]; then
            echo > /tmp/held
            read -r line < /tmp/go-on
        fi
        ;;
esac
exec /sbin/cryptsetup \"$@\"
";

/// Whether this file's KEK opens the device.
fn opens(machine: &mut Machine, kek: &str) -> bool {
    let command = format!("cryptsetup open --test-passphrase --key-file {kek} /dev/vda");
    match machine.run(&command).unwrap().code {
        0 => true,
        2 => false,
        code => panic!("{command}: {code}"),
    }
}

/// Waits until the KMS holds another KEK than the file.
fn until_another(machine: &mut Machine, kek: &str) {
    let look = format!("while kms get {NAME} > /tmp/now && cmp -s /tmp/now {kek}; do :; done");
    let _ = machine.run(&look).unwrap().want(0);
}

#[tokio::test]
#[ignore = "needs QEMU: cargo xtask it vm"]
async fn a_rotation_disturbs_neither_who_uses_the_device_nor_who_is_about_to_open_it() {
    let mut host = Host::new(1).await;
    Data::tools(&mut host.initramfs);
    host.initramfs.file("bin/cryptsetup", 0o755, SLOW);
    let disk = Disk::new(host.folder.path(), "osd", 32).unwrap();
    let mut machine = host.boot().disk(&disk).start().unwrap();
    let mut run = |command: &str, code| machine.run(command).unwrap().want(code).text;
    run(&format!("kms format {NAME} /dev/vda"), 0);
    run(&format!("kms open {NAME} /dev/vda --mapper osd0"), 0);
    run(&format!("kms get {NAME} /tmp/first"), 0);
    let mut data = Data::create(&mut machine);

    // The device is in use.
    data.keep_writing(&mut machine);
    let _ = machine.run_for(&format!("kms rotate --grace 0s {NAME} /dev/vda"), LIMIT).unwrap().want(0);
    assert!(!opens(&mut machine, "/tmp/first"), "the old KEK opens the device after the rotation");
    data.stop_writing(&mut machine);
    let mut run = |command: &str, code| machine.run(command).unwrap().want(code).text;
    run(&format!("kms get {NAME} /tmp/second"), 0);
    run("kms close osd0", 0);

    // A boot has fetched the KEK and uses it late.
    run("mkfifo /tmp/held /tmp/go-on && echo > /tmp/hold", 0);
    machine.spawn("boot", &format!("kms open {NAME} /dev/vda --mapper osd0")).unwrap();
    let _ = machine.run("read -r line < /tmp/held; rm /tmp/hold").unwrap().want(0);
    machine.spawn("rotate", &format!("kms rotate --grace {GRACE} {NAME} /dev/vda")).unwrap();
    until_another(&mut machine, "/tmp/second");
    let _ = machine.run("echo > /tmp/go-on").unwrap().want(0);
    let _ = machine.finish("boot", LIMIT).unwrap().want(0);
    data.check(&mut machine);

    // Rook's script with the KEK that it read earlier, and a boot with the new KEK: both within the grace period.
    let mut run = |command: &str, code| machine.run(command).unwrap().want(code).text;
    run("kms close osd0", 0);
    let rooks = "cryptsetup luksOpen --verbose --disable-keyring --allow-discards --key-file /tmp/second /dev/vda osd0";
    run(rooks, 0);
    run("kms close osd0", 0);
    run(&format!("kms open {NAME} /dev/vda --mapper osd0"), 0);
    assert_eq!(slots(&mut machine, "/dev/vda").len(), 2);

    // kms refuses another rotation, also through another node of the device such as Rook creates.
    let _ = machine.run("cp -a /dev/vda /tmp/block-tmp").unwrap().want(0);
    for node in ["/dev/vda", "/tmp/block-tmp"] {
        let refused = machine.run(&format!("kms rotate --grace 0s {NAME} {node}")).unwrap().want(5).text;
        assert!(refused.contains("another process is at work"), "{refused}");
    }

    // An interrupted rotation leaves the slot of the old KEK to the next run.
    let _ = machine.run("killall kms").unwrap().want(0);
    assert_ne!(machine.finish("rotate", LIMIT).unwrap().code, 0);
    assert!(opens(&mut machine, "/tmp/second"));
    let _ = machine.run(&format!("kms rotate --finish --grace 0s {NAME} /dev/vda")).unwrap().want(0);
    assert_eq!(slots(&mut machine, "/dev/vda").len(), 1);
    assert!(!opens(&mut machine, "/tmp/second"), "the old KEK opens the device after the grace");

    // A rotation that reports success is on the medium: a drive that loses its cache loses nothing of it.
    let mut run = |command: &str, code| machine.run(command).unwrap().want(code).text;
    run("kms close osd0", 0);
    run(&format!("kms rotate --no-wait {NAME} /dev/vda"), 0);
    machine.cut();
    let (unflushed, _) = disk.cut(Loss::All).unwrap();
    assert_eq!(unflushed, 0, "sectors that cryptsetup has written and not flushed");
    let mut machine = host.boot().disk(&disk).start().unwrap();
    assert_eq!(slots(&mut machine, "/dev/vda").len(), 2);
    let mut run = |command: &str, code| machine.run(command).unwrap().want(code).text;
    run(&format!("kms open {NAME} /dev/vda --mapper osd0"), 0);
    run(&format!("kms rotate --finish --grace 0s {NAME} /dev/vda"), 0);
    assert_eq!(slots(&mut machine, "/dev/vda").len(), 1);
    data.check(&mut machine);
    machine.power_off().unwrap();
}
