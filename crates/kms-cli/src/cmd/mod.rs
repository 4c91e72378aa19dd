//! The commands, in folders by what they work on.

pub(crate) mod clusters;
pub(crate) mod devices;
pub(crate) mod keys;
pub(crate) mod program;
