//! The operator at work: five OSDs on images, an API server and OpenBao. `cargo xtask demo --cluster` runs it.
//!
//! There is no kubelet, so this program runs the containers of Jobs: the real program, on the image of the OSD.

#![expect(clippy::print_stdout, clippy::indexing_slicing, reason = "a program for people at a terminal")]

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use kms_testkit::servers::{
    self, OpenBao, OpenBaoConfig, Pki, port,
    process::{Launch, Process},
    wait,
};
use kms_tests::{
    Ran,
    age::Pair,
    operator::{Scene, condition, osd_of},
    rook::{ADMIN, Cluster},
};
use serde_json::json;

const OSDS: usize = 5;
/// Room for a LUKS2 header of the usual size.
const IMAGE_BYTES: u64 = 17 << 20;
/// The longest wait for the operator.
const LONG: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() -> Result<()> {
    let page = std::env::args_os().nth(1).map(PathBuf::from).context("where to write the status page")?;
    let begin = Instant::now();
    let vault = OpenBao::start(OpenBaoConfig::default()).await?;
    let (cluster, _) = Cluster::on_vault(&vault).await;
    cluster.set_key_rotation(false).await;
    println!(
        "OpenBao and an API server are ready. The CephCluster names OpenBao, and Rook does not rotate its keys.\n"
    );
    let token = cluster.account("rook-ceph-osd", &["rotation-status.yaml"]).await;
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(Pki::client_config(&vault.pki().ca.cert, None)?)
        .no_proxy()
        .build()?;
    let demo = Demo { scene: Scene::prepare(cluster).await, token, client, disks: tempfile::tempdir()? };
    for osd in 0..OSDS {
        demo.add(osd).await?;
    }
    println!(
        "{OSDS} OSDs run, each on a node of its own, with its KEK in OpenBao and an image in place of a disk.\n"
    );

    demo.kubectl("annotate cephcluster rook-ceph kms.ceph.rook.io/rotation-grace=0s");
    let operator = demo.start().await?;
    println!("$ kms operator &\n");
    println!("It does nothing until a CephCluster is handed over:\n");
    demo.kubectl("annotate cephcluster rook-ceph kms.ceph.rook.io/operator=true");
    demo.until("every key to be up to date", async || {
        demo.run_jobs().await?;
        Ok(demo.are(OSDS, "UpToDate").await)
    })
    .await?;
    demo.kubectl("get jobs");
    demo.kubectl("get osdkeys");

    println!("A value of the annotation rotate-now rotates one key, once:\n");
    let before = demo.kek(3)?;
    demo.kubectl(&format!("annotate osdkey {} kms.ceph.rook.io/rotate-now=today", Scene::key(3)));
    demo.until("the rotation that was asked for", async || Ok(demo.run_jobs().await? > 0)).await?;
    demo.until("the key to be up to date", async || {
        Ok(demo.scene.osd_key(3).await["status"]["rotateNow"] == "today" && demo.are(OSDS, "UpToDate").await)
    })
    .await?;
    println!("An escrow of all keys is noted at the CephCluster, where the operator sees it:\n");
    demo.escrow()?;
    demo.until("the escrow to be seen", async || {
        Ok(condition(&demo.scene.osd_key(3).await, "Escrowed")["status"] == "True")
    })
    .await?;
    let path = r#"{range .status.conditions[*]}{.type}{"\t"}{.status}{"\t"}{.message}{"\n"}{end}"#;
    demo.kubectl(&format!("get osdkey {} -o jsonpath='{path}'", Scene::key(3)));
    ensure!(demo.kek(3)? != before, "the KEK was not replaced");
    let _ = demo.admin(&["verify", &Scene::key(3), &demo.image(3).display().to_string()]);

    let status = demo.client.get(&operator.url).send().await?.error_for_status()?.text().await?;
    fs::write(&page, status).with_context(|| page.display().to_string())?;
    println!("The status page of the operator is in {}.", page.display());
    println!("Shown in {:.0} s.", begin.elapsed().as_secs_f64());
    Ok(())
}

/// The cluster, and the disks of its OSDs.
struct Demo {
    scene: Scene,
    /// A token of the account of Jobs.
    token: String,
    client: reqwest::Client,
    disks: tempfile::TempDir,
}

/// The operator as a process.
struct Running {
    url: String,
    _process: Process,
}

impl Demo {
    fn folder(&self, osd: usize) -> PathBuf {
        self.disks.path().join(osd.to_string())
    }

    fn image(&self, osd: usize) -> PathBuf {
        self.folder(osd).join("block-tmp")
    }

    /// Runs kms as the administrator, which has to succeed.
    fn admin(&self, args: &[&str]) -> Ran {
        self.scene.cluster.kms(ADMIN).run(args).want(0)
    }

    fn kek(&self, osd: usize) -> Result<Vec<u8>> {
        let file = self.disks.path().join("kek");
        let _ = self.admin(&["get", &Scene::key(osd), &file.display().to_string()]);
        let kek = fs::read(&file)?;
        fs::remove_file(&file)?;
        Ok(kek)
    }

    /// Shows a command of kubectl with its output.
    fn kubectl(&self, args: &str) {
        println!("$ kubectl {args}");
        for line in self.scene.cluster.kubectl(args).lines() {
            println!("    {line}");
        }
        println!();
    }

    /// Adds an OSD with an image that its KEK opens.
    async fn add(&self, osd: usize) -> Result<()> {
        fs::create_dir(self.folder(osd))?;
        fs::File::create(self.image(osd))?.set_len(IMAGE_BYTES)?;
        let _ = self.admin(&["format", &Scene::key(osd), &self.image(osd).display().to_string()]);
        self.scene.add_osd(osd, &format!("node-{osd}"), &format!("zone-{}", osd % 3)).await;
        Ok(())
    }

    /// Saves all keys for an identity of age.
    fn escrow(&self) -> Result<()> {
        let recipients = self.disks.path().join("recipients.txt");
        fs::write(&recipients, Pair::generate().recipient)?;
        let [folder, recipients] =
            [self.disks.path().join("saved"), recipients].map(|path| path.display().to_string());
        println!("$ kms escrow create saved -R recipients.txt --cluster rook-ceph");
        let ran = self.admin(&["escrow", "create", &folder, "-R", &recipients]);
        println!("    {}\n", ran.stdout.lines().last().unwrap_or_default());
        Ok(())
    }

    /// Starts the operator with its own account.
    async fn start(&self) -> Result<Running> {
        let kms: PathBuf = servers::setting(servers::KMS)?;
        let (scene, listen) = (&self.scene, format!("127.0.0.1:{}", port::free()?));
        let process = Launch::new("operator", kms, self.disks.path())
            .args(["--kubeconfig", &scene.cluster.kubeconfig(&scene.token), "operator"])
            .args([
                "--watch-namespace",
                scene.cluster.place.name(),
                "--listen",
                &listen,
                "--page-auth",
                "off",
            ])
            .start()?;
        let url = format!("http://{listen}/");
        wait::until("the operator to be ready", LONG, async || {
            Ok(self
                .client
                .get(format!("{url}readyz"))
                .send()
                .await
                .is_ok_and(|answer| answer.status().is_success())
                .then_some(()))
        })
        .await?;
        Ok(Running { url, _process: process })
    }

    /// Waits for something, and fails with the keys as they are then.
    async fn until(&self, what: &str, mut look: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
        let found = wait::until(what, LONG, async || Ok(look().await?.then_some(()))).await;
        match found {
            Ok(()) => Ok(()),
            Err(error) => Err(error.context(self.scene.keys().await.to_string())),
        }
    }

    /// Whether this many keys have this reason for `Ready`.
    async fn are(&self, count: usize, reason: &str) -> bool {
        let keys = self.scene.keys().await;
        let keys = keys.as_array().map_or(&[][..], Vec::as_slice);
        keys.iter().filter(|key| condition(key, "Ready")["reason"] == json!(reason)).count() == count
    }

    /// Does what a kubelet and the controller of Jobs do: runs the container of each Job that has not ended. Returns how many
    /// there were.
    async fn run_jobs(&self) -> Result<usize> {
        let kms: PathBuf = servers::setting(servers::KMS)?;
        let (kms, cluster) = (kms.display().to_string(), &self.scene.cluster);
        let jobs = self.scene.active_jobs().await;
        for (name, job) in &jobs {
            let osd = osd_of(job);
            let ran = cluster.run_job(&kms, job, &self.token, &self.folder(osd)).await;
            println!("    ({name} runs on node-{osd}: {})", ran.text().lines().last().unwrap_or_default());
            self.scene.end_job(name, Timestamp::now(), ran.code == 0).await;
        }
        Ok(jobs.len())
    }
}
