//! Every check of a KMS and of a cluster. `kms-cli` adds those of an escrow and of the devices of a host.
//!
//! A number is an interface: it never gets another meaning, and the number of a check that goes is never used again.

use super::code::Code;

/// The kubeconfig cannot be used.
pub const API_CONFIG: Code =
    Code::error(101, "the kubeconfig or the service account of the pod cannot be used");
/// The host of the API server has no address.
pub const API_DNS: Code =
    Code::error(102, "the name of the API server is not resolved").needing(&[API_CONFIG]);
/// No TCP connection to the API server.
pub const API_TCP: Code = Code::error(103, "there is no connection to the API server").needing(&[API_DNS]);
/// No TLS session with the API server.
pub const API_TLS: Code = Code::error(104, "there is no TLS session with the API server").needing(&[API_TCP]);
/// TLS with the API server works, and its certificates deserve attention.
pub const API_CERTIFICATE: Code =
    Code::warning(105, "the certificates of the API server or of this client need attention")
        .needing(&[API_TLS]);
/// The API server does not answer.
pub const API_SERVER: Code = Code::error(106, "the API server does not answer").needing(&[API_TLS]);
/// The API server does not accept the credentials.
pub const API_LOGIN: Code =
    Code::error(107, "the API server does not accept the credentials").needing(&[API_SERVER]);

/// The settings cannot be used.
pub const SETTINGS: Code = Code::error(201, "the settings of the KMS cannot be used").needing(&[API_LOGIN]);
/// The CephCluster is being deleted.
pub const DELETING: Code = Code::warning(202, "the CephCluster is being deleted").needing(&[SETTINGS]);
/// Some OSDs are not encrypted.
pub const PLAIN_SETS: Code =
    Code::warning(203, "the KMS is not used by all device sets").needing(&[SETTINGS]);

/// The host of the KMS has no address.
pub const DNS: Code = Code::error(301, "the name of the KMS is not resolved").needing(&[SETTINGS]);
/// No TCP connection to the KMS.
pub const TCP: Code = Code::error(302, "there is no connection to the KMS").needing(&[DNS]);
/// No TLS session with the KMS.
pub const TLS: Code = Code::error(303, "there is no TLS session with the KMS").needing(&[TCP]);
/// TLS with the KMS works, and its certificates deserve attention.
pub const CERTIFICATE: Code =
    Code::warning(304, "the certificates of the KMS or of this client need attention").needing(&[TLS]);
/// The KMS does not answer, or cannot work.
pub const SERVER: Code = Code::error(305, "the KMS does not answer, or cannot work").needing(&[TLS]);
/// The connection to the KMS is not post-quantum.
pub const KEY_EXCHANGE: Code =
    Code::warning(306, "the connection to the KMS is not post-quantum").needing(&[TLS]);

/// The KMS does not accept the credentials.
pub const LOGIN: Code = Code::error(401, "the KMS does not accept the credentials").needing(&[SERVER]);
/// The credentials end soon, or deserve attention for another reason.
pub const CREDENTIALS: Code = Code::warning(402, "the credentials need attention").needing(&[LOGIN]);
/// The place of the keys cannot be used.
pub const PLACE: Code =
    Code::error(403, "the mount, vault or instance of the keys cannot be used").needing(&[LOGIN]);
/// No key can be read.
pub const READ: Code = Code::error(404, "the account may not read keys").needing(&[PLACE]);
/// Some rights lack.
pub const RIGHTS: Code = Code::warning(405, "the account lacks rights on keys").needing(&[READ]);

/// The rights of other accounts cannot be asked for.
pub const REVIEWS: Code =
    Code::warning(501, "the rights of service accounts cannot be asked for").needing(&[SETTINGS]);
/// A service account of rotation jobs is absent.
pub const NO_ACCOUNT: Code =
    Code::error(502, "the service account of rotation jobs is absent").needing(&[CRON_JOBS]);
/// The OSDs cannot get what they need to start.
pub const OSD_RIGHTS: Code = Code::error(503, "the OSDs' account lacks rights that an OSD needs to start")
    .needing(&[REVIEWS, DEPLOYMENTS]);
/// Rotation jobs cannot rotate.
pub const ROTATION_RIGHTS: Code =
    Code::error(504, "the rotation jobs' account lacks rights that a rotation needs").needing(&[
        REVIEWS,
        NO_ACCOUNT,
        DEPLOYMENTS,
    ]);
/// Rotation jobs cannot look whether Rook rotates too, or note what they have done.
pub const STATUS_RIGHTS: Code =
    Code::warning(505, "the rotation jobs' account may not look at the cluster, or note a rotation")
        .needing(&[REVIEWS, NO_ACCOUNT, DEPLOYMENTS]);
/// The operator cannot make OSDs.
pub const OPERATOR_RIGHTS: Code = Code::error(506, "the operator's account lacks rights that new OSDs need")
    .needing(&[REVIEWS, NO_OPERATOR]);
/// The operator's account is not where it was looked for.
pub const NO_OPERATOR: Code = Code::warning(507, "the operator's account was not found").needing(&[SETTINGS]);
/// The namespace does not admit the pods of rotation jobs.
pub const ADMISSION: Code =
    Code::warning(508, "the namespace does not admit the pods of rotation jobs").needing(&[SETTINGS]);

/// CronJobs cannot be listed.
pub const CRON_JOBS: Code = Code::error(601, "the CronJobs cannot be listed").needing(&[SETTINGS]);
/// Two CronJobs rotate one key.
pub const TWO_ROTATIONS: Code = Code::error(602, "two CronJobs rotate the same key").needing(&[CRON_JOBS]);
/// No CronJob rotates a key.
pub const NO_ROTATION: Code =
    Code::warning(603, "no CronJob rotates the key of an OSD").needing(&[CRON_JOBS, DEPLOYMENTS]);
/// A CronJob is suspended.
pub const SUSPENDED: Code = Code::warning(604, "a CronJob is suspended").needing(&[CRON_JOBS]);
/// A CronJob should not be there.
pub const UNWANTED: Code =
    Code::warning(605, "a CronJob is left over").needing(&[CRON_JOBS, DEPLOYMENTS, DEPLOYMENT]);
/// The next run begins before the last one can have ended.
pub const OVERLAP: Code =
    Code::warning(606, "a schedule leaves a rotation too little time").needing(&[CRON_JOBS]);
/// Many runs begin at once.
pub const AT_ONCE: Code = Code::warning(607, "many rotations begin in the same minute").needing(&[CRON_JOBS]);
/// The last run did not succeed.
pub const NOT_DONE: Code =
    Code::warning(608, "the last run of a CronJob did not succeed").needing(&[CRON_JOBS]);
/// `keyRotation.schedule` is not a schedule.
pub const SCHEDULE: Code =
    Code::error(609, "keyRotation.schedule is not a cron schedule").needing(&[SETTINGS]);

/// The Deployments of OSDs cannot be listed.
pub const DEPLOYMENTS: Code =
    Code::error(701, "the Deployments of the OSDs cannot be listed").needing(&[SETTINGS]);
/// A Deployment cannot be understood.
pub const DEPLOYMENT: Code =
    Code::error(702, "the Deployment of an OSD cannot be understood").needing(&[DEPLOYMENTS]);
/// An OSD will ask another KMS than the CephCluster names.
pub const OTHER_SETTINGS: Code =
    Code::warning(703, "an OSD starts with other settings of the KMS than the CephCluster has")
        .needing(&[DEPLOYMENTS]);
/// The last rotation of an OSD failed.
pub const FAILED_ROTATION: Code =
    Code::warning(704, "the last rotation of an OSD's key failed").needing(&[DEPLOYMENTS]);

/// The keys cannot be listed.
pub const KEYS: Code = Code::error(801, "the keys cannot be listed").needing(&[READ]);
/// The PVCs cannot be listed.
pub const CLAIMS: Code = Code::error(802, "the PVCs cannot be listed").needing(&[SETTINGS]);
/// An OSD has no key.
pub const MISSING: Code =
    Code::error(803, "the key of an OSD is missing").needing(&[KEYS, DEPLOYMENTS, DEPLOYMENT]);
/// A key has no OSD.
pub const ORPHAN: Code = Code::warning(804, "a key has neither an OSD nor a PVC").needing(&[
    KEYS,
    DEPLOYMENTS,
    DEPLOYMENT,
    CLAIMS,
]);
/// A key is old.
pub const STALE: Code =
    Code::warning(805, "a key is older than allowed").needing(&[KEYS, DEPLOYMENTS, DEPLOYMENT]);

/// The clock of this host differs from that of the KMS.
pub const CLOCK_OF_KMS: Code =
    Code::warning(1101, "the clock of this host differs from that of the KMS").needing(&[SERVER]);
/// The clock of this host differs from that of the API server.
pub const CLOCK_OF_API: Code =
    Code::warning(1102, "the clock of this host differs from that of the API server").needing(&[API_SERVER]);

/// Every check of this crate, by number.
pub const ALL: &[Code] = &[
    API_CONFIG,
    API_DNS,
    API_TCP,
    API_TLS,
    API_CERTIFICATE,
    API_SERVER,
    API_LOGIN,
    SETTINGS,
    DELETING,
    PLAIN_SETS,
    DNS,
    TCP,
    TLS,
    CERTIFICATE,
    SERVER,
    KEY_EXCHANGE,
    LOGIN,
    CREDENTIALS,
    PLACE,
    READ,
    RIGHTS,
    REVIEWS,
    NO_ACCOUNT,
    OSD_RIGHTS,
    ROTATION_RIGHTS,
    STATUS_RIGHTS,
    OPERATOR_RIGHTS,
    NO_OPERATOR,
    ADMISSION,
    CRON_JOBS,
    TWO_ROTATIONS,
    NO_ROTATION,
    SUSPENDED,
    UNWANTED,
    OVERLAP,
    AT_ONCE,
    NOT_DONE,
    SCHEDULE,
    DEPLOYMENTS,
    DEPLOYMENT,
    OTHER_SETTINGS,
    FAILED_ROTATION,
    KEYS,
    CLAIMS,
    MISSING,
    ORPHAN,
    STALE,
    CLOCK_OF_KMS,
    CLOCK_OF_API,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_in_order_and_need_known_ones() {
        assert!(ALL.is_sorted_by(|a, b| a < b));
        for code in ALL {
            assert!(code.needs().iter().all(|need| ALL.contains(need)), "{code}");
        }
    }
}
