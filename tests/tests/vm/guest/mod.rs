//! smoke
use kms_testkit::servers::machine::{self, Boot, Disk, Loss};

#[test]
#[ignore = "needs QEMU: cargo xtask it vm"]
fn smoke() {
    let folder = machine::folder().unwrap();
    let disk = Disk::new(folder.path(), "osd", 32).unwrap();
    let host = machine::osd_host().unwrap();
    let mut m = Boot::new(host.clone(), folder.path()).disk(&disk).start().unwrap();
    println!("boot {:?}", m.took());
    for c in [
        "date -u",
        "ls /dev/mapper /dev/vd*; cat /sys/block/vda/queue/write_cache",
        "time dd if=/dev/urandom of=/tmp/kek bs=32 count=1",
        "time kms --version",
        "time cryptsetup --version",
        "time cryptsetup -q luksFormat --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file /tmp/kek /dev/vda",
        "time cryptsetup open --key-file /tmp/kek /dev/vda osd0",
        "ls -l /dev/mapper; dmsetup table; dmesg | tail -30",
        "cp /tmp/kek /dev/ttyS0",
    ] {
        let ran = m.run(c).unwrap();
        println!("{} -> {} [{:?}]\n{}", ran.command, ran.code, m.on_for(), ran.text);
    }
    let key = m.run("base64 /tmp/kek").unwrap().text;
    m.cut();
    println!("flushes {} cut {:?}", disk.flushes(), disk.cut(Loss::All));
    let mut m = Boot::new(host, folder.path()).disk(&disk).start().unwrap();
    println!("boot {:?}", m.took());
    let r = m.run(&format!("echo {key} | base64 -d | cryptsetup open --key-file - /dev/vda osd0")).unwrap();
    println!("{r:?}");
    m.spawn("x", "echo 'hi there'; sleep 1; false").unwrap();
    println!("{:?}", m.finish("x", std::time::Duration::from_secs(5)).unwrap());
    m.power_off().unwrap();
}
