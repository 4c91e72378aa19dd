//! The checks of an escrow: whether it is whole, of this KMS, newer than the keys, and proven by a drill.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use kms_core::{KeyInfo, clock::age};
use kms_escrow::{DrillRecord, Escrow};
use kms_rook::doctor::Finding;

use super::{
    Doctor,
    catalogue::saved::{BEHIND, DRILL, FILES, PLACE},
};
use crate::target::{Target, provider_name};

impl Doctor<'_> {
    /// Checks the escrow in a folder. `keys` is `None` if they could not be listed.
    pub(super) fn escrow(&mut self, folder: &Path, target: Option<&Target>, keys: Option<&[KeyInfo]>) {
        let object = folder.display().to_string();
        let make = self.commands.kms(&format!("escrow create {object} --overwrite -R RECIPIENTS"));
        let opened = Escrow::open(folder).and_then(|escrow| escrow.check_files().map(|()| escrow));
        let escrow = match opened {
            Ok(escrow) => escrow,
            Err(error) => return self.diagnosis.add(Finding::failed(FILES, object, error, make)),
        };
        let sidecar = escrow.sidecar();
        let made = SystemTime::from(sidecar.created);
        let ago = age(SystemTime::now(), made);
        let entries = sidecar.keks.entries;
        self.diagnosis.pass(FILES, &object, format!("{entries} KEKs, made {ago} ago"));
        if let Some(target) = target {
            let (theirs, ours) = (&sidecar.about.cluster, target.cluster_name());
            let of_another = theirs.is_some() && ours.is_some() && *theirs != ours;
            let provider = target.provider().map(|provider| provider.as_str()).unwrap_or_default();
            let other = (of_another || sidecar.about.provider != provider).then(|| {
                let cluster = theirs.as_deref().unwrap_or("a cluster that it does not name");
                let text = format!("it was made for {} of {cluster}", provider_name(&sidecar.about.provider));
                Finding::new(PLACE, &object, text, &make)
            });
            self.diagnosis.add_all(PLACE, other, &object, "it was made for this KMS");
        }
        if let Some(keys) = keys {
            // The escrow knows its time in whole seconds. A key that changes later in that second is not seen here, but in a
            // drill.
            let second_after = made + Duration::from_secs(1);
            let is_newer =
                |key: &&KeyInfo| key.updated.or(key.created).is_some_and(|time| time >= second_after);
            let newer = keys.iter().filter(is_newer);
            let newer = newer.count().max(keys.len().saturating_sub(entries));
            let behind = (newer > 0).then(|| {
                let text = format!("{newer} keys are newer than the escrow, which was made {ago} ago");
                Finding::new(BEHIND, &object, text, &make)
            });
            self.diagnosis.add_all(BEHIND, behind, &object, "no key is newer");
        }
        let drill = self.commands.kms(&format!("escrow drill {object} -i IDENTITY"));
        let unproven = match DrillRecord::read(folder, sidecar) {
            Ok(Some(record)) if record.ok => None,
            Ok(Some(_)) => {
                Some(Finding::new(DRILL, &object, "the last drill found what would not come back", drill))
            }
            Ok(None) => Some(Finding::new(DRILL, &object, "there was no drill since it was made", drill)),
            Err(error) => Some(Finding::failed(DRILL, &object, error, drill)),
        };
        self.diagnosis.add_all(DRILL, unproven, &object, "everything would come back, by the last drill");
    }
}
