#![doc = include_str!("../README.md")]

mod cryptsetup;
mod device;
mod error;
mod format;
mod header;
mod kdf;
mod key_pipe;
mod label;
mod lock;
mod mapping;
mod on_disk;
mod open;
mod process;
mod slot;
mod slots;
mod sysfs;

pub use self::{
    cryptsetup::{Cryptsetup, Version},
    device::Device,
    format::FormatOptions,
    header::{Header, KeySlot, LuksVersion, SlotKdf},
    kdf::{Hash, Kdf},
    label::{Identity, Labelled},
    lock::DeviceLock,
    mapping::{DeviceKind, Mapping, MappingName, MappingStatus},
    open::Opened,
    slot::Slot,
    slots::{Added, Changed, Proof},
    sysfs::Sysfs,
};
