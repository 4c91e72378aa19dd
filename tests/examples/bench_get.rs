//! The least program that reads a KEK: one request with the libraries that `kms` is built on, and nothing else. `bench_vault`
//! measures it beside `kms get`.
//!
//! The file of its first argument has the address, the token and the CA's certificate, each beginning on a line of its own.

#![expect(clippy::print_stdout, reason = "it prints what it has read")]

use anyhow::{Context as _, Result};
use kms_testkit::servers::Pki;
use reqwest::Client;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let file = std::env::args_os().nth(1).context("which file?")?;
    let file = std::fs::read_to_string(file)?;
    let mut parts = file.splitn(3, '\n');
    let mut part = || parts.next().context("the file is too short");
    let (address, token, ca) = (part()?, part()?, part()?);
    let tls = Pki::client_config(ca, None)?;
    let client = Client::builder().tls_backend_preconfigured(tls).no_proxy().tcp_nodelay(true).build()?;
    let request = client.get(address).header("X-Vault-Token", token);
    let response: serde_json::Value =
        serde_json::from_slice(&request.send().await?.error_for_status()?.bytes().await?)?;
    let data = response.pointer("/data").and_then(serde_json::Value::as_object).context("no data")?;
    let kek = data.values().next().and_then(serde_json::Value::as_str).context("no KEK")?;
    print!("{kek}");
    Ok(())
}
