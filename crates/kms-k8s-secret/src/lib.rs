//! crates/kms-k8s-secret
