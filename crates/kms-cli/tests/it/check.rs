//! Runs `kms check` against servers whose handshakes fail, through a proxy, and against the API server of a cluster.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    thread,
};

use futures_util::future::join_all;
use kms_testkit::{
    fake::http::{HttpServer, Request, Response},
    servers::pki::{Identity, Pki},
};
use serde_json::{Value, json};

/// The client under test.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kms {
    Vault,
    Kmip,
    Kubernetes,
}

/// What the server does with a handshake.
#[derive(Clone, Copy)]
enum Handshake {
    /// It sends a fatal alert (RFC 8446 §6).
    Alert(u8),
    /// It shows a certificate.
    Shows(fn(&Pki) -> &Identity),
    /// It shows the usual certificate, and the client expects another name.
    OtherName,
}

/// The time limit of a run that tries again until its time is over. A try takes some milliseconds; a machine that does
/// much else needs the rest.
const UNTIL_IT_FAILS: &str = "4s";

const HANDSHAKE_FAILURE: u8 = 40;
const PROTOCOL_VERSION: u8 = 70;

/// The exit code, the steps, and everything that was printed.
struct Checked {
    code: i32,
    steps: Vec<Value>,
    text: String,
}

impl Checked {
    /// The states and the texts of a step, in order.
    fn step(&self, name: &str) -> Vec<(&str, &str)> {
        let of_step = self.steps.iter().filter(|step| step["step"] == name);
        let both = of_step.map(|step| {
            let text = |field| step.pointer(field).and_then(Value::as_str);
            let said = text("/found").or_else(|| text("/error/message"));
            (step["state"].as_str().unwrap_or_default(), said.unwrap_or_default())
        });
        both.collect()
    }
}

/// Runs `kms -o json check --read-only` in a folder.
async fn check(folder: &Path, args: &[&str], environment: &[(&str, &str)]) -> Checked {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kms"));
    command
        .args(["--allow-http", "--timeout", "5s", "-o", "json", "check", "--read-only"])
        .args(args)
        .env_clear()
        .envs(environment.iter().copied())
        .current_dir(folder)
        .stdin(Stdio::null());
    // The server may run on this thread.
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let text = text(&output.stdout) + &text(&output.stderr);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let steps = document.pointer("/steps").and_then(Value::as_array).cloned().unwrap_or_default();
    Checked { code: output.status.code().unwrap(), steps, text }
}

/// Writes the settings of a client for a server, and returns the arguments that name them.
fn write(folder: &Path, kms: Kms, pki: &Pki, server: &str, name: &str) -> Vec<&'static str> {
    let ca = folder.join("ca.pem");
    fs::write(&ca, &pki.ca.cert).unwrap();
    let ca = ca.to_str().unwrap();
    let (details, secret) = match kms {
        Kms::Vault => (
            json!({"KMS_PROVIDER": "vault", "VAULT_ADDR": format!("https://{server}"), "VAULT_CACERT": ca,
                "VAULT_TLS_SERVER_NAME": name}),
            json!({"token": "t"}),
        ),
        Kms::Kmip => (
            json!({"KMS_PROVIDER": "kmip", "KMIP_ENDPOINT": server, "TLS_SERVER_NAME": name}),
            json!({"CA_CERT": pki.ca.cert, "CLIENT_CERT": pki.client1.cert, "CLIENT_KEY": pki.client1.key}),
        ),
        Kms::Kubernetes => (json!({}), json!({})),
    };
    let kms_block = match kms {
        Kms::Kubernetes => json!({}),
        _ => json!({"connectionDetails": details, "tokenSecretName": "token"}),
    };
    let cluster = json!({
        "kind": "CephCluster",
        "metadata": {"name": "my", "namespace": "rook-ceph"},
        "spec": {"security": {"kms": kms_block}},
    });
    let secret = json!({"kind": "Secret", "metadata": {"name": "token"}, "stringData": secret});
    fs::write(folder.join("a.yaml"), format!("{cluster}\n---\n{secret}\n")).unwrap();
    let config = json!({
        "clusters": [{"name": "c", "cluster": {
            "server": format!("https://{server}"), "certificate-authority": ca, "tls-server-name": name,
        }}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    });
    fs::write(folder.join("kubeconfig"), config.to_string()).unwrap();
    match kms {
        Kms::Kubernetes => vec!["-f", "a.yaml", "--kubeconfig", "kubeconfig"],
        _ => vec!["-f", "a.yaml"],
    }
}

/// Starts a server that answers each handshake with an alert.
fn alerting(alert: u8) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let answer = |mut stream: TcpStream| -> io::Result<()> {
                // A connection that is closed before its input is read takes the alert with it.
                let mut header = [0; 5];
                stream.read_exact(&mut header)?;
                let mut hello = vec![0; usize::from(u16::from_be_bytes([header[3], header[4]]))];
                stream.read_exact(&mut hello)?;
                stream.write_all(&[21, 3, 3, 0, 2, 2, alert])
            };
            let _ended = stream.and_then(answer);
        }
    });
    address
}

#[tokio::test]
async fn each_failed_handshake_is_the_step_tls_with_its_own_message_and_exit_code() {
    let pki = Pki::new().unwrap();
    for kms in [Kms::Vault, Kms::Kmip, Kms::Kubernetes] {
        for (handshake, said, code) in [
            (Handshake::Alert(HANDSHAKE_FAILURE), "no cipher suite, key exchange or signature in common", 1),
            (Handshake::Alert(PROTOCOL_VERSION), "it supports no version of TLS that we do", 1),
            (
                Handshake::Shows(|pki| &pki.expired_server),
                "ended on 2021-01-01T00:00:00Z (the clock of this host",
                2,
            ),
            (Handshake::Shows(|pki| &pki.bad_server), "is issued by \"CN=Bad CA,O=test\"", 2),
            (Handshake::OtherName, "it is for other names: localhost", 2),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let name = if matches!(handshake, Handshake::OtherName) { "other.example" } else { "localhost" };
            let shown = match handshake {
                Handshake::Shows(shown) => shown(&pki),
                _ => &pki.server,
            };
            let server = HttpServer::start_tls(shown, None, |_| Response::status(500)).await.unwrap();
            let address = match handshake {
                Handshake::Alert(alert) => alerting(alert),
                _ => server.address(),
            };
            let args = write(folder.path(), kms, &pki, &address.to_string(), name);
            let checked = check(folder.path(), &args, &[]).await;
            let case = format!("{kms:?}: {said}: {}", checked.text);
            assert_eq!(
                checked.step("tcp"),
                [("passed", format!("connected to {address}").as_str())],
                "{case}"
            );
            let [(state, message)] = checked.step("tls")[..] else { panic!("{case}") };
            assert!(state == "failed" && message.contains(said), "{case}");
            assert_eq!(checked.code, code, "{case}");
            // Nothing else is tried.
            assert_eq!(checked.steps.iter().filter(|step| step["state"] == "failed").count(), 1, "{case}");
            assert!(server.requests().is_empty(), "{case}");
        }
    }
}

#[tokio::test]
async fn a_name_and_a_port_that_lead_nowhere_have_steps_of_their_own() {
    let pki = Pki::new().unwrap();
    let cases = [Kms::Vault, Kms::Kmip, Kms::Kubernetes].into_iter().flat_map(|kms| {
        [("nosuch.invalid:1", "dns", &["tcp", "tls"][..]), ("127.0.0.1:1", "tcp", &["tls"])]
            .map(|(server, step, not_run)| (kms, server, step, not_run))
    });
    // Side by side: each is tried again until its time is over.
    let cases = cases.map(async |(kms, server, step, not_run)| {
        let folder = tempfile::tempdir().unwrap();
        // With a TLS server name, the Vault client needs the addresses of the host from the beginning.
        let mut args = write(folder.path(), kms, &pki, server, "");
        args.extend(["--timeout", UNTIL_IT_FAILS]);
        let checked = check(folder.path(), &args, &[]).await;
        let case = format!("{kms:?} at {server}: {}", checked.text);
        assert_eq!(checked.code, 5, "{case}");
        let [(state, message)] = checked.step(step)[..] else { panic!("{case}") };
        assert!(state == "failed" && message.contains("to do: check "), "{case}");
        for step in not_run {
            assert_eq!(checked.step(step), [("not-run", "")], "{case}");
        }
    });
    join_all(cases).await;
}

#[tokio::test]
async fn the_step_tls_shows_what_the_server_presented_and_how_it_was_verified() {
    let pki = Pki::new().unwrap();
    let vault = |request: &Request| match request.path.as_str() {
        "/v1/sys/health" => Response::json(200, r#"{"initialized":true,"version":"1.0"}"#),
        _ => Response::json(403, r#"{"errors":["permission denied"]}"#),
    };
    let server = HttpServer::start_tls(&pki.server, None, vault).await.unwrap();
    for (trusted, how) in
        [(&pki.ca.cert, "verified with VAULT_CACERT"), (&pki.server.cert, "pinned by VAULT_CACERT")]
    {
        let folder = tempfile::tempdir().unwrap();
        let args = write(folder.path(), Kms::Vault, &pki, &server.address().to_string(), "localhost");
        fs::write(folder.path().join("ca.pem"), trusted).unwrap();
        let checked = check(folder.path(), &args, &[]).await;
        let found = format!("{:?}", checked.step("tls"));
        for part in [
            "TLS 1.3, TLS13_AES_",
            "key exchange X25519MLKEM768 (post-quantum), by AWS-LC ",
            r#"issued by \"CN=Test CA,O=test\", for localhost, *.vault.test, 127.0.0.1"#,
            "valid from 2020-01-01T00:00:00Z to 2120-01-01T00:00:00Z",
            how,
        ] {
            assert!(found.contains(part), "{part}: {found}");
        }
        // The token is refused, and its Secret is named.
        assert_eq!(checked.code, 4, "{}", checked.text);
        let [(state, message)] = checked.step("login")[..] else { panic!("{}", checked.text) };
        assert!(
            state == "failed" && message.contains("tokenSecretName: Secret rook-ceph/token"),
            "{message}"
        );
    }
}

#[tokio::test]
async fn in_a_pod_the_credentials_are_those_of_its_environment() {
    let server = HttpServer::start(|request: &Request| match request.path.as_str() {
        "/v1/sys/health" => Response::json(200, r#"{"initialized":true,"version":"1.0"}"#),
        _ => Response::json(403, r#"{"errors":["permission denied"]}"#),
    });
    let server = server.await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let url = server.url();
    let env = [("KMS_PROVIDER", "vault"), ("VAULT_ADDR", url.as_str()), ("VAULT_TOKEN", "canary")];
    let checked = check(folder.path(), &[], &env).await;
    let [(state, message)] = checked.step("login")[..] else { panic!("{}", checked.text) };
    let place = "credentials: in the environment of this process";
    assert!(state == "failed" && message.contains(place), "{message}");
    // The name of the Secret that stands for the environment is no object that can be looked up.
    assert!(!checked.text.contains("pod-environment"), "{}", checked.text);
}

/// Starts a proxy that sends every tunnel to `server`, or refuses with a status. Returns its address.
fn proxy(server: SocketAddr, status: u16) -> SocketAddr {
    counting_proxy(server, status, Arc::default())
}

/// The same, which counts what it is asked for.
fn counting_proxy(server: SocketAddr, status: u16, asked: Arc<AtomicU32>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let asked = Arc::clone(&asked);
            let serve = move |mut stream: TcpStream| -> io::Result<()> {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte)?;
                    head.push(byte[0]);
                }
                asked.fetch_add(1, Relaxed);
                let head = String::from_utf8_lossy(&head).into_owned();
                let is_known =
                    head.to_ascii_lowercase().contains("proxy-authorization: basic dxnlcjpwyub3b3jk");
                let status = if is_known { status } else { 407 };
                stream.write_all(format!("HTTP/1.1 {status} x\r\n\r\n").as_bytes())?;
                if status != 200 || !head.starts_with("CONNECT a.vault.test:8200 ") {
                    // A close with a body that was not read is a reset.
                    stream.shutdown(Shutdown::Write)?;
                    return io::copy(&mut stream, &mut io::sink()).map(drop);
                }
                let upstream = TcpStream::connect(server)?;
                let (mut from, mut to) = (stream.try_clone()?, upstream.try_clone()?);
                thread::spawn(move || io::copy(&mut from, &mut to));
                io::copy(&mut &upstream, &mut stream).map(drop)
            };
            thread::spawn(move || stream.and_then(serve));
        }
    });
    address
}

#[tokio::test]
async fn through_a_proxy_the_steps_say_so_and_the_handshake_is_with_the_server() {
    let pki = Pki::new().unwrap();
    // What follows the handshake is refused for good, so that it is not tried again.
    let server = HttpServer::start_tls(&pki.server, None, |_| Response::json(403, "{}")).await.unwrap();
    for kms in [Kms::Vault, Kms::Kubernetes] {
        for (user, status, said) in [
            ("user:pa%40word@", 200, "the proxy connects to a.vault.test:8200"),
            ("user:pa%40word@", 502, "the proxy does not connect to a.vault.test:8200: HTTP status 502"),
            ("user:other@", 200, "HTTP status 407"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let mut args = write(folder.path(), kms, &pki, "a.vault.test:8200", "");
            args.extend(["--timeout", UNTIL_IT_FAILS]);
            let proxy = proxy(server.address(), status);
            let url = format!("http://{user}{proxy}");
            let checked = check(folder.path(), &args, &[("HTTPS_PROXY", &url)]).await;
            let case = format!("{kms:?}: {said}: {}", checked.text);
            assert_eq!(
                checked.step("dns"),
                [("passed", "the proxy 127.0.0.1 is an address: no name is looked up")],
                "{case}"
            );
            let tcp = checked.step("tcp");
            assert_eq!(tcp[0], ("passed", format!("connected to the proxy {proxy}").as_str()), "{case}");
            assert!(tcp[1].1.contains(said), "{case}");
            let passes = status == 200 && !user.contains("other");
            assert_eq!(tcp[1].0 == "passed", passes, "{case}");
            let tls = format!("{:?}", checked.step("tls"));
            assert_eq!(tls.contains("certificate \\\"CN=localhost\\\""), passes, "{case}");
            assert!(!checked.text.contains("word") && !checked.text.contains("other@"), "{case}");
        }
    }
}

#[tokio::test]
async fn a_proxy_that_asks_for_credentials_without_a_tunnel_is_named_and_no_credential_of_the_kms_is() {
    let vault =
        [("KMS_PROVIDER", "vault"), ("VAULT_ADDR", "http://vault.test:8200"), ("VAULT_TOKEN", "canary")];
    let ibm = [
        ("KMS_PROVIDER", "ibmkeyprotect"),
        ("IBM_KP_BASE_URL", "http://kp.test"),
        ("IBM_KP_TOKEN_URL", "http://iam.test/identity/token"),
        ("IBM_KP_SERVICE_INSTANCE_ID", "11111111-2222-3333-4444-555555555555"),
        ("IBM_KP_SERVICE_API_KEY", "canary"),
    ];
    let url = format!("http://user:other@{}", proxy(SocketAddr::from(([127, 0, 0, 1], 9)), 200));
    for settings in [&vault[..], &ibm] {
        let folder = tempfile::tempdir().unwrap();
        let checked = check(folder.path(), &[], &[settings, &[("HTTP_PROXY", &url)]].concat()).await;
        let failed: Vec<_> = checked.steps.iter().filter(|step| step["state"] == "failed").collect();
        let [failed] = failed[..] else { panic!("{}", checked.text) };
        let message = failed.pointer("/error/message").and_then(Value::as_str).unwrap();
        let said = "the proxy asks for credentials, or for others than ours (HTTP status 407): set them in HTTP_PROXY";
        assert!(message.contains(said), "{}", checked.text);
        assert_eq!(checked.code, 5, "the proxy is not the KMS: {}", checked.text);
        assert!(!checked.text.contains("other@") && !checked.text.contains("canary"), "{}", checked.text);
    }
}

#[tokio::test]
async fn a_proxy_that_asks_for_credentials_before_a_tunnel_is_named_and_asked_once() {
    let pki = Pki::new().unwrap();
    for (kms, said) in [
        (Kms::Vault, "set them in HTTPS_PROXY, as http://"),
        (Kms::Kubernetes, "set them in HTTPS_PROXY, or in proxy-url of the kubeconfig, as http://"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let args = write(folder.path(), kms, &pki, "a.vault.test:8200", "");
        let asked = Arc::default();
        let proxy = counting_proxy(SocketAddr::from(([127, 0, 0, 1], 9)), 200, Arc::clone(&asked));
        let mut command = Command::new(env!("CARGO_BIN_EXE_kms"));
        command.args(args).args(["get", "a", "--timeout", UNTIL_IT_FAILS]).current_dir(&folder);
        command.env_clear().env("HTTPS_PROXY", format!("http://user:other@{proxy}"));
        let output = command.stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        let said =
            format!("the proxy asks for credentials, or for others than ours (HTTP status 407): {said}");
        assert!(text.contains(&said) && !text.contains("other@"), "{text}");
        assert_eq!((output.status.code(), asked.load(Relaxed)), (Some(5), 1), "{text}");
    }
}

/// The API server of a cluster with one encrypted OSD, and the Pod Security level of its namespace.
async fn cluster(has_key: bool, has_job: bool, level: &'static str) -> (HttpServer, String) {
    let fixture = include_str!("../../../kms-rook/tests/fixtures/rook/default/osd-deployment.json");
    let deployment: Value = serde_json::from_str(fixture).unwrap();
    let key = deployment.pointer("/metadata/labels/ceph.rook.io~1pvc").unwrap().as_str().unwrap().to_owned();
    let secret = json!({
        "metadata": {
            "name": format!("rook-ceph-osd-encryption-key-{key}"), "namespace": "rook-ceph", "uid": "1",
            "resourceVersion": "1", "labels": {"pvc_name": key},
        },
        "type": "kubernetes.io/rook", "data": {"dmcrypt-key": "a2V5"},
    });
    let job = json!({
        "metadata": {"name": "rook-ceph-osd-key-rotation-0", "labels": {"app": "rook-ceph-osd-key-rotation"}},
        "spec": {"schedule": "@weekly", "jobTemplate": {"spec": {"template": {"spec": {"containers": [
            {"name": "a", "args": ["key-management", "rotate-key", key]}
        ]}}}}},
    });
    let list = |items: &[&Value]| Response::json(200, json!({"metadata": {}, "items": items}).to_string());
    let object = |object: Value| Response::json(200, object.to_string());
    let name = key.clone();
    let server = HttpServer::start(move |request| match request.path.split('?').next().unwrap_or_default() {
        path if path.contains("/cephclusters/") => object(json!({
            "metadata": {"name": "my", "namespace": "rook-ceph", "uid": "1"},
            "spec": {"security": {"keyRotation": {"enabled": true, "schedule": "@weekly"}}},
        })),
        "/version" => object(json!({"gitVersion": "v1.36.0"})),
        path if path.ends_with("/selfsubjectreviews") => {
            object(json!({"status": {"userInfo": {"username": "tester"}}, "metadata": {}}))
        }
        path if path.ends_with("/selfsubjectaccessreviews") => {
            object(json!({"spec": {}, "status": {"allowed": true}, "metadata": {}}))
        }
        path if path.ends_with("/deployments") => list(&[&deployment]),
        path if path.ends_with("/cronjobs") && has_job => list(&[&job]),
        path if path.ends_with("/secrets") && has_key => list(&[&secret]),
        "/api/v1/namespaces/rook-ceph" => object(json!({
            "metadata": {"name": "rook-ceph", "labels": {"pod-security.kubernetes.io/enforce": level}},
        })),
        _ => list(&[]),
    })
    .await
    .unwrap();
    (server, name)
}

#[tokio::test]
async fn what_the_first_week_lacks_is_a_warning_and_with_strict_the_exit_code() {
    for (has_key, has_job, level) in [
        (true, true, "privileged"),
        (false, true, "privileged"),
        (true, false, "privileged"),
        (true, true, "restricted"),
    ] {
        let (server, key) = cluster(has_key, has_job, level).await;
        let folder = tempfile::tempdir().unwrap();
        let config = json!({
            "clusters": [{"name": "c", "cluster": {"server": server.url()}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        });
        fs::write(folder.path().join("kubeconfig"), config.to_string()).unwrap();
        let args = ["--kubeconfig", "kubeconfig", "--cluster", "rook-ceph/my"];
        let is_good = has_key && has_job && level == "privileged";
        for (strict, code) in [(false, 0), (true, i32::from(!is_good))] {
            let args = [&args[..], if strict { &["--strict"] } else { &[] }].concat();
            let checked = check(folder.path(), &args, &[]).await;
            assert_eq!(checked.code, code, "{}", checked.text);
            let warns = |step: &str, said: &str| {
                let found = checked.step(step);
                found.iter().any(|(state, text)| *state == "warning" && text.contains(said))
            };
            let named = format!("{key} (OSD 0)");
            assert_eq!(
                warns("osds", &format!("no key in the KMS for {named}")),
                !has_key,
                "{}",
                checked.text
            );
            assert_eq!(
                warns("rotation", &format!("no CronJob rotates the key of {named}")),
                !has_job,
                "{}",
                checked.text
            );
            assert_eq!(
                warns("pod security", "enforces the Pod Security Standard \"restricted\""),
                level == "restricted"
            );
            assert_eq!(checked.text.contains("\"warning\""), !is_good, "{}", checked.text);
        }
    }
}
