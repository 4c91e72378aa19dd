#![doc = include_str!("../README.md")]

mod figures;
mod numbers;
mod page;
mod tone;

pub use crate::{
    figures::{Bar, Part, Stack, bars, columns, stacks},
    numbers::{ages, spans},
    page::{page, policy, wide},
    tone::Tone,
};
