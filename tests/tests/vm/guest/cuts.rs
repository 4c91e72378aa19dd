//! The power is cut while a KEK is being rotated and its device is in use.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use kms_testkit::servers::{
    machine::{Disk, Line, Loss, Machine, lines_of},
    optional_setting,
};

use super::{Host, NAME, data::Data, slots};

/// How often the power is cut, unless `cargo xtask it vm --cuts` says otherwise.
const CUTS: u64 = 5;

/// The rotation that is cut. It waits a little, so that cuts fall into the wait too.
const ROTATE: &str = "kms -vv rotate --grace 500ms";

/// The longest that one rotation may take on a loaded machine.
const LIMIT: Duration = Duration::from_secs(120);

/// A setting of xtask that is a number.
fn number(name: &str) -> Option<u64> {
    optional_setting(name)?.to_str()?.parse().ok()
}

/// xorshift64*: the same numbers for the same seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    /// From 0 up to and without 1.
    fn share(&mut self) -> f64 {
        self.next() as f64 / (1_u64 << 53) as f64
    }
}

/// The step that the rotation had announced last.
fn last_step(log: &[Line]) -> String {
    let text = |line: Line| {
        let (_, step) = line.text.split_once("rotate::progress: ")?;
        Some(step.split(" key=").next().unwrap_or(step).to_owned())
    };
    lines_of(log, "rotate").into_iter().rev().find_map(text).unwrap_or_else(|| "nothing yet".to_owned())
}

/// The moments of a rotation: how long it takes to its first line and from each line to the next.
fn moments(machine: &Machine, begin: Duration) -> Vec<Duration> {
    let times: Vec<_> = machine.lines_of("whole").into_iter().map(|line| line.at).collect();
    let before = [begin].into_iter().chain(times.iter().copied());
    before.zip(&times).map(|(before, after)| after.saturating_sub(before)).collect()
}

fn open(machine: &mut Machine) {
    let _ = machine.run(&format!("kms open {NAME} /dev/vda --mapper osd0")).unwrap().want(0);
}

#[tokio::test]
#[ignore = "needs QEMU: cargo xtask it vm"]
async fn after_every_cut_the_next_boot_opens_the_device_and_finds_the_data() {
    let cuts = number("KMS_IT_VM_CUTS").unwrap_or(CUTS).max(1);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |now| now.as_secs());
    let seed = number("KMS_IT_VM_SEED").unwrap_or(now).max(1);
    let kv = 1 + seed % 2;
    println!("{cuts} cuts, --seed {seed}, KV version {kv}");
    let mut random = Random(seed);
    let mut host = Host::new(kv).await;
    Data::tools(&mut host.initramfs);
    let disk = Disk::new(host.folder.path(), "osd", 32).unwrap();
    let boot = || host.boot().disk(&disk).start().unwrap();

    let mut machine = boot();
    println!("first boot: {:.1} s", machine.took().0.as_secs_f64());
    for command in [format!("kms create {NAME}"), format!("kms format {NAME} /dev/vda")] {
        let _ = machine.run(&command).unwrap().want(0);
    }
    open(&mut machine);
    let mut data = Data::create(&mut machine);
    data.keep_writing(&mut machine);
    let begin = machine.on_for();
    machine.spawn("whole", &format!("{ROTATE} {NAME} /dev/vda")).unwrap();
    let _ = machine.finish("whole", LIMIT).unwrap().want(0);
    let whole = machine.on_for() - begin;
    let moments = moments(&machine, begin);
    println!("a rotation of a device in use: {:.2} s, {} lines", whole.as_secs_f64(), moments.len());

    let (mut steps, mut leftovers, mut lost) = (BTreeMap::new(), 0, 0);
    for cut in 0..cuts {
        machine.spawn("rotate", &format!("{ROTATE} {NAME} /dev/vda")).unwrap();
        // Each has its own part of the rotation, so that all parts are hit: so many lines, and some time after.
        let place = (cut as f64 + random.share()) / cuts as f64 * moments.len() as f64;
        let line = (place as usize).min(moments.len() - 1);
        machine.follow("rotate", line, LIMIT).unwrap();
        machine.go_on_for(moments[line].mul_f64(random.share())).unwrap();
        let log = machine.cut();
        let loss = match cut % 3 {
            0 => Loss::All,
            1 => Loss::Any(random.next()),
            _ => Loss::None,
        };
        let (unflushed, gone) = disk.cut(loss).unwrap();
        data.heard(&log);
        let step = last_step(&log);

        machine = boot();
        open(&mut machine);
        let blocks = data.check(&mut machine);
        let found = slots(&mut machine, "/dev/vda");
        assert!(!found.is_empty() && found.len() <= 2, "{found:?}");
        println!(
            "cut {:2} after line {line:2}: boot {:.1} s, slots {found:?}, {unflushed} sectors in the cache, {gone} lost, {blocks} \
             blocks; {step}",
            cut + 1,
            machine.took().0.as_secs_f64()
        );
        *steps.entry(step).or_insert(0) += 1;
        leftovers += usize::from(found.len() > 1);
        lost += gone;
        // Every third leftover is met by a rotation that is cut itself.
        if random.next() % 3 > 0 || cut + 1 == cuts {
            let _ =
                machine.run_for(&format!("kms rotate --grace 0s {NAME} /dev/vda"), LIMIT).unwrap().want(0);
            assert_eq!(slots(&mut machine, "/dev/vda").len(), 1, "the rotation has converged");
            let _ = machine.run(&format!("kms verify {NAME} /dev/vda")).unwrap().want(0);
        }
        data.keep_writing(&mut machine);
    }
    data.heard(&machine.cut());
    println!(
        "{cuts} cuts: {leftovers} left a second slot, {lost} sectors were lost; the rotation had said last:"
    );
    for (step, count) in steps {
        println!("{count:4}  {step}");
    }
    assert!(disk.flushes() > cuts, "the guest flushes what it writes");
}
