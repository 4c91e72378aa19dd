//! Runs the recipes of `deploy/README.md` on a real API server, line by line and in both orders.
use std::path::Path;

use kms_tests::rook::{ADMIN, Cluster, deployed, fixture};
use serde_json::{Value, json};
use tempfile::TempDir;

const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy");
const IMAGE: &str = "registry.example.com/kms:v0.1.0";
const CLUSTER: &str = "--cluster rook-ceph/rook-ceph";

/// A cluster with OSDs, and a folder with `deploy/` for its namespace.
struct Site {
    cluster: Cluster,
    folder: TempDir,
}

impl Site {
    async fn new() -> Self {
        let cluster = Cluster::bare(fixture("vault-tls", "security.json")).await;
        for osd in ["vault-token", "vault-kubernetes", "vault-tls"] {
            cluster.add_osd(osd).await;
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("deploy")).unwrap();
        for file in ["cronjob-manager.yaml", "rotation-status.yaml"] {
            let text = std::fs::read_to_string(Path::new(DEPLOY).join(file)).unwrap();
            let text = text.replace("namespace: rook-ceph", &format!("namespace: {}", cluster.place.name()));
            std::fs::write(folder.path().join("deploy").join(file), text).unwrap();
        }
        Self { cluster, folder }
    }

    /// Runs a line of a recipe, which has to succeed, and returns what it prints.
    fn run(&self, line: &str) -> String {
        let namespace = self.cluster.place.name();
        let line = line
            .replace(CLUSTER, &format!("--cluster {namespace}/rook-ceph"))
            .replace("-n rook-ceph", &format!("-n {namespace}"));
        let ran = self.cluster.shell(&line, self.folder.path());
        assert_eq!(ran.code, 0, "{line}\n{}", ran.text());
        assert!(!ran.text().contains("onflict"), "{line}\n{}", ran.text());
        ran.text()
    }

    fn recipe(&self, heading: &str) {
        let lines = recipe(heading);
        assert!(!lines.is_empty(), "{heading}");
        for line in lines {
            self.run(&line);
        }
    }

    /// Runs the command of the manager, with the rights that the manifest gives to its account. Returns the result of each
    /// CronJob, and standard error.
    async fn manager(&self) -> (Vec<String>, String) {
        let account = "rook-kms-cronjobs";
        self.run("kubectl apply --server-side -f deploy/cronjob-manager.yaml");
        // The API server learns of new rights by watching them.
        let user = format!("system:serviceaccount:{}:{account}", self.cluster.place.name());
        let ask = format!("kubectl auth can-i patch cronjobs.batch -n rook-ceph --as {user} -q");
        self.run(&format!("timeout 60 sh -c 'until {ask}; do :; done'"));
        let token = self.cluster.place.create_token(account, &[]).await.unwrap();
        let documents = deployed("cronjob-manager.yaml");
        let job = documents.iter().find(|object| object["kind"] == "CronJob").unwrap();
        let args = &job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["args"];
        let args: Vec<&str> = args.as_array().unwrap().iter().map(|arg| arg.as_str().unwrap()).collect();
        let [_, _, command @ ..] = args.as_slice() else { panic!("{args:?}") };
        let ran = self.cluster.kms(&token).run(&[&["-o", "json"], command].concat()).want(0);
        let document = ran.json();
        let jobs = document["cron_jobs"].as_array().unwrap().iter();
        (jobs.map(|job| job["result"].as_str().unwrap().to_owned()).collect(), ran.stderr)
    }

    /// The pod of the CronJob of an OSD.
    async fn pod(&self, name: &str) -> Value {
        let job = self.cluster.call("GET", "batch/v1", &format!("cronjobs/{name}"), Value::Null).await;
        job["spec"]["jobTemplate"]["spec"]["template"]["spec"].clone()
    }
}

/// The code blocks under a heading.
fn blocks(heading: &str) -> Vec<String> {
    let text = std::fs::read_to_string(Path::new(DEPLOY).join("README.md")).unwrap();
    let sections = text.split("\n## ").find(|section| section.starts_with(&format!("{heading}\n")));
    let blocks = sections.unwrap_or_else(|| panic!("no heading {heading}")).split("```").skip(1).step_by(2);
    blocks.map(str::to_owned).collect()
}

/// The lines of the code blocks under a heading.
fn recipe(heading: &str) -> Vec<String> {
    blocks(heading)
        .iter()
        .flat_map(|block| block.lines())
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect()
}

fn unchanged() -> Vec<String> {
    vec!["unchanged".to_owned(); 3]
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server and kubectl: cargo xtask it rook"]
async fn each_recipe_runs_line_by_line_and_they_agree_in_this_order() {
    let site = Site::new().await;
    for heading in ["In place of Rook's CronJobs", "An account of their own", "By files"] {
        site.recipe(heading);
        assert_eq!(site.cluster.cron_jobs().await.len(), 4, "{heading}: with the manager's");
    }
    let pod = site.pod("rook-ceph-osd-key-rotation-1").await;
    assert_eq!(
        (&pod["containers"][0]["image"], &pod["serviceAccountName"]),
        (&json!(IMAGE), &json!("rook-kms-rotation"))
    );
    // The manager changes nothing of it, and has nothing to say.
    assert_eq!(site.manager().await, (unchanged(), String::new()));
    // Each block of the page belongs to a recipe of this test or the next one, or to the operator.
    let page = std::fs::read_to_string(Path::new(DEPLOY).join("README.md")).unwrap();
    assert_eq!(page.matches("```").count(), 2 * (5 + blocks("The operator").len()));
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server and kubectl: cargo xtask it rook"]
async fn the_recipes_agree_in_the_other_order_too() {
    let site = Site::new().await;
    // The image first, as every recipe has it.
    site.run(&recipe("In place of Rook's CronJobs")[0]);
    for heading in ["By files", "An account of their own", "In place of Rook's CronJobs"] {
        site.recipe(heading);
    }
    assert_eq!(site.manager().await, (unchanged(), String::new()));
    // Also for kubectl's own field manager.
    site.run("kubectl get cephclusters,deployments -n rook-ceph -o json > c.json");
    site.run("kms -f c.json cronjobs render | kubectl apply --server-side -f -");
    let kms = site.cluster.kms(ADMIN);
    let document = kms.run(&["-o", "json", "cronjobs", "apply"]).want(0).json();
    assert!(
        document["cron_jobs"].as_array().unwrap().iter().all(|job| job["result"] == "unchanged"),
        "{document}"
    );
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server and kubectl: cargo xtask it rook"]
async fn the_recipe_beside_rook_runs_line_by_line() {
    let site = Site::new().await;
    site.cluster.set_key_rotation(false).await;
    let lines = recipe("Beside Rook");
    let (last, lines) = lines.split_last().unwrap();
    for line in lines {
        site.run(line);
    }
    let names = site.cluster.cron_jobs().await;
    assert_eq!(
        names.iter().filter(|name| name.starts_with("rook-kms-key-rotation-")).count(),
        3,
        "{names:?}"
    );
    assert_eq!(site.manager().await, (unchanged(), String::new()));
    site.run(last);
    assert_eq!(site.cluster.cron_jobs().await, ["rook-kms-cronjobs"]);
}

/// The options of a run by hand that the CephCluster does not record.
#[tokio::test]
#[ignore = "needs a Kubernetes API server: cargo xtask it rook"]
async fn a_run_without_options_takes_back_nothing_and_says_what_is_not_recorded() {
    let site = Site::new().await;
    let given = ["--image", "mine:1", "--service-account", "own", "--grace", "90s", "--keep-superseded"];
    let kms = site.cluster.kms(ADMIN);
    let _ = kms.run(&[&["cronjobs", "apply"], &given[..]].concat()).want(0);
    let before = site.pod("rook-ceph-osd-key-rotation-2").await;
    let (results, said) = site.manager().await;
    assert_eq!(results, unchanged());
    let missing = "kms.ceph.rook.io/rotation-grace=90s kms.ceph.rook.io/rotation-image=mine:1 \
                   kms.ceph.rook.io/rotation-service-account=own";
    assert!(
        said.contains(&format!(
            "kubectl annotate cephcluster -n {} rook-ceph {missing}",
            site.cluster.place.name()
        )),
        "{said}"
    );
    assert_eq!(site.pod("rook-ceph-osd-key-rotation-2").await, before);

    // What the CephCluster records goes before what is there, and the command line before both, with a warning.
    site.cluster.kubectl("annotate cephcluster rook-ceph kms.ceph.rook.io/rotation-image=mine:2");
    let _ = kms.run(&["cronjobs", "apply"]).want(0);
    let pod = site.pod("rook-ceph-osd-key-rotation-2").await;
    assert_eq!(
        (&pod["containers"][0]["image"], &pod["serviceAccountName"]),
        (&json!("mine:2"), &json!("own"))
    );
    let ran = kms.run(&["cronjobs", "apply", "--image", "mine:3"]).want(0);
    assert!(
        ran.stderr.contains("differs from the annotation kms.ceph.rook.io/rotation-image"),
        "{}",
        ran.stderr
    );
    // A new cluster has no image to keep.
    let empty = Cluster::bare(fixture("vault-tls", "security.json")).await;
    let ran = empty.kms(ADMIN).run(&["cronjobs", "apply"]).want(2);
    assert!(ran.stderr.contains("no image is set for the rotation jobs"), "{}", ran.stderr);
}
