#![doc = include_str!("../README.md")]

mod headers;
mod page;

pub use crate::{
    headers::{retry_after, server_time},
    page::WebPage,
};
