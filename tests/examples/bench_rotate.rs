//! Measures the cost of a rotation, beside the calls of cryptsetup that Rook makes and beside our own calls.
//! `cargo xtask bench rotate` runs it; `cargo xtask bench boot` runs only the part about a host that boots.
//!
//! Every figure covers one process with all its children: this program runs itself with `measure`; that process runs
//! the measured command and asks the kernel for the resources of its children.

#![expect(clippy::print_stdout, clippy::indexing_slicing, reason = "a program for people who measure")]

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail};
use kms_core::Kek;
use kms_testkit::{
    luks::Image,
    servers::{OpenBao, OpenBaoConfig},
};
use kms_tests::{
    Kms,
    measure::{Cost, MEASURE, Ratio, cost, f64_of, is_short, measured, words_of},
};
use serde_json::{Value, json};

/// The number of measurements of quick commands.
const RUNS: usize = 15;
/// The number of OSDs of a host that boots.
const HOST: usize = 60;
/// The number of OSDs with costly slots that are opened; the figure is extrapolated from them.
const COSTLY: usize = 6;
/// The numbers of OSDs of small and large clusters.
const FLEET: [usize; 4] = [10, 100, 1000, 10_000];
/// How many keys of a fleet are stored at a time.
const PARALLEL: usize = 16;
/// The prefix of the names of keys in Vault.
const PREFIX: &str = "rook-ceph-osd-encryption-key-";

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [MEASURE, file] => measured(Path::new(file)),
        ["boot", out] => tokio::runtime::Runtime::new()?.block_on(boot(Path::new(out))),
        [out] => tokio::runtime::Runtime::new()?.block_on(all(Path::new(out))),
        // One size alone, to try it.
        ["fleet", out, osds] => {
            tokio::runtime::Runtime::new()?.block_on(one_fleet(Path::new(out), osds.parse()?))
        }
        _ => bail!("usage: bench_rotate [boot] OUT, or bench_rotate fleet OUT OSDS"),
    }
}

fn words(text: &[&str]) -> Vec<String> {
    text.iter().map(|word| (*word).to_owned()).collect()
}

/// The median of the wall times, with the least CPU time and the largest memory.
fn middle(mut costs: Vec<Cost>) -> Cost {
    costs.sort_by(|a, b| a.wall_ms.total_cmp(&b.wall_ms));
    let median = costs.get(costs.len() / 2).copied().unwrap_or_default();
    let cpu_ms = costs.iter().map(|cost| cost.cpu_ms).fold(f64::INFINITY, f64::min);
    let peak_kib = costs.iter().map(|cost| cost.peak_kib).max().unwrap_or_default();
    Cost { cpu_ms, peak_kib, ..median }
}

/// A user of `kms` with a Vault.
struct User {
    kms: Kms,
    server: OpenBao,
}

impl User {
    async fn new() -> Result<Self> {
        let server = OpenBao::start(OpenBaoConfig::default()).await?;
        let token = server.admin().rook_token().await?;
        let kms = Kms::new().on_vault(&server, &token, "rookv2", &[]);
        Ok(Self { kms, server })
    }

    /// A command line that runs in the folder of the documents.
    fn line(&self, args: &[&str]) -> Vec<String> {
        words_of(&self.kms.command(args))
    }

    fn cost(&self, lines: &[Vec<String>]) -> Result<Cost> {
        cost(self.kms.folder(), lines)
    }

    fn store(&self, name: &str, kek: &Kek) -> Result<()> {
        let _ = self.kms.run_with(&["put", name, "--from", "-"], kek.expose_secret_text()?).want(0);
        Ok(())
    }

    fn kek(&self, name: &str) -> Result<Kek> {
        Ok(Kek::parse(self.kms.run(&["get", name]).want(0).stdout)?)
    }
}

/// Rook's four calls (rook-behaviour §12.2 for one device), with cryptsetup's default costs, since Rook sets none.
fn rooks(image: &Image, old: &Kek, new: &Kek) -> Vec<Vec<String>> {
    let (device, k1, k2) = (image.path().display().to_string(), image.key_file(old), image.key_file(new));
    let (with_k1, with_k2) = (format!("--key-file={k1}"), format!("--key-file={k2}"));
    vec![
        words(&["cryptsetup", "--verbose", &with_k1, "--key-slot=1", "luksAddKey", &device, &k1]),
        words(&["cryptsetup", "--verbose", &with_k1, "luksKillSlot", &device, "0"]),
        words(&["cryptsetup", "--verbose", &with_k1, "--key-slot=0", "luksAddKey", &device, &k2]),
        words(&["cryptsetup", "--verbose", &with_k2, "luksKillSlot", &device, "1"]),
    ]
}

/// The calls of cryptsetup in one of our rotations, from the slot in use to the other one of 0 and 1, with key files.
fn bare(image: &Image, old: &Kek, new: &Kek) -> Vec<Vec<String>> {
    let (device, k1, k2) = (image.path().display().to_string(), image.key_file(old), image.key_file(new));
    let [from, to] = if image.slots().contains(&0) { ["0", "1"] } else { ["1", "0"] };
    let open = ["cryptsetup", "open", "--test-passphrase", "--key-slot", to, "--key-file", &k2, &device];
    vec![
        words(&["cryptsetup", "luksDump", "--dump-json-metadata", &device]),
        words(&[
            "cryptsetup",
            "luksAddKey",
            "--batch-mode",
            "--key-slot",
            from,
            "--new-key-slot",
            to,
            "--pbkdf",
            "pbkdf2",
            "--pbkdf-force-iterations",
            "1000",
            "--key-file",
            &k1,
            &device,
            &k2,
        ]),
        words(&open),
        words(&open),
        words(&["cryptsetup", "luksKillSlot", "--batch-mode", "--key-file", &k2, &device, from]),
    ]
}

async fn all(out: &Path) -> Result<()> {
    let user = User::new().await?;
    let mut figures = serde_json::Map::new();
    head();
    rotation(&user, &mut figures)?;
    host(&user, &mut figures, if is_short() { 1 } else { COSTLY })?;
    fleet(&user, if is_short() { &FLEET[..1] } else { &FLEET }, &mut figures).await?;
    write(out, &figures)
}

/// Measures a host that boots. All of its OSDs are measured with costly slots too.
async fn boot(out: &Path) -> Result<()> {
    let user = User::new().await?;
    let mut figures = serde_json::Map::new();
    head();
    host(&user, &mut figures, if is_short() { 1 } else { HOST })?;
    write(out, &figures)
}

async fn one_fleet(out: &Path, osds: usize) -> Result<()> {
    let user = User::new().await?;
    let mut figures = serde_json::Map::new();
    head();
    fleet(&user, &[osds], &mut figures).await?;
    write(out, &figures)
}

fn head() {
    println!("{:58} {:>10} {:>10} {:>9}", "", "wall ms", "CPU ms", "peak MiB");
}

fn write(out: &Path, figures: &serde_json::Map<String, Value>) -> Result<()> {
    fs::write(out, serde_json::to_string_pretty(&figures)?).with_context(|| out.display().to_string())?;
    println!("\nwritten to {}", out.display());
    Ok(())
}

/// Measures one rotation.
fn rotation(user: &User, figures: &mut serde_json::Map<String, Value>) -> Result<()> {
    let old = Kek::generate()?;
    let costly = Image::by_default(&old);
    let folder = tempfile::tempdir()?;

    let rook = costly.copy(folder.path().join("rook"));
    let rook = user.cost(&rooks(&rook, &old, &Kek::generate()?))?;
    rook.show("Rook's four calls, argon2id as formatted by default");
    figures.insert("rook".to_owned(), rook.json());

    user.store("costly", &old)?;
    let device = costly.path().display().to_string();
    let rotate = user.line(&["rotate", "costly", &device, "--grace", "0"]);
    let first = user.cost(std::slice::from_ref(&rotate))?;
    first.show("kms rotate, the first time on that device");
    figures.insert("first".to_owned(), first.json());

    let mut later = Vec::new();
    let mut alone = Vec::new();
    for round in 0..if is_short() { 2 } else { RUNS } {
        // The same calls, in alternation, on a copy: every call checks the digest of the volume key, and its cost is in
        // the header.
        let place = folder.path().join(format!("bare-{round}"));
        fs::create_dir(&place)?;
        let (kek, image) = (user.kek("costly")?, costly.copy(place.join("image")));
        later.push(user.cost(std::slice::from_ref(&rotate))?);
        alone.push(cost(&place, &bare(&image, &kek, &Kek::generate()?))?);
        fs::remove_dir_all(&place)?;
    }
    let [of_kms, of_calls] =
        [&later, &alone].map(|costs| costs.iter().map(|cost| cost.wall_ms).collect::<Vec<_>>());
    let wall = Ratio::of(&of_kms, &of_calls);
    assert!(costly.opens(&user.kek("costly")?) && !costly.opens(&old));
    let (later, alone) = (middle(later), middle(alone));
    later.show("kms rotate, every later time");
    alone.show("its five calls of cryptsetup alone");
    figures.insert("later".to_owned(), later.json());
    figures.insert("bare".to_owned(), alone.json());
    let ratios = json!({
        "first_cpu": rook.cpu_ms / first.cpu_ms,
        "later_cpu": rook.cpu_ms / later.cpu_ms,
        "later_memory": f64_of(rook.peak_kib) / f64_of(later.peak_kib),
        "wall": wall.median,
        "quartiles": wall.quartiles,
    });
    println!("ratios: {ratios}");
    figures.insert("ratios".to_owned(), ratios);
    Ok(())
}

/// Measures all OSDs of a host, as when it boots: does its KEK open each one? With costly slots only `costly` are
/// measured.
fn host(user: &User, figures: &mut serde_json::Map<String, Value>, costly: usize) -> Result<()> {
    let kek = Kek::generate()?;
    user.store("boot", &kek)?;
    let mut costs = Vec::new();
    for (what, image, count) in
        [("cheap", Image::luks2(&kek), HOST), ("argon2id", Image::by_default(&kek), costly)]
    {
        let verify = user.line(&["verify", "boot", &image.path().display().to_string()]);
        let mut cost = user.cost(&vec![verify; count])?;
        let factor = f64_of(u64::try_from(HOST / count)?);
        cost.wall_ms *= factor;
        cost.cpu_ms *= factor;
        let note = if count == HOST { String::new() } else { format!(" ({count} measured)") };
        cost.show(&format!("kms verify of {HOST} OSDs, {what}{note}"));
        figures.insert(format!("verify_{what}"), cost.json());
        costs.push(cost);
    }
    if let [cheap, argon2id] = costs.as_slice() {
        let ratios = json!({
            "boot_cpu": argon2id.cpu_ms / cheap.cpu_ms,
            "boot_memory": f64_of(argon2id.peak_kib) / f64_of(cheap.peak_kib),
        });
        println!("ratios: {ratios}");
        figures.insert("boot_ratios".to_owned(), ratios);
    }
    Ok(())
}

/// Measures all OSDs of a cluster.
async fn fleet(user: &User, sizes: &[usize], figures: &mut serde_json::Map<String, Value>) -> Result<()> {
    for count in sizes {
        let (count, kek) = (*count, Kek::generate()?);
        let template = Image::of_fleet(&kek);
        let folder = tempfile::tempdir()?;
        let names: Vec<String> = (0..count).map(|number| format!("fleet-{count}-{number}")).collect();
        store(&user.server, &names, &kek).await?;
        let mut list = String::new();
        for name in &names {
            let image = template.copy(folder.path().join(name));
            list.push_str(&format!("{name} {}\n", image.path().display()));
        }
        user.kms.file("list", &list);
        let requests = user.server.requests()?;
        let all = user.line(&["-q", "-o", "json", "rotate", "--all", "--list", "list", "--grace", "0"]);
        let cost = user.cost(&[all])?;
        let each = f64_of(u64::try_from(requests.all()?.len())?) / f64_of(u64::try_from(count)?);
        cost.show(&format!("kms rotate --all of {count} OSDs, {each:.3} requests each"));
        let mut figure = cost.json();
        figure["requests_each"] = json!(each);
        figures.insert(format!("fleet_{count}"), figure);
    }
    Ok(())
}

/// Stores the KEK under all names.
async fn store(server: &OpenBao, names: &[String], kek: &Kek) -> Result<()> {
    let kek = kek.expose_secret_text()?;
    let parts = (0..PARALLEL).map(|part| async move {
        for name in names.iter().skip(part).step_by(PARALLEL) {
            let key = format!("{PREFIX}{name}");
            server.admin().call("POST", &format!("rookv2/data/{key}"), json!({"data": {&key: kek}})).await?;
        }
        anyhow::Ok(())
    });
    futures_util::future::try_join_all(parts).await?;
    Ok(())
}
