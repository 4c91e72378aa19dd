#![doc = include_str!("../README.md")]

mod commit;
mod complete;
mod engine;
mod fleet;
mod kms;
mod leftovers;
mod observer;
mod options;
mod osd;
mod report;
mod run;
mod survey;
mod undo;
mod verify;

pub use self::{
    engine::rotate,
    fleet::rotate_all,
    observer::{Observer, Phase, Silent, Step},
    options::Options,
    osd::Osd,
    report::{DeviceReport, Outcome, Report},
    verify::{DeviceCheck, Verified, verify},
};
