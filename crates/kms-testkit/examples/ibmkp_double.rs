//! Runs the double of IAM and Key Protect until it is stopped, and prints how to reach it.
//!
//! With `--folder DIR` the certificates are written there.

#![allow(clippy::print_stdout, reason = "it is a program")]

use std::{future, path::PathBuf};

use anyhow::{Context as _, Result};
use kms_testkit::fake::ibmkp::{API_KEY, IbmKp};

#[tokio::main]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let mut folder = None;
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--folder" => folder = Some(PathBuf::from(args.next().context("--folder needs a folder")?)),
            _ => anyhow::bail!("usage: ibmkp_double [--folder DIR]"),
        }
    }
    let double = IbmKp::start().await?;
    for (name, value) in double.details() {
        println!("{name}={value}");
    }
    println!("IBM_KP_SERVICE_API_KEY={API_KEY}");
    if let Some(folder) = folder {
        double.pki().write(&folder)?;
        println!("IBM_KP_CACERT={}", folder.join("ca.crt").display());
    }
    println!("ready");
    future::pending::<()>().await;
    Ok(())
}
