//! Cuts the power while a KEK is being rotated and its device is in use.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use kms_testkit::servers::optional_setting;
use kms_tests::machine::{Disk, Line, Loss, Machine, lines_of};

use super::{Host, NAME, data::Data, slots};

/// The default number of power cuts; `cargo xtask it vm --cuts` sets another.
const CUTS: u64 = 5;

/// The rotation that is cut. Its grace period takes half a second of real time, so cuts fall into the wait too.
const ROTATE: &str = "kms -vv rotate --grace 60s";

/// The longest that one rotation may take on a loaded machine.
const LIMIT: Duration = Duration::from_secs(120);

/// Reads a numeric setting of xtask.
fn number(name: &str) -> Option<u64> {
    optional_setting(name)?.to_str()?.parse().ok()
}

/// The generator xorshift64*: the same seed gives the same numbers.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    /// A number from 0 inclusive to 1 exclusive.
    fn share(&mut self) -> f64 {
        self.next() as f64 / (1_u64 << 53) as f64
    }
}

/// The last step that the rotation had announced.
fn last_step(log: &[Line]) -> String {
    let text = |line: Line| {
        let (_, step) = line.text.split_once("rotate::progress: ")?;
        Some(step.split(" key=").next().unwrap_or(step).to_owned())
    };
    lines_of(log, "rotate").into_iter().rev().find_map(text).unwrap_or_else(|| "nothing yet".to_owned())
}

/// An uninterrupted rotation, from which the moments of cuts are derived.
struct Whole {
    /// The time to the first line, and from each line to the next.
    lines: Vec<Duration>,
    /// The number of writes to the disk meanwhile, by the rotation and by the user of the device.
    writes: u64,
}

impl Whole {
    fn of(machine: &mut Machine, disk: &Disk) -> Self {
        let (begin, writes) = (machine.on_for(), disk.writes());
        machine.spawn("whole", &format!("{ROTATE} {NAME} /dev/vda")).unwrap();
        let _ = machine.finish("whole", LIMIT).unwrap().want(0);
        let writes = disk.writes() - writes;
        let times: Vec<_> = machine.lines_of("whole").into_iter().map(|line| line.at).collect();
        let before = [begin].into_iter().chain(times.iter().copied());
        let lines: Vec<_> = before.zip(&times).map(|(before, after)| after.saturating_sub(before)).collect();
        let took = (machine.on_for() - begin).as_secs_f64();
        println!("a rotation of a device in use: {took:.2} s, {} lines, {writes} writes", lines.len());
        Self { lines, writes }
    }

    /// Lets a rotation run to about this share of its course, from 0 to 1: until a number of lines was printed and some
    /// time has passed, or until the disk has done a number of writes. Returns a description of that moment.
    fn wait(&self, machine: &mut Machine, disk: &Disk, share: f64, random: &mut Random) -> String {
        if random.next().is_multiple_of(2) {
            let write = (share * self.writes as f64) as u64;
            disk.stop_after(write);
            assert!(disk.stops_within(LIMIT), "no process writes to the device");
            format!("at write {write}")
        } else {
            let line = ((share * self.lines.len() as f64) as usize).min(self.lines.len() - 1);
            machine.follow("rotate", line, LIMIT).unwrap();
            machine.go_on_for(self.lines[line].mul_f64(random.share())).unwrap();
            format!("after line {line}")
        }
    }
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
    let whole = Whole::of(&mut machine, &disk);

    let (mut steps, mut leftovers, mut lost) = (BTreeMap::new(), 0, 0);
    for cut in 0..cuts {
        machine.spawn("rotate", &format!("{ROTATE} {NAME} /dev/vda")).unwrap();
        // Each cut has its own part of the rotation, so that the cuts cover all parts.
        let share = (cut as f64 + random.share()) / cuts as f64;
        let place = whole.wait(&mut machine, &disk, share, &mut random);
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
            "cut {:2} {place:13}: boot {:.1} s, slots {found:?}, {unflushed} sectors in the cache, {gone} lost, {blocks} \
             blocks; {step}",
            cut + 1,
            machine.took().0.as_secs_f64()
        );
        *steps.entry(step).or_insert(0) += 1;
        leftovers += usize::from(found.len() > 1);
        lost += gone;
        // A third of the leftovers stay for the next rotation, which is cut itself.
        if !random.next().is_multiple_of(3) || cut + 1 == cuts {
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
