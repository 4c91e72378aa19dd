//! `kms escrow slot`: recovery keys in key slots of their own.

pub(crate) mod add;
pub(crate) mod check;
pub(crate) mod remove;

use clap::Subcommand;
use kms_core::{Error, ErrorKind, Result};
use kms_luks::{Device, Header, KeySlot, LuksVersion, Slot};

/// The type of the token that marks the slot of a recovery key.
const TOKEN: &str = "kms-recovery";

/// What can be done with recovery keys.
#[derive(Debug, Subcommand)]
pub(crate) enum SlotCommand {
    /// Give the devices of an OSD a recovery key, in a key slot from 2 on
    ///
    /// kms writes a page with the key and a QR code, encrypted to the recipients, and reads it back before it changes a
    /// device. The key opens the devices without the KMS, also after rotations: decrypt the page and print it
    /// (age -d -i IDENTITY PAGE | lpr). A token of the type kms-recovery marks the slot.
    Add(add::Args),
    /// Check that a recovery key opens the devices; change nothing
    Check(check::Args),
    /// Remove the recovery keys of the devices, after a proof that the KEK of the KMS opens them
    Remove(remove::Args),
}

/// Whether a slot is marked as that of a recovery key.
pub(crate) fn is_recovery(slot: &KeySlot) -> bool {
    slot.tokens.iter().any(|token| token.kind == TOKEN)
}

/// The slots of recovery keys.
fn recovery_slots(header: &Header) -> Vec<Slot> {
    header.slots().filter(|slot| is_recovery(slot)).map(|slot| slot.slot).collect()
}

/// Reads the header of a device, which must be LUKS2.
async fn luks2(device: &Device) -> Result<Header> {
    let header = device.header().await?;
    if header.version() == LuksVersion::Luks2 {
        return Ok(header);
    }
    Err(Error::new(
        ErrorKind::Unsupported,
        "LUKS1 has no tokens, so the slot of a recovery key could not be marked",
    )
    .context("device", device.path().display().to_string()))
}

/// The error of a device that the KEK does not open.
fn not_opened(device: &Device) -> Error {
    Error::new(ErrorKind::Conflict, "the KEK of the KMS does not open the device (kms recover)")
        .context("device", device.path().display().to_string())
}
