//! The HTTP transport that the KMS providers share.
//!
//! A provider has one [`HttpClient`]: a pool of TLS connections with roots and client certificates from memory. It
//! follows no redirect by itself, retries nothing and never reads the environment.
//! [`HttpClient::send`] classifies every failure of a connection; [`token::TokenCache`] shares one token among
//! several callers.

pub mod address;
pub mod client;
mod error;
#[cfg(feature = "json")]
pub mod json;
pub mod probe;
mod proxy;
mod redirect;
pub mod send;
pub mod token;

pub use crate::{
    client::{HttpClient, HttpClientBuilder},
    proxy::Proxies,
    send::{Call, HttpResponse},
    token::{Lease, Token, TokenCache},
};
pub use http;
pub use kms_tls::{self as tls, Identity, Roots, SettingNames, TlsOptions};
