#![doc = include_str!("../README.md")]

mod cryptsetup;
mod device;
mod error;
mod header;
mod kdf;
mod key_pipe;
mod lock;
mod on_disk;
mod process;
mod slot;
mod slots;
mod sysfs;

pub use self::{
    cryptsetup::{Cryptsetup, Version},
    device::Device,
    header::{Header, KeySlot, LuksVersion, SlotKdf},
    kdf::{Hash, Kdf},
    lock::DeviceLock,
    slot::Slot,
    slots::{Added, Changed, Proof},
    sysfs::Sysfs,
};
