//! The data that an OSD writes, and the data that must survive a cut.
//!
//! The mapped device has two parts: four megabytes that are written once, and a journal that is written all the time,
//! one block after the other. Each block is written to the disk's cache, then flushed, then announced. An announced
//! block must be intact after a cut; each sector of the block that was being written may be old or new.

use std::time::Duration;

use kms_tests::machine::{Initramfs, Line, Machine, lines_of};

/// The mapped device.
const DEVICE: &str = "/dev/mapper/osd0";

/// The time limit of the writer for a block, on a loaded machine.
const LIMIT: Duration = Duration::from_secs(60);

/// The number of blocks in the journal; block `n` is at `n % BLOCKS`.
const BLOCKS: u64 = 64;

/// Writes the journal, starting with the given number. A block of 4 KiB has 256 lines of 16 bytes.
const WRITER: &str = r#"#!/bin/sh
number=$1
while [ ! -e /tmp/stop ]; do
    number=$((number + 1))
    line=$(printf 'block %09d' $number)
    yes "$line" | head -c 4096 > /tmp/block
    dd if=/tmp/block of=/dev/mapper/osd0 bs=4096 seek=$((1024 + number % 64)) oflag=direct conv=notrunc 2> /dev/null || exit 1
    sleep 0.02
    dd if=/dev/null of=/dev/mapper/osd0 conv=notrunc,fsync 2> /dev/null || exit 1
    echo wrote $number
done
"#;

/// The data on one device.
#[derive(Debug)]
pub(super) struct Data {
    sum: String,
    announced: u64,
}

impl Data {
    /// Adds the programs that the guest needs for the data.
    pub(super) fn tools(initramfs: &mut Initramfs) {
        initramfs.file("bin/writer", 0o755, WRITER);
    }

    /// Writes the fixed part, and an empty journal.
    pub(super) fn create(machine: &mut Machine) -> Self {
        let line = "block 000000000";
        let commands = [
            "dd if=/dev/urandom of=/tmp/data bs=1M count=4 2> /dev/null".to_owned(),
            format!("dd if=/tmp/data of={DEVICE} bs=1M conv=notrunc,fsync 2> /dev/null"),
            format!("yes '{line}' | head -c {} > /tmp/journal", 4096 * BLOCKS),
            format!("dd if=/tmp/journal of={DEVICE} bs=1M seek=4 conv=notrunc,fsync 2> /dev/null"),
        ];
        for command in commands {
            let _ = machine.run(&command).unwrap().want(0);
        }
        let sum = machine.run("sha256sum < /tmp/data").unwrap().want(0).text;
        assert_eq!(sum.split(' ').next().unwrap().len(), 64, "{sum}");
        Self { sum, announced: 0 }
    }

    /// Keeps writing the journal until the machine ends.
    pub(super) fn keep_writing(&self, machine: &mut Machine) {
        machine.spawn("writer", &format!("writer {}", self.announced)).unwrap();
        // The device is in use from the first block on.
        machine.follow("writer", 1, LIMIT).unwrap();
    }

    /// Stops the writer in an orderly way.
    pub(super) fn stop_writing(&mut self, machine: &mut Machine) {
        let _ = machine.run("touch /tmp/stop").unwrap().want(0);
        let _ = machine.finish("writer", LIMIT).unwrap().want(0);
        self.heard(machine.log());
    }

    /// Records the blocks that a machine announced before its end.
    pub(super) fn heard(&mut self, log: &[Line]) {
        self.announced = log.iter().rev().find_map(announced).unwrap_or(self.announced);
        let exit = lines_of(log, "writer").pop().filter(|line| line.text.starts_with("exit "));
        assert!(exit.is_none_or(|line| line.text == "exit 0"), "the device failed while it was in use");
    }

    /// Checks that all data is there, and returns the number of blocks.
    pub(super) fn check(&mut self, machine: &mut Machine) -> u64 {
        let read = format!("dd if={DEVICE} bs=1M count=4 2> /dev/null | sha256sum");
        assert_eq!(machine.run(&read).unwrap().want(0).text, self.sum, "the fixed part has changed");
        let read = format!("dd if={DEVICE} bs=4096 skip=1024 count={BLOCKS} 2> /dev/null | uniq -c");
        let journal = machine.run(&read).unwrap().want(0).text;
        let next = self.announced + 1;
        let mut lines = Vec::new();
        for run in journal.lines() {
            let (count, number) = run.trim().split_once(" block ").unwrap_or_else(|| panic!("{run}"));
            let number: u64 = number.parse().unwrap_or_else(|_| panic!("{run}"));
            lines.extend(std::iter::repeat_n(number, count.parse().unwrap()));
        }
        assert_eq!(lines.len() as u64, 256 * BLOCKS, "{journal}");
        for (place, block) in (0..).zip(lines.chunks(256)) {
            // The newest announced number of this place.
            let expected =
                if self.announced >= place { self.announced - (self.announced - place) % BLOCKS } else { 0 };
            let written = |number: u64| number == expected || (number == next && next % BLOCKS == place);
            assert!(
                block.iter().all(|number| written(*number)),
                "place {place} of the journal: expected {expected}, announced {next} - 1:\n{journal}"
            );
            if block.iter().all(|number| *number == next) {
                self.announced = next;
            }
        }
        self.announced
    }
}

/// The number of the block that this line announces.
fn announced(line: &Line) -> Option<u64> {
    line.text.strip_prefix("@writer wrote ")?.parse().ok()
}
