//! Runs a double until it is stopped, and prints the settings of its clients: `double azure|ibmkp [FOLDER]`.
//!
//! With FOLDER, it writes the certificates there.

#![allow(clippy::print_stdout, reason = "a program prints its settings")]

use std::{future, path::Path};

use anyhow::{Result, bail};
use kms_testkit::fake::{
    azure::Azure,
    cloud::{Cloud, Double},
    ibmkp::{API_KEY, IbmKp},
};

#[tokio::main]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let (which, folder) = (args.next(), args.next());
    let folder = folder.as_deref().map(Path::new);
    match which.as_deref() {
        Some("azure") => {
            let double = Azure::start().await?;
            let certificate = double.service_principal();
            if let Some(folder) = folder {
                std::fs::write(folder.join("sp.pem"), certificate)?;
                println!("CLIENT_CERT={}", folder.join("sp.pem").display());
            }
            run(&double, &double.details(), folder, "AZURE_CACERT").await
        }
        Some("ibmkp") => {
            let double = IbmKp::start().await?;
            println!("IBM_KP_SERVICE_API_KEY={API_KEY}");
            run(&double, &double.details(), folder, "IBM_KP_CACERT").await
        }
        _ => bail!("usage: double azure|ibmkp [FOLDER]"),
    }
}

async fn run<C: Cloud>(
    double: &Double<C>,
    details: &[(String, String)],
    folder: Option<&Path>,
    ca_setting: &str,
) -> Result<()> {
    for (name, value) in details {
        println!("{name}={value}");
    }
    if let Some(folder) = folder {
        double.pki().write(folder)?;
        println!("{ca_setting}={}", folder.join("ca.crt").display());
    }
    println!("ready");
    future::pending::<()>().await;
    Ok(())
}
