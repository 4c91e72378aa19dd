//! crates/kms-core
