#![doc = include_str!("../README.md")]

#[cfg(feature = "client")]
pub mod client;
mod container;
mod cronjob;
mod discover;
#[cfg(feature = "client")]
pub mod doctor;
mod env;
mod escrow_job;
#[cfg(feature = "client")]
pub mod inventory;
mod names;
mod networks;
mod options;
mod osd;
mod placement;
#[cfg(feature = "client")]
mod rbac;
mod rotation;
mod schedule;
mod stored_options;
#[cfg(feature = "client")]
pub mod switch;
mod volumes;

#[cfg(test)]
#[path = "../tests/it/schedules.rs"]
mod test_data;

#[cfg(feature = "client")]
pub use crate::rbac::{Rbac, rbac, rule, settings_secrets};
pub use crate::{
    cronjob::JobMaker,
    discover::{Discovery, Found, InvalidDeployment, discover},
    env::{KmsEnv, env},
    escrow_job::{ESCROW_APP, EscrowTarget, escrow_job},
    names::{DRILLED_AT, ESCROW_LABEL, ESCROWED_AT, Naming, ROTATION_LABEL},
    options::JobOptions,
    osd::Osd,
    rotation::{RookRotation, rook_rotates},
    schedule::{Calendar, Schedule, Times, spread},
    volumes::{Mounted, RgwPurpose, rgw_volume, volumes},
};
