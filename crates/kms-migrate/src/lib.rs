#![doc = include_str!("../README.md")]

pub mod clear;
pub mod copy;
pub mod journal;
pub mod pair;
pub mod plan;
pub mod run;
pub mod switch;
pub mod undo;
pub mod verify;

pub use crate::{
    clear::{Cleared, IsSaved, clear},
    copy::{Copied, copy},
    journal::{Journal, Phase, Place},
    pair::{Fit, Pair},
    plan::{Plan, plan},
    run::{Failed, Observer, OnConflict, Options, Silent},
    switch::{Cluster, Hold, OsdView, Side, Switched, cutover, put_back, restarted_keys},
    undo::{Undone, undo},
    verify::{Bytes, Proof, Verified, verify, verify_unchanged},
};
