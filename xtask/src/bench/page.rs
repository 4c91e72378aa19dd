//! `docs/performance.md`: the figures of the last run of each benchmark, with pictures.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use anyhow::{Context as _, Result};
use serde_json::Value;
use xshell::{Shell, cmd};

use super::{
    What,
    plot::{bars, lines, number},
};
/// The goal of every ratio to a bare loop.
const GOAL: f64 = 0.95;

/// The figures of all benchmarks that were run, by the names of their files.
struct Figures(BTreeMap<&'static str, Value>);

impl Figures {
    fn read(folder: &Path) -> Result<Self> {
        let mut figures = BTreeMap::new();
        for what in What::EACH {
            let path = folder.join(format!("{}.json", what.name()));
            if path.exists() {
                let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
                figures.insert(what.name(), serde_json::from_str(&text)?);
            }
        }
        Ok(Self(figures))
    }

    /// Whether all of these were run.
    fn have(&self, needed: &[What]) -> bool {
        needed.iter().all(|what| self.0.contains_key(what.name()))
    }

    /// The value at a JSON pointer of one benchmark.
    fn at(&self, what: What, pointer: &str) -> Result<&Value> {
        let of = self.0.get(what.name());
        of.and_then(|of| of.pointer(pointer)).with_context(|| {
            format!("{}.json has no {pointer}; run cargo xtask bench {0} again", what.name())
        })
    }

    fn number(&self, what: What, pointer: &str) -> Result<f64> {
        self.at(what, pointer)?.as_f64().with_context(|| format!("{pointer} is not a number"))
    }

    fn rows(&self, what: What, pointer: &str) -> Result<&Vec<Value>> {
        self.at(what, pointer)?.as_array().with_context(|| format!("{pointer} is not a list"))
    }
}

/// Writes a section of the page, and returns its picture.
type Section = fn(&Figures, &mut String) -> Result<String>;

/// The sections, with the names of their pictures and what they need.
const SECTIONS: [(&str, &[What], Section); 6] = [
    ("providers", &[What::Vault, What::Kmip], providers),
    ("rotation", &[What::Rotate, What::Boot], rotation),
    ("fleet", &[What::Rotate, What::Fleet], fleet),
    ("migration", &[What::Migrate], migration),
    ("builds", &[What::Builds], builds),
    ("safety", &[What::Safety], safety),
];

/// Writes the page and its pictures into the folder `docs`, from the figures in `folder`.
pub(super) fn write(sh: &Shell, folder: &Path, docs: &Path) -> Result<()> {
    let figures = Figures::read(folder)?;
    let folder = docs.join("performance");
    fs::create_dir_all(&folder)?;
    let mut page = head(sh)?;
    for (name, needed, section) in SECTIONS {
        if figures.have(needed) {
            let picture = section(&figures, &mut page)?;
            fs::write(folder.join(format!("{name}.svg")), picture)?;
        }
    }
    let missing = What::EACH.into_iter().filter(|what| !figures.have(&[*what]));
    let left_out: Vec<_> = missing.map(What::name).collect();
    if !left_out.is_empty() {
        let _ = writeln!(page, "\nNot measured on this machine: {}.", left_out.join(", "));
    }
    let path = docs.join("performance.md");
    fs::write(&path, page)?;
    println!("written: {} and {}/*.svg", path.display(), folder.display());
    Ok(())
}

fn head(sh: &Shell) -> Result<String> {
    let first = |path: &str, key: &str| -> Result<String> {
        let text = fs::read_to_string(path)?;
        let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default();
        Ok(line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default())
    };
    let (model, memory) = (first("/proc/cpuinfo", "model name")?, first("/proc/meminfo", "MemTotal")?);
    let kib: f64 = memory.split(' ').next().unwrap_or_default().parse().unwrap_or_default();
    let cores = std::thread::available_parallelism()?;
    let kernel = cmd!(sh, "uname -sr").quiet().read()?;
    let rust = cmd!(sh, "rustc --version").quiet().read()?;
    let cryptsetup = cmd!(sh, "cryptsetup --version").quiet().read()?;
    let commit = cmd!(sh, "git log -1 --format=%h").quiet().read()?;
    let date = cmd!(sh, "date -u +%Y-%m-%d").quiet().read()?;
    Ok(format!(
        "# Performance\n\n`cargo xtask bench all` measures everything on this page and writes it; `--keep` takes figures of \
         earlier runs.\nOnly ratios can be compared between machines: both sides of a ratio talk to the same server, in the \
         same run, in turns.\nA ratio is the median of at least nine pairs of turns; half of the pairs lie between the two \
         values beside it.\n\n| | |\n| --- | --- |\n| processor | {model}, {cores} cores |\n| memory | {:.0} GiB |\n| kernel \
         | {kernel} |\n| compiler | {rust} |\n| cryptsetup | {cryptsetup} |\n| commit | {commit} of {date} |\n",
        kib / f64::from(1 << 20),
    ))
}

fn ratio(row: &Value) -> String {
    let at = |pointer: &str| row.pointer(pointer).and_then(Value::as_f64).map(number);
    let median = at("/ratio").unwrap_or_default();
    match (at("/quartiles/0"), at("/quartiles/1")) {
        (Some(from), Some(to)) => format!("{median} ({from} to {to})"),
        _ => median,
    }
}

fn text<'a>(row: &'a Value, field: &str) -> &'a str {
    row.get(field).and_then(Value::as_str).unwrap_or("-")
}

fn float(row: &Value, field: &str) -> f64 {
    row.get(field).and_then(Value::as_f64).unwrap_or_default()
}

/// Providers beside a bare loop.
fn providers(figures: &Figures, page: &mut String) -> Result<String> {
    let mut plotted = Vec::new();
    page.push_str(
        "\n## Operations beside a bare loop\n\nThe bare loop sends the same requests over one connection, and checks only \
         what it needs.\n\nDoubles of Key Protect and Key Vault run in the process that measures, so their figures say what the provider adds, and \
         nothing about the services. Requests to Key Vault go through Microsoft's SDK, whose own steps are about half of \
         what one costs there.\n\n![Ratios](performance/providers.svg)\n\n| server | operation | requests | callers | a \
         second | bare loop | ratio |\n| --- | --- | ---: | ---: | ---: | ---: | ---: |\n",
    );
    let vault = figures.rows(What::Vault, "/operations")?.iter();
    let vault = vault.map(|row| (format!("OpenBao, KV {}", text(row, "kv")), row));
    let kmip = figures.rows(What::Kmip, "/operations")?.iter().map(|row| ("PyKMIP".to_owned(), row));
    let others = figures.have(&[What::Providers]);
    let others = if others { figures.rows(What::Providers, "/operations")?.as_slice() } else { &[] };
    let others = others.iter().map(|row| (text(row, "server").to_owned(), row));
    let counts = figures.rows(What::Vault, "/requests")?;
    // The figures of Vault have the counts in a list of their own, and none of a put.
    let counted = |row: &Value| {
        let same =
            |count: &&Value| ["kv", "operation"].iter().all(|field| text(count, field) == text(row, field));
        counts.iter().find(same)?.get("requests").cloned()
    };
    for (server, row) in vault.chain(kmip).chain(others) {
        let requests = row.get("requests").cloned().or_else(|| counted(row));
        let requests = requests.map_or_else(|| "-".to_owned(), |requests| requests.to_string());
        let (operation, callers) = (text(row, "operation"), float(row, "callers"));
        let _ = writeln!(
            page,
            "| {server} | {operation} | {requests} | {callers:.0} | {:.0} | {:.0} | {} |",
            float(row, "per_second"),
            float(row, "bare_per_second"),
            ratio(row),
        );
        plotted.push((format!("{server}, {operation}, {callers:.0}"), float(row, "ratio")));
    }
    let programs = figures.at(What::Vault, "/programs")?;
    let [pod, file, bare] = ["pod", "file", "bare"].map(|way| programs.get(way).unwrap_or(&Value::Null));
    let _ = writeln!(
        page,
        "\n`kms get` as a process takes {} ms on OpenBao with its settings in the environment, as in the pod of an OSD, where \
         `curl` takes {} ms for the same request with the same CA: {}. With its settings in a YAML file it takes {} ms: {}. The \
         least program on the same libraries, which does nothing but this request, takes {} ms: {}. On PyKMIP, \
         whose TLS handshake alone takes most of it, `kms get` takes {} ms.",
        number(float(pod, "ms")),
        number(float(pod, "curl_ms")),
        ratio(pod),
        number(float(file, "ms")),
        ratio(file),
        number(float(bare, "ms")),
        ratio(bare),
        number(figures.number(What::Kmip, "/kms_get_ms")?),
    );
    Ok(bars("Operations a second, beside a bare loop (1 is as fast)", &plotted, Some(GOAL), ""))
}

/// A cost as cells of a table.
fn cost(row: &Value) -> String {
    format!(
        "{} | {} | {}",
        number(float(row, "wall_ms")),
        number(float(row, "cpu_ms")),
        number(float(row, "peak_kib") / 1024.0)
    )
}

fn rotation(figures: &Figures, page: &mut String) -> Result<String> {
    page.push_str(
        "\n## Rotations\n\n![Rotations](performance/rotation.svg)\n\n| what | ms | CPU ms | peak MiB |\n| --- | ---: | ---: \
         | ---: |\n",
    );
    let mut plotted = Vec::new();
    for (field, what) in [
        ("rook", "Rook's four calls of cryptsetup"),
        ("first", "kms rotate, first time on a device"),
        ("later", "kms rotate, every later time"),
        ("bare", "its five calls of cryptsetup alone"),
    ] {
        let row = figures.at(What::Rotate, &format!("/{field}"))?;
        let _ = writeln!(page, "| {what} | {} |", cost(row));
        plotted.push((what.to_owned(), float(row, "wall_ms")));
    }
    let ratios = figures.at(What::Rotate, "/ratios")?;
    let wall = serde_json::json!({"ratio": ratios["wall"], "quartiles": ratios["quartiles"]});
    let _ = writeln!(
        page,
        "\nA later rotation takes {} times as long as its calls of cryptsetup on the same header.\n\n### A host with 60 OSDs \
         boots\n\nEach OSD fetches its KEK and opens its device (`kms verify`), one after the other.\n\n| key slots | ms | CPU \
         ms | peak MiB |\n| --- | ---: | ---: | ---: |",
        ratio(&wall),
    );
    for (field, what) in
        [("verify_cheap", "ours: PBKDF2"), ("verify_argon2id", "cryptsetup's default: argon2id")]
    {
        let _ = writeln!(page, "| {what} | {} |", cost(figures.at(What::Boot, &format!("/{field}"))?));
    }
    Ok(bars("One rotation, in milliseconds", &plotted, None, " ms"))
}

fn fleet(figures: &Figures, page: &mut String) -> Result<String> {
    page.push_str(
        "\n## Large clusters\n\n`kms rotate --all` on images, with the keys on OpenBao.\n\n![rotate \
         --all](performance/fleet.svg)\n\n| OSDs | seconds | requests an OSD | peak MiB |\n| ---: | ---: | ---: | ---: |\n",
    );
    let (mut seconds, mut memory) = (Vec::new(), Vec::new());
    let all = figures.at(What::Rotate, "")?.as_object().context("figures")?;
    let mut sizes: Vec<(u32, &Value)> = all
        .iter()
        .filter_map(|(name, row)| Some((name.strip_prefix("fleet_")?.parse().ok()?, row)))
        .collect();
    sizes.sort_by_key(|(count, _)| *count);
    for (count, row) in sizes {
        let (took, mib) = (float(row, "wall_ms") / 1000.0, float(row, "peak_kib") / 1024.0);
        let each = number(float(row, "requests_each"));
        let _ = writeln!(page, "| {count} | {} | {each} | {} |", number(took), number(mib));
        seconds.push((f64::from(count), took));
        memory.push((f64::from(count), mib));
    }
    page.push_str(
        "\nCommands on a generated cluster of 1,000 OSDs on 50 nodes: Deployments, PVCs, pods and Secrets on a real API server, \
         keys on OpenBao. No command may take more than 60 s or 64 MiB.\n\n| command | seconds | requests | peak MiB |\n| --- | \
         ---: | ---: | ---: |\n",
    );
    for (command, row) in figures.at(What::Fleet, "")?.as_object().context("figures")? {
        let _ = writeln!(
            page,
            "| `{command}` | {} | {:.0} | {} |",
            number(float(row, "wall_ms") / 1000.0),
            float(row, "requests"),
            number(float(row, "peak_kib") / 1024.0),
        );
    }
    let series = [("seconds".to_owned(), seconds), ("peak MiB".to_owned(), memory)];
    Ok(lines("kms rotate --all, by the number of OSDs", "OSDs", &series))
}

fn migration(figures: &Figures, page: &mut String) -> Result<String> {
    let mut plotted = Vec::new();
    page.push_str(
        "\n## Migrations\n\nFrom Kubernetes Secrets to OpenBao, beside the least loop that reads each Secret and writes \
         it.\n\n![Migrations](performance/migration.svg)\n\n| keys \
         | step | seconds | requests a key | peak MiB | beside the loop |\n| ---: | --- | ---: | ---: | ---: | ---: |\n",
    );
    for row in figures.rows(What::Migrate, "/rows")? {
        let shown =
            |field: &str| row.get(field).and_then(Value::as_f64).map_or_else(|| "-".to_owned(), number);
        let _ = writeln!(
            page,
            "| {} | {} | {} | {} | {} | {} |",
            float(row, "keys"),
            text(row, "step"),
            shown("seconds"),
            shown("requests_a_key"),
            shown("peak_mib"),
            shown("beside_bare"),
        );
        plotted.push((format!("{} keys, {}", float(row, "keys"), text(row, "step")), float(row, "seconds")));
    }
    Ok(bars("A migration, in seconds", &plotted, None, " s"))
}

fn builds(figures: &Figures, page: &mut String) -> Result<String> {
    page.push_str(
        "\n## Builds with one provider\n\n`cargo build --release --no-default-features --features …`, from nothing, with the \
         link-time optimisation of a release.\n\n![Size of kms](performance/builds.svg)\n\n| features | crates | CPU seconds | MiB \
         |\n| --- | ---: | ---: | ---: |\n",
    );
    let mut plotted = Vec::new();
    for row in figures.rows(What::Builds, "/rows")? {
        let (features, mib) = (text(row, "features"), float(row, "bytes") / f64::from(1 << 20));
        let _ = writeln!(
            page,
            "| `{features}` | {} | {} | {} |",
            float(row, "crates"),
            number(float(row, "cpu_seconds")),
            number(mib)
        );
        plotted.push((features.to_owned(), mib));
    }
    Ok(bars("Size of kms with these features", &plotted, None, " MiB"))
}

fn safety(figures: &Figures, page: &mut String) -> Result<String> {
    page.push_str(
        "\n## Conformance and kills\n\nEach provider runs one suite, on its servers and doubles and in several \
         configurations. A case is excused where the server itself cannot do what it asks; the reasons are in \
         `crates/kms-testkit/src/ledger.rs`. A case that needs what a configuration lacks is not run. None failed.\n\n| \
         provider | runs | cases passed | excused | not run |\n| --- | ---: | ---: | ---: | ---: |\n",
    );
    let mut providers: BTreeMap<&str, [u64; 4]> = BTreeMap::new();
    for row in figures.rows(What::Safety, "/conformance")? {
        let counts = providers.entry(text(row, "provider")).or_default();
        let found = ["passed", "excused", "skipped"].map(|field| row[field].as_u64().unwrap_or_default());
        for (count, more) in counts.iter_mut().zip([1].into_iter().chain(found)) {
            *count += more;
        }
    }
    for (provider, [runs, passed, excused, skipped]) in providers {
        let _ = writeln!(page, "| `{provider}` | {runs} | {passed} | {excused} | {skipped} |");
    }
    page.push_str(
        "\nA kill is a SIGKILL at a step or at any moment. After each one of a rotation the KEK that the KMS returned opened \
         every device, and the next run came to its end; after those of a migration every key was equal on both sides; no \
         OSD was rotated twice or forgotten when leaders died.\n\n![Kills that were \
         survived](performance/safety.svg)\n\n| what was killed | times |\n| --- | ---: |\n",
    );
    let mut plotted = Vec::new();
    for row in figures.rows(What::Safety, "/kills")? {
        let (what, kills) = (text(row, "what"), float(row, "kills"));
        let _ = writeln!(page, "| {what} | {kills} |");
        plotted.push((what.to_owned(), kills));
    }
    Ok(bars("Kills that were survived", &plotted, None, ""))
}
