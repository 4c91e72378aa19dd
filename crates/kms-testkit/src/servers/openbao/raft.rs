//! A cluster of three OpenBao nodes: standbys, forwarded requests, and the loss of the leader.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::{ATTEMPTS, Admin, OpenBaoConfig, Requests, config, serve};
use crate::servers::{
    http::Http,
    pki::Pki,
    port,
    process::{Process, Scratch},
    wait,
};

/// The number of nodes. Without one of them the others have a majority.
const NODES: usize = 3;

#[derive(Debug)]
struct Node {
    process: Process,
    folder: PathBuf,
    port: u16,
    dead: bool,
}

impl Node {
    fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }
}

/// A running cluster; the nodes are numbered from 0.
#[derive(Debug)]
pub struct Raft {
    nodes: Vec<Node>,
    admin: Admin,
    pki: Arc<Pki>,
    bao: PathBuf,
    took: Duration,
    folder: Scratch,
}

impl Raft {
    /// Starts a cluster in which all three nodes vote, with the `bao` that xtask names.
    ///
    /// # Errors
    ///
    /// If there is no program, or the cluster does not come up in time.
    pub async fn start() -> Result<Self> {
        Self::start_with(OpenBaoConfig::default()).await
    }

    /// Starts a cluster with `bao` and `folder` of `config`; its other fields do not apply.
    ///
    /// # Errors
    ///
    /// If there is no program, or the cluster does not come up in time.
    pub async fn start_with(config: OpenBaoConfig) -> Result<Self> {
        let begin = Instant::now();
        let pki = Arc::new(Pki::new()?);
        let folder = config.folder.clone().map_or_else(Scratch::new, Scratch::kept)?;
        pki.write(&folder.path().join("pki"))?;
        let bao = OpenBaoConfig::program(config.bao.as_ref())?;
        let mut attempt = 1;
        let (nodes, admin) = loop {
            let mut nodes = Vec::new();
            for number in 0..NODES {
                nodes.push(launch(number, &bao, folder.path())?);
            }
            match form(&mut nodes, &pki).await {
                Ok(admin) => break (nodes, admin),
                Err(error) => {
                    let taken =
                        nodes.iter().any(|node| node.process.log().contains("address already in use"));
                    if !taken || attempt == ATTEMPTS {
                        let words: Vec<String> = nodes.iter().map(|node| node.process.last_words()).collect();
                        return Err(error.context(words.join("\n")));
                    }
                    attempt += 1;
                }
            }
        };
        Ok(Self { nodes, admin, pki, bao, took: begin.elapsed(), folder })
    }

    /// The URL of a node.
    ///
    /// # Panics
    ///
    /// If there is no such node.
    #[must_use]
    pub fn url(&self, node: usize) -> String {
        self.node(node).url()
    }

    /// The URLs of all nodes.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(Node::url).collect()
    }

    /// The address of a node.
    ///
    /// # Panics
    ///
    /// If there is no such node.
    #[must_use]
    pub fn addr(&self, node: usize) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.node(node).port).into()
    }

    /// The administrator at a node.
    ///
    /// # Panics
    ///
    /// If there is no such node.
    #[must_use]
    pub fn admin(&self, node: usize) -> Admin {
        self.admin.at(&self.url(node))
    }

    /// The certificates.
    #[must_use]
    pub fn pki(&self) -> &Pki {
        &self.pki
    }

    /// A certificate or key file: `ca.crt`, `client1.key` …
    #[must_use]
    pub fn pki_file(&self, name: &str) -> PathBuf {
        self.folder.path().join("pki").join(name)
    }

    /// The time until the cluster had formed.
    #[must_use]
    pub fn took(&self) -> Duration {
        self.took
    }

    /// Counts the requests from now on.
    /// A forwarded request counts once, at the leader; a read that a standby serves counts at the standby.
    ///
    /// # Errors
    ///
    /// If an audit file cannot be read.
    pub fn requests(&self) -> Result<Requests> {
        Requests::from_now_on(self.nodes.iter().map(|node| node.folder.join("audit.log")).collect())
    }

    /// Returns the leader, and waits for one if necessary.
    ///
    /// # Errors
    ///
    /// If no node leads in time.
    pub async fn leader(&self) -> Result<usize> {
        wait::until("a leader", wait::START, async || {
            for (number, node) in self.nodes.iter().enumerate().filter(|(_, node)| !node.dead) {
                // 200 means the active node. A node that does not respond does not lead.
                if self.admin.at(&node.url()).health().await.is_ok_and(|status| status == 200) {
                    return Ok(Some(number));
                }
            }
            Ok(None)
        })
        .await
    }

    /// A live node that does not lead.
    ///
    /// # Errors
    ///
    /// If no node leads in time, or if no other node is alive.
    pub async fn standby(&self) -> Result<usize> {
        let leader = self.leader().await?;
        let alive = self.nodes.iter().enumerate().filter(|(_, node)| !node.dead);
        alive.map(|(number, _)| number).find(|number| *number != leader).context("no standby is alive")
    }

    /// Kills a node (SIGKILL).
    ///
    /// # Errors
    ///
    /// If there is no such node.
    pub fn kill(&mut self, node: usize) -> Result<()> {
        let node = self.nodes.get_mut(node).context("no such node")?;
        node.process.kill();
        node.dead = true;
        Ok(())
    }

    /// Kills the leader, and returns its number.
    ///
    /// # Errors
    ///
    /// If no node leads in time.
    pub async fn kill_leader(&mut self) -> Result<usize> {
        let leader = self.leader().await?;
        self.kill(leader)?;
        Ok(leader)
    }

    /// Starts a killed node again, with its data and ports, and waits until it takes part.
    ///
    /// # Errors
    ///
    /// If it does not come back in time.
    pub async fn revive(&mut self, number: usize) -> Result<()> {
        let bao = self.bao.clone();
        let node = self.nodes.get_mut(number).context("no such node")?;
        node.process = serve("openbao", &bao, &node.folder, &node.folder.join("server.hcl"))?;
        node.dead = false;
        let admin = self.admin(number);
        wait::until("the revived node", wait::START, async || Ok(takes_part(&admin).await.then_some(())))
            .await
    }

    /// Lets the leader step down, waits until another node leads, and returns the new leader.
    ///
    /// # Errors
    ///
    /// If no other node leads in time.
    pub async fn step_down(&self) -> Result<usize> {
        let old = self.leader().await?;
        self.admin(old).call("PUT", "sys/step-down", Value::Null).await?;
        wait::until("another leader", wait::START, async || {
            let leader = self.leader().await?;
            Ok((leader != old).then_some(leader))
        })
        .await
    }

    /// Lets the nodes outlive this process, and returns their process ids. The folder must be kept.
    #[must_use]
    pub fn detach(self) -> Vec<u32> {
        self.nodes.into_iter().map(|node| node.process.detach()).collect()
    }

    #[expect(clippy::indexing_slicing, reason = "a test that names a node that is not there is wrong")]
    fn node(&self, number: usize) -> &Node {
        &self.nodes[number]
    }
}

fn launch(number: usize, bao: &Path, shared: &Path) -> Result<Node> {
    let (port, cluster_port) = (port::free()?, port::free()?);
    let folder = shared.join(format!("node{number}"));
    let data = folder.join("data");
    // Left by an attempt whose ports were taken.
    if data.exists() {
        std::fs::remove_dir_all(&data).context("empty the data folder")?;
    }
    std::fs::create_dir_all(&data).context("make the data folder")?;
    let path = folder.join("server.hcl");
    std::fs::write(&path, config::node(number, shared, &folder, port, cluster_port))
        .context("write the configuration")?;
    Ok(Node { process: serve("openbao", bao, &folder, &path)?, folder, port, dead: false })
}

/// Joins the nodes to the first one and waits until all vote; returns the administrator.
async fn form(nodes: &mut [Node], pki: &Pki) -> Result<Admin> {
    let [first, others @ ..] = nodes else { bail!("a cluster has nodes") };
    let http = Http::new(first.url(), &pki.ca.cert, None)?;
    alive("the first node", first, async || {
        // It responds before logins work.
        Ok(Admin::login(http.clone(), "admin", "pw").await.is_ok().then_some(()))
    })
    .await?;
    let admin = Admin::login(http, "admin", "pw").await?;
    let join = json!({"leader_api_addr": first.url(), "leader_ca_cert": pki.ca.cert});
    for node in &mut *others {
        let there = admin.at(&node.url());
        alive("a node that joins", node, async || {
            let reply = there.request("PUT", "sys/storage/raft/join", join.clone()).await;
            Ok(reply.is_ok_and(|reply| reply.status == 200).then_some(()))
        })
        .await?;
    }
    for node in &mut *others {
        let there = admin.at(&node.url());
        // A node that has joined unseals itself at its next attempt, up to 5 s later.
        alive("a standby", node, async || Ok(takes_part(&there).await.then_some(()))).await?;
    }
    alive("three voters", first, async || {
        // A leader that is killed before all vote leaves no majority.
        let state = admin.call("GET", "sys/storage/raft/configuration", Value::Null).await?;
        let servers = state.pointer("/data/config/servers").and_then(Value::as_array);
        let voters = servers.into_iter().flatten().filter(|server| server["voter"] == true).count();
        Ok((voters == NODES).then_some(()))
    })
    .await?;
    Ok(admin)
}

/// Whether a node is unsealed and knows its leader: a login is a write, which a standby forwards.
async fn takes_part(there: &Admin) -> bool {
    Admin::login(there.http().clone(), "admin", "pw").await.is_ok()
}

/// Waits for `look`, but not longer than the node's process lives.
async fn alive<T>(
    what: &str,
    node: &mut Node,
    mut look: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    wait::until(what, wait::START, async || {
        if let Some(status) = node.process.exited()? {
            bail!("{what} ended with {status}");
        }
        look().await
    })
    .await
}
