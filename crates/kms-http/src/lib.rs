//! crates/kms-http
