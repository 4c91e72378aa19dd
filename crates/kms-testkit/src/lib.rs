//! crates/kms-testkit
