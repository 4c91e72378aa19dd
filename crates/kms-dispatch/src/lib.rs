//! crates/kms-dispatch
