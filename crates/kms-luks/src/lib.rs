#![doc = include_str!("../README.md")]

mod blank;
mod cryptsetup;
mod device;
mod direct;
mod error;
mod format;
mod header;
mod header_copy;
mod kdf;
mod key_pipe;
mod label;
mod lock;
mod mapping;
mod mapping_name;
mod memory;
mod on_disk;
mod open;
mod osd_folder;
mod process;
mod room;
mod slots;
mod store;
mod sysfs;
mod tokens;

pub use self::{
    cryptsetup::{Cryptsetup, Version},
    device::Device,
    format::{FormatOptions, FormatTarget, Formatted},
    header::{Header, LuksVersion},
    kdf::{Hash, Kdf},
    label::{Identity, Labelled},
    lock::DeviceLock,
    mapping::{Mapping, MappingStatus},
    mapping_name::{DeviceKind, MappingName},
    open::Opened,
    osd_folder::OsdFolder,
    slots::Changed,
    sysfs::Sysfs,
};
// These types are defined in `kms-rotation`.
pub use kms_rotation::{Added, KeySlot, Proof, Slot, SlotKdf, SlotToken};
