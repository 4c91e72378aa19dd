//! The checks of `kms doctor` that concern a cluster: what each looks for, and the rules, which are pure functions over
//! objects that were read before.
//!
//! A check has a [`Code`]. What it finds goes into a [`Diagnosis`], which tells at the end what was not checked because of
//! which finding.

mod accounts;
mod code;
pub mod codes;
mod commands;
mod cron_jobs;
mod diagnosis;
mod keys;
mod osds;

pub use self::{
    accounts::{
        KmsLogin, Right, admission, boot_rights, grant, operator_rights, rotation_rights, status_rights,
    },
    code::{Code, Severity},
    commands::Commands,
    cron_jobs::{CronJobFacts, cron_jobs},
    diagnosis::{Cause, Diagnosis, Entry, Finding, State},
    keys::keys,
    osds::osds,
};
