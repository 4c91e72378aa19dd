#![doc = include_str!("../README.md")]

// The cluster of the tests names this crate as a test outside of it does.
#[cfg(test)]
extern crate self as kms_operator;

pub mod api;
mod clock;
mod controller;
mod copies;
mod escrow;
mod events;
mod facts;
mod health;
mod job;
mod keys;
mod lease;
pub mod metrics;
mod mirror;
mod operator;
mod outlook;
mod page;
mod place;
mod plan;
mod proof;
mod reports;
mod rights;
mod rules;
pub mod serve;
mod source;
mod status;
mod tally;
#[cfg(test)]
#[path = "../tests/it/fixed.rs"]
mod test_data;
mod view;
mod window;

pub use crate::{
    clock::Clock,
    controller::Pace,
    events::events,
    health::{Health, Role},
    lease::{LEASE, LeaseTimes},
    operator::{Operator, Settings},
    rights::{Rights, rights},
    source::{ReplicaState, Source},
    view::{ClusterView, EscrowView, KeyView, TokenView, Views},
};
