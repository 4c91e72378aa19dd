//! Rook's rotation as a sequence of runs of cryptsetup (rook-behaviour §12.2 and §8.8).

use super::world::Seat;
use crate::memory::{Access, DONE, Device, FAILED};

/// How the KMS handles Rook's update.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Update {
    /// Vault: without `options.cas`.
    Unconditional,
    /// A Kubernetes Secret: read, and then written on condition of the resource version.
    ReadThenSet,
    /// Key Protect, KMIP and Key Vault: Rook cannot update there.
    Refused,
}

/// The text of the KEK that Rook makes.
pub(super) const NEW: &str = "the KEK of Rook";

/// Ends early where Rook's process would exit with 1.
pub(super) async fn rotate(kms: Seat, devices: Vec<Device>, update: Update) -> Result<(), &'static str> {
    let (current, _, _) = kms.get_text().await;
    for device in &devices {
        add(device, &current, &current, 1).await?;
    }
    for device in &devices {
        kill(device, &current, 0).await?;
        add(device, &current, NEW, 0).await?;
    }
    match update {
        Update::Unconditional => kms.write(NEW, None).await.map_err(|_error| "update")?,
        Update::ReadThenSet => {
            let (_, version, _) = kms.get_text().await;
            kms.write(NEW, Some(version)).await.map_err(|_error| "update")?
        }
        Update::Refused => return Err("update"),
    };
    let (back, _, _) = kms.get_text().await;
    if back != NEW {
        return Err("the fetched key is not the same as the new key");
    }
    for device in &devices {
        kill(device, NEW, 1).await?;
    }
    Ok(())
}

async fn kill(device: &Device, kek: &str, slot: u8) -> Result<(), &'static str> {
    let code =
        device.act(Access::Kill(slot), |disk| disk.kill(kek, slot)).await.map_err(|_error| "device")?;
    // Rook takes "Keyslot is not active" for success.
    if code == DONE || code == FAILED { Ok(()) } else { Err("kill") }
}

async fn add(device: &Device, kek: &str, new: &str, slot: u8) -> Result<(), &'static str> {
    // Rook recurses without bound.
    for _ in 0..3 {
        let salt = device.salt();
        let added = device.act(Access::Add(slot), |disk| disk.add(None, kek, slot, new, salt)).await;
        match added.map_err(|_error| "device")? {
            DONE => return Ok(()),
            FAILED => {}
            _ => return Err("add"),
        }
        let salt = device.salt();
        let changed = device.act(Access::Add(slot), |disk| disk.change(new, slot, salt)).await;
        if changed.map_err(|_error| "device")? == DONE {
            return Ok(());
        }
        kill(device, kek, slot).await?;
    }
    Err("add")
}
