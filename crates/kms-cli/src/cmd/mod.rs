//! The commands. Each folder holds the commands for one kind of object.

pub(crate) mod clusters;
pub(crate) mod devices;
pub(crate) mod escrow;
pub(crate) mod keys;
pub(crate) mod program;
