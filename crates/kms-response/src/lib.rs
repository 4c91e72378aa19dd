#![doc = include_str!("../README.md")]

mod body;
mod headers;
mod mark;
mod page;

pub use crate::{
    body::ReceivedBody,
    headers::{record_time, retry_after},
    mark::mark,
    page::WebPage,
};
