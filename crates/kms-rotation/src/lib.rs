#![doc = include_str!("../README.md")]

mod complete;
mod fleet;
mod identity;
mod kms;
mod leftovers;
mod observer;
mod options;
mod osd;
mod recover;
mod refusal;
mod report;
mod rotate;
mod run;
mod sight;
mod sight_store;
mod slot;
mod state;
mod store;
mod survey;
mod switch;
mod table;
mod undo;
mod verify;

pub use self::{
    fleet::rotate_all,
    identity::is_same_device,
    observer::{Observer, Phase, Silent, Step},
    options::{Options, Timer},
    osd::Osd,
    recover::{Candidate, Origin, Recovery},
    refusal::Refusal,
    report::{DeviceReport, Outcome, Report},
    rotate::rotate,
    sight_store::{SightFolder, SightStore, Unchanged, Unkept},
    slot::Slot,
    store::{Added, Proof, SlotLock, SlotStore},
    table::{Blocked, KeySlot, SlotKdf, SlotTable, SlotToken},
    verify::{DeviceCheck, Verified, verify},
};
