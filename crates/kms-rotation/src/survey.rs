//! What there is: the slots of each device, and which of them the KEK opens.

use kms_core::{Error, ErrorKind, Kek, Result};
use kms_luks::{Device, Header, KeySlot, Slot};

use crate::run::Run;

/// A device, and where the KEK is on it.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    pub(crate) device: &'a Device,
    pub(crate) header: Header,
    /// The slot of the KEK.
    pub(crate) at: Slot,
    /// Whether the KEK has opened it in this run; else it is the only one of the pair, and so very likely the one.
    pub(crate) proven: bool,
    /// The slots of the pair that are in use besides.
    pub(crate) leftovers: Vec<Slot>,
}

impl Place<'_> {
    /// A slot of the pair for a new KEK.
    ///
    /// # Errors
    ///
    /// `Conflict` if both are in use.
    pub(crate) fn free(&self) -> Result<Slot> {
        let mut free =
            Slot::PAIR.into_iter().filter(|slot| *slot != self.at && !self.leftovers.contains(slot));
        free.next().ok_or_else(|| {
            at(self.device, Error::new(ErrorKind::Conflict, "no key slot is free for a new KEK"))
        })
    }

    /// Slots that are in use and not ours: they are never touched.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let path = self.device.path().display();
        if self.at.is_rotation() {
            return Vec::new();
        }
        vec![format!(
            "{path}: the KEK was in key slot {}, which is not one of the rotation's (0 and 1): it still opens with the \
             superseded KEK; remove it yourself",
            self.at
        )]
    }
}

impl<'a> Run<'a> {
    /// Looks at all devices. Nothing is changed.
    ///
    /// Where one slot of the pair is in use, it is presumed to be that of the KEK, since each try may cost seconds and
    /// a GiB; what is done later proves it.
    ///
    /// # Errors
    ///
    /// `Conflict` naming the device if the KEK opens none of its slots, if both slots of the pair belong to others, or
    /// if it is being re-encrypted; those of reading it.
    pub(crate) async fn survey(&self, kek: &Kek) -> Result<Vec<Place<'a>>> {
        let mut places = Vec::with_capacity(self.osd.devices().len());
        for device in self.osd.devices() {
            let header = self.header(device).await?;
            check(&header).map_err(|error| at(device, error))?;
            let pair: Vec<Slot> = Slot::PAIR.into_iter().filter(|slot| header.in_use(*slot)).collect();
            let place = match pair.as_slice() {
                [one] => Place { device, header, at: *one, proven: false, leftovers: Vec::new() },
                _ => self.locate(device, header, kek).await?,
            };
            places.push(place);
        }
        Ok(places)
    }

    /// Looks for the slot that the KEK opens.
    pub(crate) async fn locate(&self, device: &'a Device, header: Header, kek: &Kek) -> Result<Place<'a>> {
        let Some(slot) = self.find(device, &header, kek).await? else {
            return Err(at(device, no_slot()));
        };
        let used = |other: &Slot| *other != slot && header.in_use(*other);
        let leftovers: Vec<Slot> = Slot::PAIR.into_iter().filter(used).collect();
        if leftovers.len() == Slot::PAIR.len() {
            let error = Error::new(
                ErrorKind::Conflict,
                format!(
                    "the KEK opens key slot {slot}, and the slots 0 and 1, which the rotation needs, open with other \
                     keys: free one of them, or move the KEK there (cryptsetup luksAddKey)"
                ),
            );
            return Err(at(device, error));
        }
        Ok(Place { device, header, at: slot, proven: true, leftovers })
    }

    /// Proves that the KEK opens each device but the first of those that are only presumed, or all of them.
    ///
    /// The first one is left to the adding of the new slot, which proves the same and writes nothing if it is wrong: a
    /// slot with a costly key derivation is then opened once only.
    pub(crate) async fn prove(&self, places: &mut [Place<'a>], kek: &Kek, all: bool) -> Result<()> {
        for place in places.iter_mut().skip(usize::from(!all)).filter(|place| !place.proven) {
            if self.opens(place.device, place.at, kek).await? {
                place.proven = true;
            } else {
                let header = place.header.clone();
                *place = self.locate(place.device, header, kek).await?;
            }
        }
        Ok(())
    }
}

/// Refuses a device whose slots are better left alone.
fn check(header: &Header) -> Result<()> {
    if header.is_reencrypting() {
        return Err(Error::new(
            ErrorKind::Conflict,
            "the device is being re-encrypted: finish that first (cryptsetup reencrypt --resume-only)",
        ));
    }
    let unbound = |slot: &&KeySlot| slot.slot.is_rotation() && !slot.opens_data;
    match header.slots().find(unbound) {
        None => Ok(()),
        Some(slot) => Err(Error::new(
            ErrorKind::Conflict,
            format!(
                "key slot {} is one of the rotation's and does not open the data: remove it first",
                slot.slot
            ),
        )),
    }
}

/// The KEK of the KMS does not open the device.
pub(crate) fn no_slot() -> Error {
    Error::new(
        ErrorKind::Conflict,
        "the KEK that the KMS holds opens no key slot of the device: nothing was changed (is it the device of this \
         key? was another KEK stored?)",
    )
}

/// Names the device.
pub(crate) fn at(device: &Device, error: Error) -> Error {
    error.context("device", device.path().display().to_string())
}
