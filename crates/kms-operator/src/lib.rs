#![doc = include_str!("../README.md")]

pub mod api;
mod clock;
mod controller;
mod copies;
mod facts;
mod health;
mod job;
mod keys;
mod lease;
mod mirror;
mod operator;
mod outlook;
mod place;
mod plan;
mod rights;
mod rules;
mod status;
mod view;
mod window;

pub use crate::{
    clock::Clock,
    controller::Pace,
    health::{Health, Role},
    lease::{LEASE, LeaseTimes},
    operator::{Operator, Settings},
    rights::{Rights, rights},
    view::{ClusterView, KeyView, Views},
};
