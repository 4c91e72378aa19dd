//! The observer of a rotation.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use kms_core::KeyName;

use crate::Slot;

/// When a step is announced.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Phase {
    /// The step has not begun.
    Before,
    /// The step has succeeded.
    After,
    /// The step has failed. It may have changed something nevertheless.
    Failed,
}

/// An action of a rotation outside of its own process: a request to the KMS, or an access to a device.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Step {
    /// Take the lock of a device.
    Lock(PathBuf),
    /// Read the current KEK.
    ReadKek,
    /// Ask whether the KEK may be updated.
    AskRight,
    /// Store the current KEK once more, to learn whether that is allowed, or to make earlier writes fail.
    StoreAgain,
    /// Store the new KEK.
    StoreNew,
    /// Read the KEK back.
    ReadBack,
    /// Store the old KEK again, since the new one does not open all devices.
    PutBack,
    /// Destroy or disable superseded versions.
    Retire,
    /// Read the header of a device.
    ReadHeader(PathBuf),
    /// Test whether a KEK opens a slot, or any slot.
    Open(PathBuf, Option<Slot>),
    /// Prove that a KEK opens a slot.
    Verify(PathBuf, Slot),
    /// Add the new KEK in a slot.
    Add(PathBuf, Slot),
    /// Remove a slot.
    Kill(PathBuf, Slot),
}

impl Step {
    /// Whether the step changes a device.
    pub fn writes_device(&self) -> bool {
        matches!(self, Self::Add(..) | Self::Kill(..))
    }

    /// Whether the step changes what the KMS holds.
    pub fn writes_kms(&self) -> bool {
        matches!(self, Self::StoreAgain | Self::StoreNew | Self::PutBack | Self::Retire)
    }

    /// The device of the step. `None` for a request to the KMS.
    pub fn device(&self) -> Option<&Path> {
        match self {
            Self::Lock(path)
            | Self::ReadHeader(path)
            | Self::Open(path, _)
            | Self::Verify(path, _)
            | Self::Add(path, _)
            | Self::Kill(path, _) => Some(path),
            Self::ReadKek
            | Self::AskRight
            | Self::StoreAgain
            | Self::StoreNew
            | Self::ReadBack
            | Self::PutBack
            | Self::Retire => None,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lock(path) => write!(f, "lock {}", path.display()),
            Self::ReadKek => f.write_str("read the KEK"),
            Self::AskRight => f.write_str("ask whether it may be updated"),
            Self::StoreAgain => f.write_str("store the KEK that is in use once more"),
            Self::StoreNew => f.write_str("store the new KEK"),
            Self::ReadBack => f.write_str("read it back"),
            Self::PutBack => f.write_str("store the old KEK again"),
            Self::Retire => f.write_str("retire superseded versions"),
            Self::ReadHeader(path) => write!(f, "read the header of {}", path.display()),
            Self::Open(path, None) => write!(f, "look for the slot of the KEK on {}", path.display()),
            Self::Open(path, Some(slot)) => write!(f, "try the KEK on slot {slot} of {}", path.display()),
            Self::Verify(path, slot) => write!(f, "prove slot {slot} of {}", path.display()),
            Self::Add(path, slot) => write!(f, "add the new KEK in slot {slot} of {}", path.display()),
            Self::Kill(path, slot) => write!(f, "remove slot {slot} of {}", path.display()),
        }
    }
}

/// The receiver of the steps of a rotation: progress, logs, and tests that stop the rotation at any step.
///
/// The rotation calls it in the middle of its work, so it must not block for long.
pub trait Observer: Send + Sync {
    /// A step begins, or has ended.
    fn step(&self, name: &KeyName, step: &Step, phase: Phase);

    /// The rotation pauses for the time `left`. Called at the beginning of the pause and then every ten seconds.
    fn waiting(&self, name: &KeyName, left: Duration);
}

/// An observer that ignores everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Observer for Silent {
    fn step(&self, _: &KeyName, _: &Step, _: Phase) {}

    fn waiting(&self, _: &KeyName, _: Duration) {}
}
