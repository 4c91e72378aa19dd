//! The server's configuration, and the mounts and policies that every variant has.

use std::{fmt::Write as _, path::Path};

use anyhow::Result;
use serde_json::json;

use super::{Admin, OpenBaoConfig};

/// The rights that Rook's documentation grants, on both mounts.
pub(super) const ROOK_POLICY: &str = r#"path "rook/*" { capabilities = ["create", "read", "update", "delete", "list"] }
path "rookv2/*" { capabilities = ["create", "read", "update", "delete", "list"] }
path "sys/mounts" { capabilities = ["read"] }
"#;

const ADMIN_POLICY: &str =
    r#"path "*" { capabilities = ["create", "read", "update", "delete", "list", "sudo"] }"#;

/// The key of the static seal: with it a server unseals itself.
const SEAL: &str = r#"seal "static" {
  current_key_id = "k1"
  current_key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
}
"#;

/// A string of HCL, which quotes like JSON except for its templates.
fn quote(text: impl AsRef<str>) -> String {
    serde_json::Value::from(text.as_ref()).to_string().replace("${", "$${")
}

/// One server with its data in memory.
pub(super) fn single(config: &OpenBaoConfig, folder: &Path, port: u16, cluster_port: u16) -> String {
    let mut text = format!("api_addr = \"https://127.0.0.1:{port}\"\nstorage \"inmem\" {{}}\n");
    text += &listener(config, folder, port, cluster_port);
    text += AUDIT;
    if !config.sealable {
        text += SEAL;
        text += &initialize();
    }
    text
}

/// One node of a raft cluster; the first one initialises itself.
pub(super) fn node(number: usize, shared: &Path, folder: &Path, port: u16, cluster_port: u16) -> String {
    let mut text = format!(
        "api_addr = \"https://127.0.0.1:{port}\"\ncluster_addr = \"https://127.0.0.1:{cluster_port}\"\nstorage \"raft\" \
         {{\n  path = {}\n  node_id = \"n{number}\"\n  performance_multiplier = 1\n}}\n",
        quote(folder.join("data").to_string_lossy()),
    );
    text += &listener(&OpenBaoConfig::default(), shared, port, cluster_port);
    text += AUDIT;
    text += SEAL;
    if number == 0 {
        text += &initialize();
    }
    text
}

fn listener(config: &OpenBaoConfig, shared: &Path, port: u16, cluster_port: u16) -> String {
    let pki = |name: &str| quote(shared.join("pki").join(name).to_string_lossy());
    let mut text = format!(
        "listener \"tcp\" {{\n  address = \"127.0.0.1:{port}\"\n  cluster_address = \"127.0.0.1:{cluster_port}\"\n  \
         tls_cert_file = {}\n  tls_key_file = {}\n  tls_min_version = \"tls12\"\n",
        pki(&format!("{}.crt", config.certificate)),
        pki(&format!("{}.key", config.certificate)),
    );
    if let Some(version) = config.tls_max {
        let _ = writeln!(text, "  tls_max_version = {}", quote(version));
    }
    if config.client_certificates {
        let _ = writeln!(
            text,
            "  tls_client_ca_file = {}\n  tls_require_and_verify_client_cert = true",
            pki("ca.crt")
        );
    }
    text + "}\n"
}

/// The file audit device; OpenBao 2.7 takes it only from the configuration.
/// The path is relative to the folder the server runs in: a node whose path is not that of its leader cannot lead.
const AUDIT: &str = r#"audit "file" "requests" {
  description = ""
  options {
    file_path = "audit.log"
  }
}
"#;

/// The mounts and policies that a self-initialising server sets up before its first response.
fn initialize() -> String {
    let mut text = String::from("initialize \"setup\" {\n");
    let mut request = |name: &str, path: &str, data: String| {
        let _ = writeln!(
            text,
            "  request \"{name}\" {{\n    operation = \"update\"\n    path = \"{path}\"\n    data = {{ {data} }}\n  }}"
        );
    };
    for (mount, version) in [("rook", "1"), ("rookv2", "2")] {
        let data = format!("type = \"kv\", options = {{ version = \"{version}\" }}");
        request(&format!("mount-{mount}"), &format!("sys/mounts/{mount}"), data);
    }
    for (name, policy) in [("rook", ROOK_POLICY), ("admin", ADMIN_POLICY)] {
        let data = format!("policy = {}", quote(policy));
        request(&format!("policy-{name}"), &format!("sys/policies/acl/{name}"), data);
    }
    request("userpass", "sys/auth/userpass", "type = \"userpass\"".to_owned());
    let data = "password = \"pw\", token_policies = [\"admin\"]".to_owned();
    request("user", "auth/userpass/users/admin", data);
    text + "}\n"
}

/// The same mounts and policies, by calls.
pub(super) async fn apply(admin: &Admin) -> Result<()> {
    admin.mount_kv("rook", 1).await?;
    admin.mount_kv("rookv2", 2).await?;
    admin.put_policy("rook", ROOK_POLICY).await?;
    admin.put_policy("admin", ADMIN_POLICY).await?;
    admin.call("POST", "sys/auth/userpass", json!({"type": "userpass"})).await?;
    let user = json!({"password": "pw", "token_policies": ["admin"]});
    admin.call("POST", "auth/userpass/users/admin", user).await?;
    Ok(())
}
