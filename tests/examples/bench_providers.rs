//! Measures the providers of Key Protect, Key Vault and Kubernetes Secrets, beside the same requests without them. `cargo
//! xtask bench providers` runs it.
//!
//! Key Protect and Key Vault are doubles, in this process: their figures say what the provider adds, not how quick the
//! service is. The Secrets are on a real API server. The bare loop sends what the provider has sent for one key, with the
//! name and the identifiers of another one.

#![expect(clippy::print_stdout, reason = "a program for people who measure")]

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context as _, Result, ensure};
use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use kms_core::{Freshness, Kek};
use kms_testkit::{
    fake::{
        azure::Azure,
        http::Request,
        ibmkp::{Host, IbmKp},
    },
    servers::{Kube, KubeNamespace, Pki},
};
use kms_tests::{
    measure::{Operation, Ours, Side, answered, compare, f64_of, is_short},
    stores::{Store, Which},
};
use reqwest::{Client, Method};
use serde_json::{Value, json};

/// The number of keys in a turn.
const KEYS: usize = 64;
/// The name of the key whose requests are repeated.
const RECORDED: &str = "recorded";
/// Headers that the client of the bare loop sets itself.
const OF_THE_CLIENT: [&str; 3] = ["connection", "content-length", "host"];

/// A request about the key [`RECORDED`].
struct Sent {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: String,
}

impl From<Request> for Sent {
    fn from(request: Request) -> Self {
        let Request { method, path, headers, body, .. } = request;
        Self { method, path, headers, body: String::from_utf8_lossy(&body).into_owned() }
    }
}

/// The requests of each operation.
type Recorded = HashMap<&'static str, Vec<Sent>>;

/// The least code with the same requests: one HTTP client, and one look at each response.
struct Bare {
    client: Client,
    base: String,
    recorded: Recorded,
    /// An identifier of the key in the requests, and the place of the same identifier in responses, where it may end a URL.
    identifier: (String, &'static str),
    /// The place of the KEK in responses.
    kek: &'static str,
    learned: Mutex<HashMap<String, String>>,
}

impl Bare {
    fn new(
        base: String,
        ca: &str,
        recorded: Recorded,
        identifier: (String, &'static str),
        kek: &'static str,
    ) -> Result<Self> {
        let client = Client::builder()
            .tls_backend_preconfigured(Pki::client_config(ca, None)?)
            .no_proxy()
            .tcp_nodelay(true)
            .build()?;
        Ok(Self { client, base, recorded, identifier, kek, learned: Mutex::default() })
    }
}

#[async_trait]
impl Side for Bare {
    async fn run(&self, operation: Operation, name: String) -> Result<()> {
        let learned = || self.learned.lock().unwrap_or_else(PoisonError::into_inner);
        let requests = self.recorded.get(operation.name()).context("no requests")?;
        let (recorded, place) = &self.identifier;
        for request in requests {
            let known = learned().get(&name).cloned();
            let of_this_key = |text: &str| {
                let text = text.replace(RECORDED, &name);
                match &known {
                    Some(known) => text.replace(recorded, known),
                    None => text,
                }
            };
            let url = format!("{}{}", self.base, of_this_key(&request.path));
            let mut sent = self.client.request(Method::from_bytes(request.method.as_bytes())?, url);
            for (header, value) in &request.headers {
                if !OF_THE_CLIENT.iter().any(|own| own.eq_ignore_ascii_case(header)) {
                    sent = sent.header(header, value);
                }
            }
            let found = sent.body(of_this_key(&request.body)).send().await?;
            let status = found.status();
            let body: Value = serde_json::from_slice(&found.bytes().await?).unwrap_or_default();
            // The provider looks for what must be absent before a write and after a delete.
            let looks = request.method == "GET" && operation != Operation::Get;
            ensure!(status.is_success() || looks, "{} of {name}: {status}", operation.name());
            if operation == Operation::Get {
                body.pointer(self.kek).and_then(Value::as_str).context("no KEK")?;
            }
            if let Some(found) = body.pointer(place).and_then(Value::as_str) {
                let found = found.rsplit('/').next().unwrap_or_default();
                learned().insert(name.clone(), found.to_owned());
            }
        }
        if operation == Operation::Delete {
            learned().remove(&name);
        }
        Ok(())
    }
}

/// What the provider sends for each operation on one key, and the version of that key. `sent` returns all requests so far.
async fn record(ours: &Ours, sent: impl Fn() -> Vec<Request>) -> Result<(Recorded, String)> {
    let mut recorded = Recorded::new();
    let mut version = String::new();
    // The first key logs in.
    for key in ["first", RECORDED] {
        for operation in Operation::ALL {
            let before = sent().len();
            ours.run(operation, key.to_owned()).await?;
            let requests = sent().split_off(before).into_iter().map(Sent::from);
            recorded.insert(operation.name(), requests.collect());
            if operation == Operation::Create {
                let stored = ours.provider.get(&key.parse()?, Freshness::Any).await?;
                version = stored.version.as_str().to_owned();
            }
        }
    }
    Ok((recorded, version))
}

/// The bare loop on a double.
async fn on_double(
    ours: &Ours,
    (base, pki): (String, &Pki),
    kek: &'static str,
    place: &'static str,
    sent: impl Fn() -> Vec<Request>,
) -> Result<Bare> {
    let (recorded, version) = record(ours, sent).await?;
    Bare::new(base, &pki.ca.cert, recorded, (version, place), kek)
}

/// The bare loop on an API server: the requests that the provider sends, by hand.
async fn on_kube(ours: &Ours, kube: &Kube, place: &KubeNamespace) -> Result<Bare> {
    const UID: &str = "00000000-0000-0000-0000-000000000000";
    let secrets = place.path("secrets");
    let name = format!("rook-ceph-osd-encryption-key-{RECORDED}");
    let one = format!("{secrets}/{name}");
    let kek = STANDARD.encode(Kek::generate()?.expose_secret_text()?);
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/rook",
        "metadata": {"name": name, "namespace": place.name(), "labels": {"pvc_name": RECORDED}},
        "data": {"dmcrypt-key": kek},
    });
    let unchanged = json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": UID}});
    let headers = |accept: &str| {
        [("authorization", "Bearer admintoken"), ("accept", accept), ("content-type", "application/json")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec()
    };
    let send = |method: &str, path: &str, accept: &str, body: String| Sent {
        method: method.to_owned(),
        path: path.to_owned(),
        headers: headers(accept),
        body,
    };
    const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
    let read = || send("GET", &one, "application/json", String::new());
    let recorded = Recorded::from([
        ("create", vec![send("POST", &secrets, METADATA, secret.to_string())]),
        ("get", vec![read()]),
        ("delete", vec![read(), send("DELETE", &one, METADATA, unchanged.to_string())]),
    ]);
    ours.run(Operation::Create, "first".to_owned()).await?;
    ours.run(Operation::Delete, "first".to_owned()).await?;
    for operation in Operation::ALL {
        let before = answered(kube, &["secrets"]).await?;
        ours.run(operation, RECORDED.to_owned()).await?;
        let sent = answered(kube, &["secrets"]).await? - before;
        let expected = recorded.get(operation.name()).context("no requests")?.len();
        ensure!(sent == f64_of(u64::try_from(expected)?), "{}: {sent} requests", operation.name());
    }
    Bare::new(
        kube.url().to_owned(),
        kube.ca(),
        recorded,
        (UID.to_owned(), "/metadata/uid"),
        "/data/dmcrypt-key",
    )
}

#[tokio::main]
async fn main() -> Result<()> {
    let out = std::env::args_os().nth(1).map(PathBuf::from).context("which file to write JSON to")?;
    let mut rows = Vec::new();
    for (which, title) in [
        (Which::IbmKeyProtect, "Key Protect (double)"),
        (Which::Azure, "Key Vault (double)"),
        (Which::KubernetesSecret, "Secrets"),
    ] {
        let store = Store::start(which).await?;
        let ours = Ours::new(Arc::clone(&store.provider))?;
        let bare = if let Some(double) = store.server::<IbmKp>() {
            let sent = || double.requests_to(Host::Keys);
            let server = (double.url(Host::Keys), double.pki());
            on_double(&ours, server, "/resources/0/payload", "/resources/0/id", sent).await?
        } else if let Some(double) = store.server::<Azure>() {
            let sent = || double.requests_to(Host::Keys);
            on_double(&ours, (double.url(Host::Keys), double.pki()), "/value", "/id", sent).await?
        } else {
            let kube = store.server::<Kube>().context("no API server")?;
            on_kube(&ours, kube, store.server().context("no namespace")?).await?
        };
        let counts: HashMap<_, _> =
            bare.recorded.iter().map(|(name, requests)| (*name, requests.len())).collect();
        let keys = if is_short() { 4 } else { KEYS };
        let count = |operation: Operation| counts.get(operation.name()).copied().unwrap_or_default();
        rows.extend(compare(title, keys, Arc::new(ours), Arc::new(bare), count).await?);
    }
    let result = json!({"operations": rows});
    std::fs::write(&out, format!("{result:#}\n")).with_context(|| format!("write {}", out.display()))?;
    println!("written to {}", out.display());
    Ok(())
}
