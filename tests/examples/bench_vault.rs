//! Measures the speed of the Vault provider, beside the least possible code. `cargo xtask bench vault` runs it.
//!
//! Both sides talk to the same server in the same run and alternate. Only the ratio counts: figures of two runs or
//! machines cannot be compared.

#![expect(clippy::print_stdout, reason = "a program for people who measure")]

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::{Context as _, Result, bail};
use kms_core::{DeleteMode, Freshness, Kek, KeyName, KmsProvider, PutMode};
use kms_dispatch::Options;
use kms_source::Manifests;
use kms_testkit::servers::{self, OpenBao, OpenBaoConfig, Pki, pki::write_private};
use kms_tests::measure::{Ratio, is_short, median, rate, time, turn, turns};
use reqwest::{Client, Method};
use serde_json::{Value, json};

/// The number of runs of each program.
const RUNS: usize = 60;
/// How many keys are stored at a time.
const PARALLEL: usize = 16;

const PREFIX: &str = "rook-ceph-osd-encryption-key-";

/// A version of the KV store.
#[derive(Clone, Copy, Debug)]
enum Kv {
    V1,
    V2,
}

impl Kv {
    fn mount(self) -> &'static str {
        match self {
            Self::V1 => "rook",
            Self::V2 => "rookv2",
        }
    }

    /// `VAULT_BACKEND`; if it is set, the provider looks up no mount.
    fn backend(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }

    fn manifest(self, server: &OpenBao, token: &str) -> String {
        let ca: String = server.pki().ca.cert.lines().map(|line| format!("    {line}\n")).collect();
        format!(
            "security:\n  kms:\n    connectionDetails:\n      KMS_PROVIDER: vault\n      VAULT_ADDR: {}\n      \
             VAULT_BACKEND_PATH: {}\n      VAULT_BACKEND: {}\n      VAULT_CACERT: vault-ca\n    tokenSecretName: \
             token\n---\napiVersion: v1\nkind: Secret\nmetadata: {{name: token}}\nstringData: {{token: \
             {token}}}\n---\napiVersion: v1\nkind: Secret\nmetadata: {{name: vault-ca}}\nstringData:\n  cert: \
             |\n{ca}",
            server.url(),
            self.mount(),
            self.backend(),
        )
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Delete,
    Get,
    Put,
}

impl Op {
    const ALL: [Self; 3] = [Self::Put, Self::Get, Self::Delete];

    fn name(self) -> &'static str {
        match self {
            Self::Delete => "delete",
            Self::Get => "get",
            Self::Put => "put",
        }
    }
}

/// The least code with the same effect: one HTTP client, hand-written requests, and only the necessary checks of
/// responses.
#[derive(Clone, Debug)]
struct Bare {
    client: Client,
    base: String,
    token: String,
    kv: Kv,
    kek: Arc<str>,
}

impl Bare {
    fn new(server: &OpenBao, token: &str, kv: Kv) -> Result<Self> {
        let client = Client::builder()
            .tls_backend_preconfigured(Pki::client_config(&server.pki().ca.cert, None)?)
            .no_proxy()
            .tcp_nodelay(true)
            .build()?;
        let base = format!("{}/v1/{}", server.url(), kv.mount());
        Ok(Self {
            client,
            base,
            token: token.to_owned(),
            kv,
            kek: Kek::generate()?.expose_secret_text()?.into(),
        })
    }

    async fn run(self, op: Op, name: String) -> Result<()> {
        let id = format!("{PREFIX}{name}");
        let folder = match (self.kv, op) {
            (Kv::V1, _) => "",
            (Kv::V2, Op::Delete) => "metadata/",
            (Kv::V2, _) => "data/",
        };
        let method = match op {
            Op::Delete => Method::DELETE,
            Op::Get => Method::GET,
            Op::Put => Method::PUT,
        };
        let mut request = self.client.request(method, format!("{}/{folder}{id}", self.base));
        request = request.header("X-Vault-Token", &self.token);
        if op == Op::Put {
            let data = json!({&id: &*self.kek});
            let body = match self.kv {
                Kv::V1 => data,
                Kv::V2 => json!({"data": data}),
            };
            request = request.body(body.to_string());
        }
        let response = request.send().await?.error_for_status()?;
        let body = response.bytes().await?;
        if op == Op::Get {
            let body: Value = serde_json::from_slice(&body)?;
            let data = match self.kv {
                Kv::V1 => "/data",
                Kv::V2 => "/data/data",
            };
            body.pointer(data).and_then(|data| data.get(&id)?.as_str()).context("no KEK")?;
        }
        Ok(())
    }
}

/// Our provider, behind the standard layers.
#[derive(Clone, Debug)]
struct Ours {
    provider: Arc<dyn KmsProvider>,
    kek: Arc<Kek>,
}

impl Ours {
    async fn new(server: &OpenBao, token: &str, kv: Kv) -> Result<Self> {
        let text = kv.manifest(server, token);
        let manifests = Manifests::parse([("bench", text.as_bytes())])?;
        let spec = manifests.security().context("no security block")?;
        let provider = kms_dispatch::connect(spec, &manifests, Options::default()).await?;
        Ok(Self { provider, kek: Arc::new(Kek::generate()?) })
    }

    async fn run(self, op: Op, name: String) -> Result<()> {
        let name: KeyName = name.parse()?;
        match op {
            Op::Delete => drop(self.provider.delete(&name, DeleteMode::Destroy).await?),
            Op::Get => drop(self.provider.get(&name, Freshness::Any).await?),
            Op::Put => drop(self.provider.put(&name, &self.kek, PutMode::Overwrite).await?),
        }
        Ok(())
    }
}

/// Measures both sides in alternation; returns the rows of the table.
async fn rates(server: &OpenBao, token: &str, kv: Kv) -> Result<Vec<Value>> {
    let (bare, ours) = (Bare::new(server, token, kv)?, Ours::new(server, token, kv).await?);
    let mut rows = Vec::new();
    for callers in [1, 64] {
        for op in Op::ALL {
            let mut found = [Vec::new(), Vec::new()];
            for number in 0..turns() {
                let sides = if number % 2 == 0 { [0, 1] } else { [1, 0] };
                for side in sides {
                    // Both sides find every key stored.
                    store(&ours, op, callers).await?;
                    let names = Names::new(op);
                    let result = if side == 0 {
                        let ours = ours.clone();
                        turn(callers, move |caller| ours.clone().run(op, names.next(caller))).await?
                    } else {
                        let bare = bare.clone();
                        turn(callers, move |caller| bare.clone().run(op, names.next(caller))).await?
                    };
                    if let Some(found) = found.get_mut(side) {
                        found.push(result);
                    }
                }
            }
            let [ours, bare] = &found;
            let [ours_rates, bare_rates] =
                [ours, bare].map(|turns| turns.iter().map(|turn| turn.per_second).collect::<Vec<_>>());
            let Ratio { median: ratio, quartiles, .. } = Ratio::of(&ours_rates, &bare_rates);
            let [rate, limit] = [ours_rates, bare_rates].map(median);
            let [cpu, least] =
                [ours, bare].map(|turns| median(turns.iter().map(|turn| turn.cpu_us).collect()));
            println!(
                "KV {:4} {:7} {callers:2} callers  {rate:8.0}/s {cpu:6.0} µs CPU  bare loop {limit:8.0}/s {least:6.0} µs \
                 CPU  ratio {ratio:.2}",
                kv.backend(),
                op.name(),
            );
            rows.push(
                json!({"kv": kv.backend(), "operation": op.name(), "callers": callers, "per_second": rate,
                             "bare_per_second": limit, "ratio": ratio, "quartiles": quartiles, "cpu_us": cpu, "bare_cpu_us": least}),
            );
        }
    }
    Ok(rows)
}

/// The names of the keys in one turn: each caller has one, but a key can be deleted only once.
#[derive(Clone, Debug)]
struct Names {
    op: Op,
    deleted: Arc<AtomicUsize>,
}

impl Names {
    fn new(op: Op) -> Self {
        Self { op, deleted: Arc::default() }
    }

    fn next(&self, caller: String) -> String {
        if self.op == Op::Delete { doomed(self.deleted.fetch_add(1, Ordering::Relaxed)) } else { caller }
    }
}

/// The name of a key that is deleted.
fn doomed(number: usize) -> String {
    format!("doomed-{number}")
}

/// Stores the keys of one turn.
async fn store(ours: &Ours, op: Op, callers: usize) -> Result<()> {
    let names: Vec<_> = match op {
        // More than any turn deletes.
        Op::Delete => (0..if callers == 1 { 2000 } else { 4000 }).map(doomed).collect(),
        Op::Get | Op::Put => (0..callers).map(|caller| format!("c{caller}")).collect(),
    };
    let ours = ours.clone();
    rate(PARALLEL, &names, move |name| ours.clone().run(Op::Put, name)).await.map(drop)
}

/// Requests per operation, counted by the server.
async fn requests(server: &OpenBao, token: &str, kv: Kv) -> Result<Vec<Value>> {
    let ours = Ours::new(server, token, kv).await?;
    let name: KeyName = "counted".parse()?;
    // The first operation logs in, or looks up its token.
    let _ = ours.provider.get(&name, Freshness::Any).await;
    let mut rows = Vec::new();
    for operation in ["create", "put", "get", "delete"] {
        let mut seen = server.requests()?;
        seen.forget()?;
        match operation {
            "create" => drop(ours.provider.put(&name, &ours.kek, PutMode::Create).await?),
            "put" => drop(ours.provider.put(&name, &ours.kek, PutMode::Overwrite).await?),
            "get" => drop(ours.provider.get(&name, Freshness::Any).await?),
            _ => drop(ours.provider.delete(&name, DeleteMode::Destroy).await?),
        }
        let count = seen.all()?.len();
        println!("KV {:4} {operation:7} {count} requests", kv.backend());
        rows.push(json!({"kv": kv.backend(), "operation": operation, "requests": count}));
    }
    Ok(rows)
}

/// Measures the programs, each in alternation with curl: the same read with the same TLS settings. A program that follows one
/// of its own kind finds its pages in the caches of the processor.
async fn programs(server: &OpenBao, token: &str, folder: &Path) -> Result<Value> {
    let kms = servers::setting(servers::KMS)?;
    let name = "program";
    Ours::new(server, token, Kv::V1).await?.run(Op::Put, name.to_owned()).await?;
    let program = |path: &Path| {
        let mut command = Command::new(path);
        command.env_clear();
        command
    };
    let manifest = folder.join("bench.yaml");
    write_private(&manifest, &Kv::V1.manifest(server, token))?;
    let mut file = program(Path::new(&kms));
    file.arg("-f").arg(&manifest).args(["get", name]);
    let mut pod = program(Path::new(&kms));
    pod.args(["get", name]).env("VAULT_CACERT", server.pki_file("ca.crt")).envs([
        ("KMS_PROVIDER", "vault"),
        ("VAULT_ADDR", server.url()),
        ("VAULT_BACKEND_PATH", Kv::V1.mount()),
        ("VAULT_BACKEND", Kv::V1.backend()),
        ("VAULT_TOKEN", token),
    ]);
    let url = format!("{}/v1/rook/{PREFIX}{name}", server.url());
    let mut curl = program(Path::new("curl"));
    curl.args(["--silent", "--fail", "--cacert"]).arg(server.pki_file("ca.crt"));
    curl.arg("--header").arg(format!("X-Vault-Token: {token}")).arg(&url);
    let request = folder.join("bench-get");
    write_private(&request, &format!("{url}\n{token}\n{}", server.pki().ca.cert))?;
    let mut bare = program(&std::env::current_exe()?.with_file_name("bench_get"));
    bare.arg(&request);
    let mut sides = [("pod", pod, Vec::new()), ("file", file, Vec::new()), ("bare", bare, Vec::new())];
    for _ in 0..if is_short() { 1 } else { RUNS } {
        for (_, command, turns) in &mut sides {
            turns.push((time(&mut curl)?, time(command)?));
        }
    }
    let mut result = json!({"kms_bytes": std::fs::metadata(&kms).context("look at kms")?.len()});
    for (side, _, turns) in sides {
        let (limit, rate): (Vec<_>, Vec<_>) = turns.into_iter().unzip();
        let Ratio { median: ratio, quartiles, .. } = Ratio::of(&rate, &limit);
        let row =
            json!({"ms": median(rate), "curl_ms": median(limit), "ratio": ratio, "quartiles": quartiles});
        result.as_object_mut().context("an object")?.insert(side.to_owned(), row);
    }
    println!("kms get beside curl: {result}");
    Ok(result)
}

/// Runs one side alone, for a profiler: `alone ours get 20000`.
async fn alone(server: &OpenBao, token: &str, words: &[String]) -> Result<()> {
    let [side, op, count] = words else { bail!("usage: alone ours|bare put|get|delete COUNT") };
    let op = Op::ALL.into_iter().find(|known| known.name() == op).context("no such operation")?;
    let (bare, ours) = (Bare::new(server, token, Kv::V1)?, Ours::new(server, token, Kv::V1).await?);
    store(&ours, op, 1).await?;
    let names = Names::new(op);
    for _ in 0..count.parse::<u32>()? {
        match side.as_str() {
            "ours" => ours.clone().run(op, names.next("c0".to_owned())).await?,
            _ => bare.clone().run(op, names.next("c0".to_owned())).await?,
        }
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let Some(("alone", words)) = words.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        let server = OpenBao::start(OpenBaoConfig::default()).await?;
        let token = server.admin().rook_token().await?;
        return alone(&server, &token, words).await;
    }
    let out = words.first().map(PathBuf::from).context("which file to write JSON to")?;
    let server = OpenBao::start(OpenBaoConfig::default()).await?;
    let token = server.admin().rook_token().await?;
    let (mut counts, mut table) = (Vec::new(), Vec::new());
    for kv in [Kv::V1, Kv::V2] {
        counts.extend(requests(&server, &token, kv).await?);
    }
    for kv in [Kv::V1, Kv::V2] {
        table.extend(rates(&server, &token, kv).await?);
    }
    let programs = programs(&server, &token, server.folder()).await?;
    let result = json!({"requests": counts, "operations": table, "programs": programs});
    std::fs::write(&out, format!("{result:#}\n")).with_context(|| format!("write {}", out.display()))?;
    println!("written to {}", out.display());
    Ok(())
}
