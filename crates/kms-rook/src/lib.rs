#![doc = include_str!("../README.md")]

mod cluster;
mod container;
mod cronjob;
mod discover;
mod env;
mod names;
mod osd;
mod placement;
mod schedule;
mod volumes;

#[cfg(feature = "client")]
pub mod client;

#[cfg(test)]
mod test_data;

pub use crate::{
    cluster::Cluster,
    cronjob::{JobMaker, JobOptions},
    discover::{Discovery, Fault, discover},
    env::{KmsEnv, env},
    names::Naming,
    osd::Osd,
    schedule::Schedule,
    volumes::{Mounted, RgwPurpose, rgw_volume, volumes},
};
