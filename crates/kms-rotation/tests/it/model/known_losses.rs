//! The kinds of schedules that lose a device today. Issue 12 empties this list.
//!
//! Where a test says that a schedule is not the one of the ledger, or that a kind is missing, its output has the text for
//! this file.

/// A kind of loss.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) kind: &'static str,
    /// Why it happens.
    pub(super) why: &'static str,
    /// The issue that closes it.
    pub(super) issue: u32,
    /// The options of our runs that it happens with.
    pub(super) runs: &'static [&'static str],
    /// The first of the shortest schedules.
    pub(super) shortest: &'static str,
}

pub(super) const LEDGER: &[Entry] = &[
    Entry {
        kind: "Rook: Rook removes the only slot of the KEK of ours",
        why: "Rook has read K1 before our KEK is stored, and clears slot 1, which is ours, to put K1 there (mechanism A of issue 12, the other way round).",
        issue: 12,
        runs: &["AtOnce", "NoWait", "Waits"],
        shortest: "
[Ours(AtOnce), Rook(Unconditional)] on 1 device(s), compare-and-set
ours: device 0: Lock
ours: reads the KMS
ours: device 0: Table
ours: device 0: Add(1)
ours: device 0: Opens(1)
Rook: reads the KMS
ours: stores a KEK
Rook: device 0: Add(1)
Rook: device 0: Add(1)
Rook: device 0: Kill(1)
",
    },
    Entry {
        kind: "Rook: Rook removes K1 after ours has removed it too",
        why: "K1 in slots 0 and 1 is the state of Rook after its first step. We remove one copy as a leftover, and Rook then removes the other (mechanism A of issue 12).",
        issue: 12,
        runs: &["AtOnce", "Finish", "NoWait", "Waits"],
        shortest: "
[Ours(AtOnce), Rook(Unconditional)] on 1 device(s), compare-and-set
ours: device 0: Lock
ours: reads the KMS
Rook: reads the KMS
Rook: device 0: Add(1)
ours: device 0: Table
ours: device 0: Opens(0)
ours: stores a KEK
ours: device 0: Opens(0)
ours: device 0: Look(1)
ours: device 0: Kill(1)
Rook: device 0: Kill(0)
",
    },
    Entry {
        kind: "Rook: ours removes K1 after Rook has removed it too",
        why: "As the line above, and Rook removes its copy between our look at the slots and our removal.",
        issue: 12,
        runs: &["AtOnce", "Finish", "NoWait", "Waits"],
        shortest: "
[Ours(AtOnce), Rook(Unconditional)] on 1 device(s), compare-and-set
ours: device 0: Lock
ours: reads the KMS
Rook: reads the KMS
Rook: device 0: Add(1)
ours: device 0: Table
ours: device 0: Opens(0)
ours: stores a KEK
ours: device 0: Opens(0)
ours: device 0: Look(1)
Rook: device 0: Kill(0)
ours: device 0: Kill(1)
",
    },
    Entry {
        kind: "Rook: ours stores the KEK of ours after Rook has removed it",
        why: "Between our proof of the new slot and our write to the KMS, Rook clears the slot. The proof after the write fails, and the old KEK is stored again only afterwards.",
        issue: 12,
        runs: &["AtOnce", "NoWait", "Waits"],
        shortest: "
[Ours(AtOnce), Rook(Unconditional)] on 1 device(s), compare-and-set
ours: device 0: Lock
ours: reads the KMS
ours: device 0: Table
ours: device 0: Add(1)
ours: device 0: Opens(1)
Rook: reads the KMS
Rook: device 0: Add(1)
Rook: device 0: Add(1)
Rook: device 0: Kill(1)
Rook: device 0: Add(1)
ours: stores a KEK
",
    },
    Entry {
        kind: "Rook: Rook stores the KEK of Rook after ours has removed it",
        why: "The new KEK of Rook is beside K1, and the KMS still holds K1. We remove the new KEK as a leftover, and Rook then stores it (mechanism B of issue 12).",
        issue: 12,
        runs: &["AtOnce", "Finish", "NoWait", "Waits"],
        shortest: "
[Ours(AtOnce), Rook(Unconditional)] on 1 device(s), compare-and-set
ours: device 0: Lock
ours: reads the KMS
Rook: reads the KMS
Rook: device 0: Add(1)
ours: device 0: Table
Rook: device 0: Kill(0)
ours: device 0: Opens(0)
ours: device 0: Opens(1)
ours: stores a KEK
ours: device 0: Opens(1)
Rook: device 0: Add(0)
ours: device 0: Look(0)
ours: device 0: Kill(0)
Rook: stores a KEK
",
    },
    Entry {
        kind: "Rook: ours removes the only slot of the KEK of Rook",
        why: "As the line above: Rook stores its KEK between our look at the slots and our removal.",
        issue: 12,
        runs: &["AtOnce", "Finish", "NoWait", "Waits"],
        shortest: "
[Ours(AtOnce), Rook(Unconditional)] on 1 device(s), compare-and-set
ours: device 0: Lock
ours: reads the KMS
Rook: reads the KMS
Rook: device 0: Add(1)
ours: device 0: Table
Rook: device 0: Kill(0)
ours: device 0: Opens(0)
ours: device 0: Opens(1)
ours: stores a KEK
ours: device 0: Opens(1)
Rook: device 0: Add(0)
ours: device 0: Look(0)
Rook: stores a KEK
Rook: reads the KMS
ours: device 0: Kill(0)
",
    },
    Entry {
        kind: "two hosts: our next run removes the only slot of the KEK of ours",
        why: "Two hosts, or two nodes of one device, do not see each other's locks (decision 0008). A check-then-act KMS does not decide between their writes either, and a proof does not hold until the removal.",
        issue: 12,
        runs: &["AtOnce, then AtOnce", "NoWait, then NoWait", "Waits, then Waits"],
        shortest: "
[Ours(AtOnce), Ours(AtOnce)] on 1 device(s), check-then-act, does not tell ages
ours: device 0: Lock
ours: reads the KMS
ours: device 0: Table
ours: device 0: Add(1)
ours: device 0: Opens(1)
ours: reads the KMS
our next run: device 0: Lock
our next run: reads the KMS
our next run: device 0: Table
our next run: device 0: Opens(0)
our next run: reads the KMS
ours: stores a KEK
our next run: device 0: Opens(0)
our next run: device 0: Look(1)
our next run: device 0: Kill(1)
",
    },
    Entry {
        kind: "two hosts: our next run stores the KEK of our next run after ours has removed it",
        why: "Two hosts, or two nodes of one device, do not see each other's locks (decision 0008). A check-then-act KMS does not decide between their writes either, and a proof does not hold until the removal.",
        issue: 12,
        runs: &["AtOnce, then AtOnce", "NoWait, then NoWait", "Waits, then Waits"],
        shortest: "
[Ours(AtOnce), Ours(AtOnce)] on 1 device(s), check-then-act, does not tell ages
ours: device 0: Lock
ours: reads the KMS
our next run: device 0: Lock
our next run: reads the KMS
our next run: device 0: Table
our next run: device 0: Add(1)
ours: device 0: Table
ours: device 0: Opens(0)
ours: reads the KMS
ours: device 0: Opens(0)
ours: device 0: Look(1)
our next run: device 0: Opens(1)
ours: device 0: Kill(1)
our next run: reads the KMS
our next run: stores a KEK
",
    },
    Entry {
        kind: "two hosts: ours removes the only slot of the KEK of our next run",
        why: "Two hosts, or two nodes of one device, do not see each other's locks (decision 0008). A check-then-act KMS does not decide between their writes either, and a proof does not hold until the removal.",
        issue: 12,
        runs: &["AtOnce, then AtOnce", "NoWait, then NoWait", "Waits, then Waits"],
        shortest: "
[Ours(AtOnce), Ours(AtOnce)] on 1 device(s), check-then-act, does not tell ages
ours: device 0: Lock
ours: reads the KMS
our next run: device 0: Lock
our next run: reads the KMS
our next run: device 0: Table
our next run: device 0: Add(1)
ours: device 0: Table
ours: device 0: Opens(0)
ours: reads the KMS
ours: device 0: Opens(0)
ours: device 0: Look(1)
our next run: device 0: Opens(1)
our next run: reads the KMS
our next run: stores a KEK
our next run: reads the KMS
ours: device 0: Kill(1)
",
    },
    Entry {
        kind: "two hosts: ours stores the KEK of ours after our next run has removed it",
        why: "Two hosts, or two nodes of one device, do not see each other's locks (decision 0008). A check-then-act KMS does not decide between their writes either, and a proof does not hold until the removal.",
        issue: 12,
        runs: &["AtOnce, then AtOnce", "NoWait, then NoWait", "Waits, then Waits"],
        shortest: "
[Ours(AtOnce), Ours(AtOnce)] on 1 device(s), check-then-act, does not tell ages
ours: device 0: Lock
ours: reads the KMS
ours: device 0: Table
ours: device 0: Add(1)
ours: device 0: Opens(1)
ours: reads the KMS
our next run: device 0: Lock
our next run: reads the KMS
our next run: device 0: Table
our next run: device 0: Opens(0)
our next run: reads the KMS
our next run: device 0: Opens(0)
our next run: device 0: Look(1)
our next run: device 0: Kill(1)
our next run: device 0: Add(1)
ours: stores a KEK
",
    },
    Entry {
        kind: "crash and failed write: ours stores the KEK of ours after our next run has removed it",
        why: "A late write on a check-then-act KMS: without a grace period the next run does not wait until the write has arrived, and removes its slot as a leftover (A5 of issue 12).",
        issue: 12,
        runs: &["AtOnce, then AtOnce", "NoWait, then AtOnce", "Waits, then AtOnce"],
        shortest: "
[Ours(AtOnce), Ours(AtOnce)] on 1 device(s), check-then-act, does not tell ages
ours: device 0: Lock
ours: reads the KMS
ours: device 0: Table
ours: device 0: Add(1)
ours: device 0: Opens(1)
ours: reads the KMS
ours: stores a KEK (Late)
ours: reads the KMS
our next run: device 0: Lock
our next run: reads the KMS
our next run: device 0: Table
our next run: device 0: Opens(0)
our next run: reads the KMS
our next run: device 0: Opens(0)
our next run: device 0: Look(1)
our next run: device 0: Kill(1)
a late write of ours arrives
",
    },
    Entry {
        kind: "two hosts: our next run removes the only slot of K1",
        why: "Two hosts, or two nodes of one device, do not see each other's locks (decision 0008). A check-then-act KMS does not decide between their writes either, and a proof does not hold until the removal.",
        issue: 12,
        runs: &["AtOnce, then AtOnce"],
        shortest: "
[Ours(AtOnce), Ours(AtOnce)] on 1 device(s), check-then-act, does not tell rights
ours: device 0: Lock
ours: reads the KMS
ours: device 0: Table
ours: reads the KMS
our next run: device 0: Lock
our next run: reads the KMS
our next run: device 0: Table
our next run: reads the KMS
our next run: stores a KEK
our next run: device 0: Add(1)
our next run: device 0: Opens(1)
our next run: reads the KMS
our next run: stores a KEK
our next run: reads the KMS
ours: stores a KEK
our next run: device 0: Opens(1)
our next run: device 0: Look(0)
our next run: device 0: Kill(0)
",
    },
    Entry {
        kind: "two hosts: our next run stores K1 after ours has removed it",
        why: "Two hosts, or two nodes of one device, do not see each other's locks (decision 0008). A check-then-act KMS does not decide between their writes either, and a proof does not hold until the removal.",
        issue: 12,
        runs: &["AtOnce, then AtOnce"],
        shortest: "
[Ours(AtOnce), Ours(AtOnce)] on 1 device(s), check-then-act, does not tell rights
ours: device 0: Lock
ours: reads the KMS
ours: device 0: Table
ours: reads the KMS
ours: stores a KEK
our next run: device 0: Lock
our next run: reads the KMS
our next run: device 0: Table
ours: device 0: Add(1)
ours: device 0: Opens(1)
ours: reads the KMS
our next run: reads the KMS
ours: stores a KEK
ours: reads the KMS
ours: device 0: Opens(1)
ours: device 0: Look(0)
ours: device 0: Kill(0)
our next run: stores a KEK
",
    },
    Entry {
        kind: "crash and failed write: ours stores K1 after our next run has removed it",
        why: "The write that asks for the right to update is late. It left no trace on the device, so the next run does not wait for it (A5 of issue 12).",
        issue: 12,
        runs: &["AtOnce, then AtOnce", "NoWait, then AtOnce", "Waits, then AtOnce"],
        shortest: "
[Ours(AtOnce), Ours(AtOnce)] on 1 device(s), check-then-act, does not tell rights
ours: device 0: Lock
ours: reads the KMS
ours: device 0: Table
ours: reads the KMS
ours: stores a KEK (Late)
our next run: device 0: Lock
our next run: reads the KMS
our next run: device 0: Table
our next run: reads the KMS
our next run: stores a KEK
our next run: device 0: Add(1)
our next run: device 0: Opens(1)
our next run: reads the KMS
our next run: stores a KEK
our next run: reads the KMS
our next run: device 0: Opens(1)
our next run: device 0: Look(0)
our next run: device 0: Kill(0)
a late write of ours arrives
",
    },
    Entry {
        kind: "two hosts: ours removes the only slot of K1",
        why: "Two hosts, or two nodes of one device, do not see each other's locks (decision 0008). A check-then-act KMS does not decide between their writes either, and a proof does not hold until the removal.",
        issue: 12,
        runs: &["AtOnce, then AtOnce"],
        shortest: "
[Ours(AtOnce), Ours(AtOnce)] on 1 device(s), check-then-act, does not tell rights
ours: device 0: Lock
ours: reads the KMS
ours: device 0: Table
ours: reads the KMS
ours: stores a KEK
our next run: device 0: Lock
our next run: reads the KMS
our next run: device 0: Table
ours: device 0: Add(1)
ours: device 0: Opens(1)
ours: reads the KMS
our next run: reads the KMS
ours: stores a KEK
ours: reads the KMS
ours: device 0: Opens(1)
ours: device 0: Look(0)
our next run: stores a KEK
our next run: device 0: Add(1)
ours: device 0: Kill(0)
",
    },
    Entry {
        kind: "two hosts: ours stores K1 after our next run has removed it",
        why: "Two hosts, or two nodes of one device, do not see each other's locks (decision 0008). A check-then-act KMS does not decide between their writes either, and a proof does not hold until the removal.",
        issue: 12,
        runs: &["AtOnce, then AtOnce"],
        shortest: "
[Ours(AtOnce), Ours(AtOnce)] on 2 device(s), check-then-act, does not tell rights
ours: device 0: Lock
ours: device 1: Lock
ours: reads the KMS
ours: device 0: Table
ours: device 1: Table
ours: device 1: Opens(0)
ours: reads the KMS
our next run: device 0: Lock
our next run: device 1: Lock
our next run: reads the KMS
our next run: device 0: Table
our next run: device 1: Table
our next run: device 1: Opens(0)
our next run: reads the KMS
our next run: stores a KEK
our next run: device 0: Add(1)
our next run: device 0: Opens(1)
our next run: device 1: Add(1)
our next run: device 1: Opens(1)
our next run: reads the KMS
our next run: stores a KEK
our next run: reads the KMS
our next run: device 0: Opens(1)
our next run: device 1: Opens(1)
our next run: device 0: Look(0)
our next run: device 0: Kill(0)
our next run: device 1: Look(0)
ours: stores a KEK
",
    },
];
