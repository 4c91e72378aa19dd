//! Runs the double of Entra ID and Key Vault until it is stopped, and prints how to reach it.
//!
//! With `--folder DIR` the certificates are written there.

#![allow(clippy::print_stdout, reason = "it is a program")]

use std::{future, path::PathBuf};

use anyhow::{Context as _, Result};
use kms_testkit::fake::azure::Azure;

#[tokio::main]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let mut folder = None;
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--folder" => folder = Some(PathBuf::from(args.next().context("--folder needs a folder")?)),
            _ => anyhow::bail!("usage: azure_double [--folder DIR]"),
        }
    }
    let double = Azure::start().await?;
    for (name, value) in double.details() {
        println!("{name}={value}");
    }
    if let Some(folder) = folder {
        double.pki().write(&folder)?;
        std::fs::write(folder.join("sp.pem"), double.service_principal())?;
        println!("AZURE_CACERT={}", folder.join("ca.crt").display());
        println!("CLIENT_CERT={}", folder.join("sp.pem").display());
    }
    println!("ready");
    future::pending::<()>().await;
    Ok(())
}
