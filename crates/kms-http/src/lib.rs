//! The HTTP transport that the KMS providers share.
//!
//! One [`HttpClient`] per configuration: a pool of kept-alive TLS connections, roots and client certificates straight
//! from memory, no redirects and no retries of its own, the environment never read.
//! What can go wrong on the way is told apart in [`send`]; tokens that several callers share are kept in
//! [`token::TokenCache`].

pub mod address;
pub mod client;
#[cfg(feature = "json")]
pub mod json;
pub mod pem;
pub mod send;
pub mod tls;
pub mod token;

pub use crate::{
    client::{HttpClient, HttpClientBuilder, Proxies},
    send::{Answer, Call},
    tls::{Identity, Roots, TlsOptions},
    token::{Lease, Token, TokenCache},
};
pub use http;
