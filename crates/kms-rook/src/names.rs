//! The names and labels of Rook's objects and of ours.

/// The label with the application of a pod.
pub(crate) const APP: &str = "app";
/// The value of [`APP`] for OSDs.
pub(crate) const OSD_APP: &str = "rook-ceph-osd";
/// The label with the name of the data PVC.
pub(crate) const PVC_LABEL: &str = "ceph.rook.io/pvc";
/// The label with the namespace of the CephCluster.
pub(crate) const CLUSTER_LABEL: &str = "rook_cluster";
/// The label with the number of the OSD.
pub(crate) const OSD_ID_LABEL: &str = "ceph-osd-id";

/// The annotation of a CephCluster with the time of its last escrow of all keys, in RFC 3339. What was rotated later is not in
/// that escrow.
pub const ESCROWED_AT: &str = "kms.ceph.rook.io/escrowed-at";

/// The annotation of a CephCluster with the time of the last drill of an escrow that has succeeded, in RFC 3339.
pub const DRILLED_AT: &str = "kms.ceph.rook.io/drilled-at";

/// The label of a Job that `kms` itself has made for a key, to rotate or to verify it; its value is the number of the OSD.
/// Jobs of CronJobs do not have it.
pub const ROTATION_LABEL: &str = "kms.ceph.rook.io/rotation";

/// The label of a Job that `kms` has made to save all keys of a cluster in an escrow.
pub const ESCROW_LABEL: &str = "kms.ceph.rook.io/escrow";

/// The names and labels of CronJobs.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Naming {
    /// Rook's own (rook-behaviour §12.1): Rook and `kms` find and replace each other's CronJobs.
    #[default]
    Rook,
    /// Names of our own, for a cluster whose Rook does not rotate: Rook deletes every CronJob with its label while its
    /// rotation is off.
    BesideRook,
}

impl Naming {
    /// The value of the label `app`, which is also the name of the container.
    pub const fn app(self) -> &'static str {
        match self {
            Self::Rook => "rook-ceph-osd-key-rotation",
            Self::BesideRook => "rook-kms-key-rotation",
        }
    }

    /// The names that CronJobs should have: Rook's if `security.keyRotation.enabled` of the CephCluster is true, since
    /// Rook makes CronJobs of these names then; otherwise ours, since Rook deletes its own.
    ///
    /// CronJobs of both namings at once are two rotations of each key.
    pub const fn wanted(key_rotation_enabled: bool) -> Self {
        if key_rotation_enabled { Self::Rook } else { Self::BesideRook }
    }

    /// The other names.
    pub const fn other(self) -> Self {
        match self {
            Self::Rook => Self::BesideRook,
            Self::BesideRook => Self::Rook,
        }
    }

    /// The name of an OSD's CronJob.
    pub fn cron_job(self, osd_id: u32) -> String {
        format!("{}-{osd_id}", self.app())
    }

    /// The OSD of a CronJob with this name; `None` if the name does not belong to this naming.
    pub fn osd_of(self, cron_job: &str) -> Option<u32> {
        let number = cron_job.strip_prefix(self.app())?.strip_prefix('-')?;
        // Only the form that `cron_job` writes: neither `+1` nor `01`.
        number.parse().ok().filter(|id: &u32| id.to_string() == number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_of_one_osd_and_one_owner() {
        for naming in [Naming::Rook, Naming::BesideRook] {
            assert_eq!(naming.osd_of(&naming.cron_job(12)), Some(12));
        }
        assert_eq!(Naming::Rook.cron_job(3), "rook-ceph-osd-key-rotation-3");
        for other in
            ["", "x", "rook-ceph-osd-key-rotation", "rook-ceph-osd-key-rotation-", "rook-kms-key-rotation-1"]
        {
            assert_eq!(Naming::Rook.osd_of(other), None, "{other}");
        }
        for odd in
            ["rook-ceph-osd-key-rotation-01", "rook-ceph-osd-key-rotation-+1", "rook-ceph-osd-key-rotation-x"]
        {
            assert_eq!(Naming::Rook.osd_of(odd), None, "{odd}");
        }
    }
}
