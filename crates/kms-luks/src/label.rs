//! Label and subsystem of a LUKS2 header, by which Rook recognizes its own devices (rook-behaviour §8.4).

use kms_core::{Error, ErrorKind, Result};

use crate::{
    Device, LuksVersion,
    error::{at, code},
    on_disk::{self, OnDisk},
    process::{Call, Ended},
};

/// The bytes of a field, without the zero at its end. cryptsetup 2.6 cuts off longer texts; newer releases refuse them.
const FIELD: usize = 47;

/// The PVC and the Ceph cluster of a device.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Identity {
    label: String,
    subsystem: String,
    shortened: bool,
}

impl Identity {
    /// The label `pvc_name=…` and the subsystem `ceph_fsid=…`, each cut to the 47 bytes that a header holds. cryptsetup
    /// 2.6 cuts the texts that Rook passes in the same way.
    pub fn new(pvc: &str, fsid: &str) -> Self {
        let (label, label_shortened) = cut(format!("pvc_name={pvc}"));
        let (subsystem, subsystem_shortened) = cut(format!("ceph_fsid={fsid}"));
        Self { label, subsystem, shortened: label_shortened || subsystem_shortened }
    }

    /// The label.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The subsystem.
    pub fn subsystem(&self) -> &str {
        &self.subsystem
    }

    /// Whether a name was cut off.
    pub fn is_shortened(&self) -> bool {
        self.shortened
    }
}

/// What [`Device::set_label`] did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Labelled {
    /// Nothing: another process holds the lock. The next start labels the header.
    Busy,
    /// It labelled the header.
    Done,
    /// Nothing: LUKS1 has no labels.
    Luks1,
    /// Nothing: the header has this label already.
    Unchanged,
}

impl Device {
    /// Labels the header, unless it has this label already.
    ///
    /// Writes nothing while another process holds the [`lock`](Device::lock): cryptsetup's own lock does not reach from
    /// one container into another, and a program that writes back a header that it read earlier may remove a new
    /// slot from it.
    ///
    /// # Errors
    ///
    /// Errors of the device and of the program.
    pub async fn set_label(&self, identity: &Identity) -> Result<Labelled> {
        let labelled = async {
            if let Some(labelled) = self.needs_no_label(identity)? {
                return Ok(labelled);
            }
            let _lock = match self.locked().await {
                Ok(lock) => lock,
                Err(error) if error.kind() == ErrorKind::Conflict => return Ok(Labelled::Busy),
                Err(error) => return Err(error),
            };
            let call =
                Call::new(["config", "--label", identity.label(), "--subsystem", identity.subsystem(), "--"]);
            let answer = self.run(call.arg(self.path())).await?;
            match answer.ended {
                Ended::Code(code::DONE) if self.needs_no_label(identity)?.is_some() => Ok(Labelled::Done),
                Ended::Code(code::DONE) => Err(Error::new(
                    ErrorKind::Unexpected,
                    "cryptsetup reports that it wrote the label, and the header does not have it",
                )),
                _ => Err(self.cryptsetup().explain(&answer).await),
            }
        };
        labelled.await.map_err(|error: Error| at(self.path())(error).operation("label"))
    }

    fn needs_no_label(&self, identity: &Identity) -> Result<Option<Labelled>> {
        let found = match on_disk::read(self.path())? {
            OnDisk::Luks1(_) => return Ok(Some(Labelled::Luks1)),
            OnDisk::Luks2 { identity, .. } => identity,
        };
        debug_assert_eq!(found.version, LuksVersion::Luks2);
        let same = found.label.as_deref() == Some(identity.label())
            && found.subsystem.as_deref() == Some(identity.subsystem());
        Ok(same.then_some(Labelled::Unchanged))
    }
}

/// Cuts a text to the bytes of a field, never within a character.
fn cut(text: String) -> (String, bool) {
    if text.len() <= FIELD {
        return (text, false);
    }
    let end = (0..=FIELD).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
    (
        text.chars()
            .scan(0, |bytes, c| {
                *bytes += c.len_utf8();
                (*bytes <= end).then_some(c)
            })
            .collect(),
        true,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_rook_writes_them_and_cut_to_the_field() {
        let identity = Identity::new("set1-data-0x7dwl", "5ff0d1c5-0c5b-4a2c-8e53-0b5a37a3ed3c");
        assert_eq!(identity.label(), "pvc_name=set1-data-0x7dwl");
        assert_eq!(identity.subsystem(), "ceph_fsid=5ff0d1c5-0c5b-4a2c-8e53-0b5a37a3ed3c");
        assert!(!identity.is_shortened());

        let long = Identity::new(&"p".repeat(39), "f");
        assert_eq!(long.label(), format!("pvc_name={}", "p".repeat(38)));
        assert!(long.is_shortened());
        assert_eq!(Identity::new(&"ß".repeat(20), "").label().len(), 47);
        assert_eq!(Identity::new(&format!("x{}", "ß".repeat(20)), "").label().len(), 46);
    }
}
