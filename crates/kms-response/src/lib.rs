#![doc = include_str!("../README.md")]

mod body;
mod headers;
mod page;

pub use crate::{
    body::ReceivedBody,
    headers::{retry_after, server_time},
    page::WebPage,
};
