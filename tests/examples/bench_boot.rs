//! What a cold boot costs a host with many OSDs: every KEK is fetched and every device unlocked. Run by
//! `cargo xtask bench boot`.
//!
//! The same with the key slots that we make and with those that cryptsetup makes by default, in one run on one machine.
//! Devices are image files and are verified, not mapped: unlocking a key slot is all that differs.

#![expect(clippy::print_stdout, reason = "a program for people who measure")]

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use kms_testkit::servers::{OpenBao, OpenBaoConfig, machine::find_program};
use kms_tests::{Kms, secret, vault_security};
use serde_json::{Value, json};

/// How many OSDs start at the same time.
const AT_ONCE: usize = 2;

/// Runs a command and tells what it and all its children have used: seconds of processor time, and the memory of the
/// largest of them in KiB.
const USED: &str = "import resource, subprocess, sys
status = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss, status)";

/// A kind of key slots.
#[derive(Clone, Copy, Debug)]
enum Slots {
    /// As `kms format` makes them.
    Ours,
    /// As cryptsetup makes them unless it is told otherwise, and so as ceph-volume and Rook do.
    Default,
}

impl Slots {
    fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Default => "default",
        }
    }

    /// Formats the image with the KEK of this name.
    fn format(self, kms: &Kms, name: &str, image: &Path) -> Result<()> {
        std::fs::File::create(image)?.set_len(20 << 20)?;
        let path = image.to_string_lossy();
        match self {
            Self::Ours => drop(kms.run(&["format", name, &path]).want(0)),
            Self::Default => {
                let kek = kms.run(&["get", name]).want(0).stdout;
                let mut child = Command::new(find_program("cryptsetup")?)
                    .args(["luksFormat", "--batch-mode", "--type", "luks2", "--key-file", "-"])
                    .arg(image)
                    .stdin(Stdio::piped())
                    .spawn()
                    .context("run cryptsetup")?;
                let mut stdin = child.stdin.take().context("no pipe to cryptsetup")?;
                std::io::Write::write_all(&mut stdin, kek.as_bytes())?;
                drop(stdin);
                if !child.wait()?.success() {
                    bail!("cryptsetup cannot format {path}");
                }
            }
        }
        Ok(())
    }
}

/// What verifying one OSD has used.
#[derive(Clone, Copy, Debug)]
struct Used {
    cpu_seconds: f64,
    peak_kib: u64,
}

fn verify(kms: &Kms, name: &str, image: &Path) -> Result<Used> {
    let command = kms.command(&["verify", name, &image.to_string_lossy()]);
    let output = Command::new("python3")
        .args(["-c", USED])
        .arg(command.get_program())
        .args(command.get_args())
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .current_dir(kms.folder())
        .output()
        .context("run Python")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut words = text.split_whitespace();
    let mut word = || words.next().with_context(|| format!("Python says only {text:?}"));
    let used = Used { cpu_seconds: word()?.parse()?, peak_kib: word()?.parse()? };
    if word()? != "0" {
        bail!("kms verify {name}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(used)
}

/// One boot: every OSD once, `AT_ONCE` at a time.
fn boot(kms: &Kms, slots: Slots, osds: usize) -> Result<Value> {
    let folder = kms.folder().join(slots.name());
    std::fs::create_dir(&folder)?;
    let first = format!("{}-0", slots.name());
    let _ = kms.run(&["create", &first]).want(0);
    let kek = kms.run(&["get", &first]).want(0).stdout;
    let image = |number: usize| folder.join(format!("{number}.img"));
    slots.format(kms, &first, &image(0))?;
    let mut devices = vec![(first.clone(), image(0))];
    for number in 1..osds {
        let name = format!("{}-{number}", slots.name());
        let _ = kms.run_with(&["put", &name, "--from", "-"], &kek).want(0);
        // Copies, since a format of the default kind takes seconds.
        let status = Command::new("cp").arg("--sparse=always").arg(image(0)).arg(image(number)).status()?;
        if !status.success() {
            bail!("cannot copy {}", image(0).display());
        }
        devices.push((name, image(number)));
    }
    let (next, begin) = (AtomicUsize::new(0), Instant::now());
    let used: Vec<Used> = std::thread::scope(|scope| {
        let worker = || {
            let mut used = Vec::new();
            while let Some((name, image)) = devices.get(next.fetch_add(1, Ordering::Relaxed)) {
                used.push(verify(kms, name, image)?);
            }
            anyhow::Ok(used)
        };
        let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(worker)).collect();
        let mut all = Vec::new();
        for worker in workers {
            all.extend(worker.join().map_err(|_| anyhow::anyhow!("a worker has panicked"))??);
        }
        anyhow::Ok(all)
    })?;
    let wall = begin.elapsed().as_secs_f64();
    std::fs::remove_dir_all(&folder)?;
    let cpu: f64 = used.iter().map(|used| used.cpu_seconds).sum();
    let peak = used.iter().map(|used| used.peak_kib).max().unwrap_or_default();
    println!(
        "{:8} {osds} OSDs: {cpu:7.2} s of processor time, {:6.1} MiB in the largest process, {wall:6.1} s with {AT_ONCE} at once",
        slots.name(),
        mebibytes(peak),
    );
    Ok(
        json!({"slots": slots.name(), "osds": osds, "cpu_seconds": cpu, "peak_kib": peak, "wall_seconds": wall,
              "at_once": AT_ONCE}),
    )
}

#[expect(clippy::cast_precision_loss, reason = "for people to read")]
fn mebibytes(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let out = args.next().map(PathBuf::from).context("which file to write JSON to")?;
    let osds: usize = args.next().context("how many OSDs")?.parse().context("how many OSDs")?;
    let server = OpenBao::start(OpenBaoConfig::default()).await?;
    let token = server.admin().rook_token().await?;
    let settings = [
        ("VAULT_ADDR", server.url()),
        ("VAULT_BACKEND_PATH", "rook"),
        ("VAULT_BACKEND", "v1"),
        ("VAULT_CACERT", "vault-ca"),
    ];
    let kms = Kms::new()
        .document("cluster.yaml", &vault_security(&settings))
        .document("token.yaml", &secret("vault-token", &[("token", &token)]))
        .document("ca.yaml", &secret("vault-ca", &[("cert", &server.pki().ca.cert)]));
    let rows = [Slots::Ours, Slots::Default].map(|slots| boot(&kms, slots, osds));
    let rows = rows.into_iter().collect::<Result<Vec<_>>>()?;
    if let [ours, default] = rows.as_slice() {
        let ratio = |field: &str| default[field].as_f64().zip(ours[field].as_f64()).map(|(a, b)| a / b);
        if let (Some(cpu), Some(memory)) = (ratio("cpu_seconds"), ratio("peak_kib")) {
            println!("processor time {cpu:.0} times less, memory {memory:.0} times less");
        }
    }
    std::fs::write(&out, format!("{:#}\n", Value::from(rows)))
        .with_context(|| format!("write {}", out.display()))?;
    println!("written to {}", out.display());
    Ok(())
}
