//! Measures the speed of the KMIP provider on PyKMIP, beside the same requests without it. `cargo xtask bench kmip` runs
//! it.
//!
//! Both sides talk to the same server in the same run and alternate. Only the ratio counts: figures of two runs or
//! machines cannot be compared. The index is in memory: without an index a create waits for the server's clock.

#![expect(clippy::print_stdout, reason = "a program for people who measure")]

use std::{
    collections::HashMap,
    path::PathBuf,
    process::Command,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context as _, Result, ensure};
use async_trait::async_trait;
use kms_core::{
    ConnectionDetails, ProviderBuilder as _, layer,
    secret::{SecretData, SecretMap},
};
use kms_kmip::{KmipBuilder, MemoryIndex};
use kms_testkit::{
    fake::kmip::{KmipDouble, Quirks},
    servers::{self, Pki, PyKmip, pki::write_private, pykmip::Flavour},
};
use kms_tests::measure::{Operation, Ours, Side, compare, is_short, median, time};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::{Mutex as AsyncMutex, Semaphore},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// The number of keys in a turn.
const KEYS: usize = 64;
/// The number of connections of each side.
const CONNECTIONS: usize = 4;
/// The number of runs of the program.
const RUNS: usize = 30;

const CLUSTER: &str = "rook-ceph/rook-ceph";
const PREFIX: &str = "rook-ceph-osd-encryption-key-";

/// A request: the operations in it.
type Request = &'static [u32];

const REGISTER: u32 = 0x03;
const LOCATE: u32 = 0x08;
const GET: u32 = 0x0a;
const ATTRIBUTES: u32 = 0x0b;
const DESTROY: u32 = 0x14;

/// The requests that the provider sends for an operation to a server like PyKMIP.
fn requests(operation: Operation) -> &'static [Request] {
    match operation {
        Operation::Create => &[&[LOCATE], &[REGISTER, ATTRIBUTES], &[ATTRIBUTES]],
        Operation::Get => &[&[GET]],
        Operation::Delete => &[&[ATTRIBUTES], &[LOCATE], &[ATTRIBUTES], &[LOCATE], &[DESTROY]],
    }
}

/// Encodes a field: tag, type, length, value, padding.
fn field(tag: u32, kind: u8, value: &[u8]) -> Vec<u8> {
    let mut out = tag.to_be_bytes().get(1..).unwrap_or_default().to_vec();
    out.push(kind);
    out.extend(u32::try_from(value.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend(value);
    out.resize(out.len().next_multiple_of(8), 0);
    out
}

fn integer(tag: u32, value: u32) -> Vec<u8> {
    field(tag, 2, &value.to_be_bytes())
}

fn enumeration(tag: u32, value: u32) -> Vec<u8> {
    field(tag, 5, &value.to_be_bytes())
}

fn attribute(name: &str, kind: u8, value: &[u8]) -> Vec<u8> {
    field(0x42_0008, 1, &[field(0x42_000a, 7, name.as_bytes()), field(0x42_000b, kind, value)].concat())
}

fn name_attribute(name: &str) -> Vec<u8> {
    let value = [field(0x42_0055, 7, name.as_bytes()), enumeration(0x42_0054, 1)].concat();
    attribute("Name", 1, &value)
}

/// The payload of an operation at KMIP 1.4. Without an identifier, it is about the object of the operation before.
fn payload(operation: u32, name: &str, uid: &str) -> Vec<u8> {
    let name = format!("{PREFIX}{name}");
    match operation {
        LOCATE => name_attribute(&name),
        REGISTER => {
            let cluster =
                [field(0x42_0003, 7, b"rook-kms"), field(0x42_0002, 7, CLUSTER.as_bytes())].concat();
            let attributes = [
                attribute("Cryptographic Usage Mask", 2, &0x40_u32.to_be_bytes()),
                name_attribute(&name),
                attribute("Application Specific Information", 1, &cluster),
            ];
            let block = [
                enumeration(0x42_0042, 1),
                field(0x42_0045, 1, &field(0x42_0043, 8, &[7; 128])),
                enumeration(0x42_0028, 3),
                integer(0x42_002a, 1024),
            ];
            let key = field(0x42_008f, 1, &field(0x42_0040, 1, &block.concat()));
            [enumeration(0x42_0057, 2), field(0x42_0091, 1, &attributes.concat()), key].concat()
        }
        _ if uid.is_empty() => Vec::new(),
        _ => field(0x42_0094, 7, uid.as_bytes()),
    }
}

fn message(operations: Request, name: &str, uid: &str) -> Vec<u8> {
    let version = [integer(0x42_006a, 1), integer(0x42_006b, 4)].concat();
    let count = u32::try_from(operations.len()).unwrap_or_default();
    let mut body = field(0x42_0077, 1, &[field(0x42_0069, 1, &version), integer(0x42_000d, count)].concat());
    for (at, operation) in operations.iter().enumerate() {
        let item = [
            enumeration(0x42_005c, *operation),
            field(0x42_0093, 8, &[u8::try_from(at).unwrap_or_default(); 16]),
            field(0x42_0079, 1, &payload(*operation, name, uid)),
        ];
        body.extend(field(0x42_000f, 1, &item.concat()));
    }
    field(0x42_0078, 1, &body)
}

/// The least code with the same requests: connections, frames, and one check of the responses.
struct Bare {
    endpoint: String,
    connector: TlsConnector,
    idle: AsyncMutex<Vec<TlsStream<TcpStream>>>,
    permits: Semaphore,
    uids: Mutex<HashMap<String, String>>,
}

impl Bare {
    fn new(endpoint: &str, pki: &Pki) -> Result<Self> {
        let config = Pki::client_config(&pki.ca.cert, Some(&pki.client1))?;
        Ok(Self {
            endpoint: endpoint.to_owned(),
            connector: TlsConnector::from(Arc::new(config)),
            idle: AsyncMutex::default(),
            permits: Semaphore::new(CONNECTIONS),
            uids: Mutex::default(),
        })
    }

    async fn exchange(&self, request: &[u8]) -> Result<Vec<u8>> {
        let _permit = self.permits.acquire().await?;
        let idle = self.idle.lock().await.pop();
        let mut stream = match idle {
            Some(stream) => stream,
            None => {
                let tcp = TcpStream::connect(&self.endpoint).await?;
                tcp.set_nodelay(true)?;
                self.connector.connect("localhost".try_into()?, tcp).await?
            }
        };
        stream.write_all(request).await?;
        let mut frame = vec![0; 8];
        stream.read_exact(&mut frame).await?;
        let length: [u8; 4] = frame.get(4..8).context("a header")?.try_into()?;
        let mut body = vec![0; usize::try_from(u32::from_be_bytes(length))?];
        stream.read_exact(&mut body).await?;
        self.idle.lock().await.push(stream);
        Ok(body)
    }
}

#[async_trait]
impl Side for Bare {
    async fn run(&self, operation: Operation, name: String) -> Result<()> {
        let uids = || self.uids.lock().unwrap_or_else(PoisonError::into_inner);
        let mut uid = uids().get(&name).cloned().unwrap_or_default();
        for operations in requests(operation) {
            let uid_of_request = if operations.contains(&REGISTER) { "" } else { uid.as_str() };
            let response = self.exchange(&message(operations, &name, uid_of_request)).await?;
            // The result status of each item is Success.
            let status = |window: &&[u8]| window.starts_with(&[0x42, 0, 0x7f, 5, 0, 0, 0, 4]);
            for found in response.windows(12).filter(status) {
                ensure!(found.ends_with(&[0; 4]), "{} of {name} is refused", operation.name());
            }
            if operations.contains(&REGISTER) {
                uid = identifier(&response).context("no identifier")?;
                uids().insert(name.clone(), uid.clone());
            }
        }
        Ok(())
    }
}

/// The first identifier in a response.
fn identifier(response: &[u8]) -> Option<String> {
    let at = response.windows(4).position(|window| window == [0x42, 0, 0x94, 7])?;
    let length = usize::try_from(u32::from_be_bytes(response.get(at + 4..at + 8)?.try_into().ok()?)).ok()?;
    String::from_utf8(response.get(at + 8..at + 8 + length)?.to_vec()).ok()
}

/// Our provider, behind the standard layers.
async fn ours(endpoint: &str, pki: &Pki) -> Result<Ours> {
    let mut secrets = SecretMap::new("the benchmark");
    secrets.insert(
        SecretData::new("token")
            .with("CA_CERT", pki.ca.cert.clone().into_bytes())
            .with("CLIENT_CERT", pki.client1.cert.clone().into_bytes())
            .with("CLIENT_KEY", pki.client1.key.clone().into_bytes()),
    );
    let details: ConnectionDetails =
        [("KMIP_ENDPOINT", endpoint), ("KMIP_PROTOCOL_VERSION", "1.4"), ("TLS_SERVER_NAME", "localhost")]
            .into_iter()
            .collect();
    let builder = KmipBuilder::new().with_details(&details).with_token_secret("token").with_cluster(CLUSTER);
    let kmip = builder.with_index(Arc::new(MemoryIndex::new())).build(&secrets).await?;
    let options = kmip.layer_options(layer::LayerOptions::default());
    Ours::new(layer::standard(Arc::new(kmip), &options))
}

/// Checks on the double that the provider sends these [`requests`].
async fn check_requests() -> Result<()> {
    let double = KmipDouble::start(Quirks { no_placeholder: true, ..Quirks::default() }).await?;
    let ours = ours(&double.endpoint(), double.pki()).await?;
    // The first round finds out what the server does.
    for name in ["first", "second"] {
        for operation in Operation::ALL {
            let before = double.operations().len();
            ours.run(operation, name.to_owned()).await?;
            let sent = double.operations().split_off(before);
            // This double does not know the object of a Register, so the attributes are asked for again.
            let expected = requests(operation).concat();
            let what = operation.name();
            ensure!(name == "first" || sent == expected, "{what}: {sent:x?} in place of {expected:x?}");
        }
    }
    Ok(())
}

/// Measures `kms get` as a process, without an index.
async fn program(server: &PyKmip, folder: &std::path::Path) -> Result<f64> {
    let pki = server.pki();
    let lines = |text: &str| text.lines().map(|line| format!("    {line}\n")).collect::<String>();
    let manifest = format!(
        "security:\n  kms:\n    connectionDetails:\n      KMS_PROVIDER: kmip\n      KMIP_ENDPOINT: {}\n    \
         tokenSecretName: token\n---\napiVersion: v1\nkind: Secret\nmetadata: {{name: token}}\nstringData:\n  CA_CERT: \
         |\n{}  CLIENT_CERT: |\n{}  CLIENT_KEY: |\n{}",
        server.endpoint(),
        lines(&pki.ca.cert),
        lines(&pki.client1.cert),
        lines(&pki.client1.key),
    );
    let path = folder.join("bench-kmip.yaml");
    write_private(&path, &manifest)?;
    let mut command = Command::new(servers::setting(servers::KMS)?);
    command.env_clear().arg("-f").arg(&path);
    time(
        Command::new(command.get_program()).env_clear().args(command.get_args()).args(["create", "program"]),
    )?;
    command.args(["get", "program"]);
    let mut runs = Vec::new();
    for _ in 0..if is_short() { 1 } else { RUNS } {
        runs.push(time(&mut command)?);
    }
    std::fs::remove_file(&path)?;
    let took = median(runs);
    println!("kms get  {took:.1} ms, with the start of the process");
    Ok(took)
}

#[tokio::main]
async fn main() -> Result<()> {
    let out = std::env::args_os().nth(1).map(PathBuf::from).context("which file to write JSON to")?;
    check_requests().await?;
    let server = PyKmip::start(Flavour::Tls13).await?;
    let ours = Arc::new(ours(&server.endpoint(), server.pki()).await?);
    let bare = Arc::new(Bare::new(&server.endpoint(), server.pki())?);
    let keys = if is_short() { 8 } else { KEYS };
    let rows = compare("PyKMIP", keys, ours, bare, |operation| requests(operation).len()).await?;
    let program = program(&server, out.parent().context("a folder")?).await?;
    let result = json!({"operations": rows, "kms_get_ms": program});
    std::fs::write(&out, format!("{result:#}\n")).with_context(|| format!("write {}", out.display()))?;
    println!("written to {}", out.display());
    Ok(())
}
