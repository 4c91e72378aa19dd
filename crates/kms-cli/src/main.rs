//! kms
fn main() {}
