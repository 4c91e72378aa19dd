//! The kinds of schedules that lose a device. Decision 0008 says for each what protects the user.
//!
//! Where a test says that a schedule is not the one of the ledger, or that a kind is missing, its output has the text for
//! this file.

/// A kind of loss.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) kind: &'static str,
    /// Why it happens.
    pub(super) why: &'static str,
    /// The options of our runs that it happens with.
    pub(super) runs: &'static [&'static str],
    /// The first of the shortest schedules.
    pub(super) shortest: &'static str,
}

/// Why two hosts lose a device.
const TWO_HOSTS: &str = "Two hosts, or two nodes of one device, do not see each other's locks. Between the last look at the header and the removal, the other run removes the same slot, adds its new KEK there and goes on.";

pub(super) const LEDGER: &[Entry] = &[
    Entry {
        kind: "Rook: Rook removes the only slot of the KEK of ours",
        why: "Rook has read K1 before our KEK is stored. It wants slot 1 for a copy of K1, and clears our KEK from it.",
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
        kind: "Rook: ours stores the KEK of ours after Rook has removed it",
        why: "As above, between our proof of the new slot and our write to the KMS. The proof after the write fails, and the old KEK is stored again a moment later.",
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
        why: "Rook reads our new KEK and rewrites slot 0 between our last look at the header and our removal of slot 0.",
        runs: &["AtOnce", "Waits"],
        shortest: "
[Ours(AtOnce), Rook(Unconditional)] on 1 device(s), compare-and-set
ours: device 0: Lock
ours: reads the KMS
ours: device 0: Table
ours: device 0: Add(1)
ours: device 0: Opens(1)
ours: stores a KEK
ours: reads the KMS
ours: device 0: Opens(1)
ours: device 0: Table
ours: device 0: Look(0)
Rook: reads the KMS
Rook: device 0: Add(1)
Rook: device 0: Add(1)
Rook: device 0: Kill(0)
Rook: device 0: Add(0)
ours: device 0: Kill(0)
Rook: stores a KEK
",
    },
    Entry {
        kind: "Rook: ours removes the only slot of the KEK of Rook",
        why: "As above, and Rook stores its KEK before our removal.",
        runs: &["AtOnce", "Waits"],
        shortest: "
[Ours(AtOnce), Rook(Unconditional)] on 1 device(s), compare-and-set
ours: device 0: Lock
ours: reads the KMS
ours: device 0: Table
ours: device 0: Add(1)
ours: device 0: Opens(1)
ours: stores a KEK
ours: reads the KMS
ours: device 0: Opens(1)
ours: device 0: Table
ours: device 0: Look(0)
Rook: reads the KMS
Rook: device 0: Add(1)
Rook: device 0: Add(1)
Rook: device 0: Kill(0)
Rook: device 0: Add(0)
Rook: stores a KEK
Rook: reads the KMS
ours: device 0: Kill(0)
",
    },
    Entry {
        kind: "two hosts: our next run removes the only slot of the KEK of ours",
        why: TWO_HOSTS,
        runs: &["AtOnce, then AtOnce"],
        shortest: "
[Ours(AtOnce), Ours(AtOnce)] on 1 device(s), check-then-act, does not tell ages
ours: device 0: Lock
our next run: device 0: Lock
our next run: reads the KMS
our next run: device 0: Table
our next run: device 0: Add(1)
our next run: device 0: Opens(1)
our next run: reads the KMS
our next run: stores a KEK
ours: reads the KMS
ours: device 0: Table
ours: device 0: Opens(0)
ours: device 0: Opens(1)
our next run: reads the KMS
our next run: device 0: Opens(1)
our next run: device 0: Table
120 s pass
ours: reads the KMS
ours: device 0: Table
ours: device 0: Opens(0)
ours: device 0: Opens(1)
ours: reads the KMS
ours: device 0: Opens(1)
ours: device 0: Look(0)
our next run: reads the KMS
our next run: device 0: Table
our next run: device 0: Opens(1)
our next run: device 0: Look(0)
ours: device 0: Kill(0)
ours: device 0: Add(0)
ours: device 0: Opens(0)
ours: reads the KMS
ours: stores a KEK
our next run: device 0: Kill(0)
",
    },
    Entry {
        kind: "two hosts: our next run stores the KEK of our next run after ours has removed it",
        why: TWO_HOSTS,
        runs: &["AtOnce, then AtOnce", "Waits, then AtOnce"],
        shortest: "
[Ours(Waits), Ours(AtOnce)] on 1 device(s), compare-and-set
ours: device 0: Lock
ours: reads the KMS
ours: device 0: Table
ours: device 0: Add(1)
ours: device 0: Opens(1)
ours: stores a KEK
ours: reads the KMS
ours: device 0: Opens(1)
ours: device 0: Table
our next run: device 0: Lock
our next run: reads the KMS
our next run: device 0: Table
our next run: device 0: Opens(0)
our next run: device 0: Opens(1)
120 s pass
our next run: reads the KMS
our next run: device 0: Table
our next run: device 0: Opens(0)
our next run: device 0: Opens(1)
our next run: stores a KEK
our next run: device 0: Opens(1)
30 s pass
our next run: device 0: Look(0)
30 s pass
ours: reads the KMS
ours: device 0: Table
ours: device 0: Opens(1)
ours: device 0: Look(0)
our next run: device 0: Kill(0)
our next run: device 0: Add(0)
our next run: device 0: Opens(0)
ours: device 0: Kill(0)
our next run: stores a KEK
",
    },
    Entry {
        kind: "two hosts: ours removes the only slot of the KEK of our next run",
        why: TWO_HOSTS,
        runs: &["AtOnce, then AtOnce", "Waits, then AtOnce"],
        shortest: "
[Ours(Waits), Ours(AtOnce)] on 1 device(s), compare-and-set
ours: device 0: Lock
ours: reads the KMS
ours: device 0: Table
ours: device 0: Add(1)
ours: device 0: Opens(1)
ours: stores a KEK
ours: reads the KMS
ours: device 0: Opens(1)
ours: device 0: Table
our next run: device 0: Lock
our next run: reads the KMS
our next run: device 0: Table
our next run: device 0: Opens(0)
our next run: device 0: Opens(1)
120 s pass
our next run: reads the KMS
our next run: device 0: Table
our next run: device 0: Opens(0)
our next run: device 0: Opens(1)
our next run: stores a KEK
our next run: device 0: Opens(1)
30 s pass
our next run: device 0: Look(0)
30 s pass
ours: reads the KMS
ours: device 0: Table
ours: device 0: Opens(1)
ours: device 0: Look(0)
our next run: device 0: Kill(0)
our next run: device 0: Add(0)
our next run: device 0: Opens(0)
our next run: stores a KEK
our next run: reads the KMS
ours: device 0: Kill(0)
",
    },
    Entry {
        kind: "two hosts: ours stores the KEK of ours after our next run has removed it",
        why: TWO_HOSTS,
        runs: &["AtOnce, then AtOnce"],
        shortest: "
[Ours(AtOnce), Ours(AtOnce)] on 2 device(s), check-then-act, does not tell ages
ours: device 0: Lock
ours: device 1: Lock
our next run: device 0: Lock
our next run: device 1: Lock
our next run: reads the KMS
our next run: device 0: Table
our next run: device 1: Table
our next run: device 1: Opens(0)
our next run: device 0: Add(1)
our next run: device 0: Opens(1)
our next run: device 1: Add(1)
our next run: device 1: Opens(1)
our next run: reads the KMS
our next run: stores a KEK
ours: reads the KMS
ours: device 0: Table
ours: device 0: Opens(0)
ours: device 0: Opens(1)
ours: device 1: Table
ours: device 1: Opens(0)
ours: device 1: Opens(1)
our next run: reads the KMS
our next run: device 0: Opens(1)
our next run: device 1: Opens(1)
our next run: device 0: Table
our next run: device 1: Table
120 s pass
ours: reads the KMS
ours: device 0: Table
ours: device 0: Opens(0)
ours: device 0: Opens(1)
ours: device 1: Table
ours: device 1: Opens(0)
ours: device 1: Opens(1)
ours: reads the KMS
ours: device 0: Opens(1)
ours: device 0: Look(0)
our next run: reads the KMS
our next run: device 0: Table
our next run: device 1: Table
our next run: device 0: Opens(1)
our next run: device 1: Opens(1)
our next run: device 0: Look(0)
ours: device 0: Kill(0)
ours: device 1: Opens(1)
ours: device 1: Look(0)
ours: device 1: Kill(0)
ours: device 0: Add(0)
ours: device 0: Opens(0)
ours: device 1: Add(0)
ours: device 1: Opens(0)
ours: reads the KMS
our next run: device 0: Kill(0)
our next run: device 1: Look(0)
ours: stores a KEK
",
    },
];
