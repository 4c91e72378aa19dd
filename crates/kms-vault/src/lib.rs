//! crates/kms-vault
