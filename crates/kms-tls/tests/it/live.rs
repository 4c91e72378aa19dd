//! Handshakes with Go's own library as the server: every case of `tests/go/tls`, with TLS 1.2 and 1.3.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, shows its figures, and takes what xtask hands over"
)]

use std::{
    io::{BufRead as _, BufReader, Read as _},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
};

use kms_core::Retry;
use kms_testkit::answers::Answers;
use kms_tls::{Identity, Roots, TlsOptions, fault::fault, pem::certificates};
use rustls::{ClientConnection, Stream};
use serde_json::Value;

const TABLE: &str = "../../tests/go/tls/cases.json";

/// Reasons for a refusal.
const SHORT_RSA: &str = "an RSA key of fewer than 2,048 bits";
const P224: &str = "the curve P-224, which no provider of rustls has";

/// What only a handshake shows: the beginning of a case's name, a part of our message, and the reason.
const STRICTER: [(&str, &str, &str); 9] = [
    ("weak/leaf-rsa1024", "RSA key of 1024 bits", SHORT_RSA),
    ("weak/ca-rsa1024", "RSA key of 1024 bits", SHORT_RSA),
    ("weak/leaf-p224", "P-224", P224),
    ("weak/ca-p224", "P-224", P224),
    ("client/", "the certificate has ", "a client certificate with a short RSA key or the curve P-224"),
    (
        "pinned/issued-",
        "exactly this certificate",
        "a CA as the server's certificate, which the settings do not name",
    ),
    ("date/since-1955", "before 1970", "a date before 1970"),
    (
        "limit/key-exchange/",
        "no cipher suite, key exchange",
        "a server that offers only a key exchange that rustls does not have",
    ),
    (
        "limit/suite/",
        "no cipher suite, key exchange",
        "a server that offers only CBC cipher suites with SHA-1",
    ),
];

/// Go's server; dropping it ends it.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Performs one handshake, and reads the server's answer.
fn connect(texts: &Value, case: &Value, port: u64) -> Result<(), String> {
    let text = |name: &str| {
        let at = case[name].as_u64().and_then(|at| usize::try_from(at).ok());
        at.and_then(|at| texts[at].as_str()).unwrap_or_default().as_bytes()
    };
    let words = |error: kms_core::Error| error.to_string();
    let mut options = TlsOptions::new();
    options.roots = Roots::Only(certificates(text("ca")).map_err(words)?);
    if case["client_chain"].is_u64() {
        options.identity = Some(Identity::from_pem(text("client_chain"), text("client_key")).map_err(words)?);
    }
    let tls = options.tls().map_err(words)?;
    let host = case["host"].as_str().unwrap().to_owned().try_into().unwrap();
    let mut session = ClientConnection::new(Arc::clone(&tls.config), host).unwrap();
    let mut connection = TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
    let mut answer = [0; 2];
    Stream::new(&mut session, &mut connection).read_exact(&mut answer).map_err(|cause| {
        match cause.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>()) {
            Some(tls_cause) => fault(tls_cause, &tls.handshakes, Retry::Never).to_string(),
            None => cause.to_string(),
        }
    })
}

#[test]
#[ignore = "needs Go's TLS server: cargo xtask it tls"]
fn what_a_go_client_can_talk_to_we_can_talk_to_but_for_the_list_of_the_decision() {
    let program = std::env::var_os("KMS_IT_GO_TLS").unwrap();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(TABLE);
    let table: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    let mut server = Server(
        Command::new(program)
            .arg("serve")
            .arg(&file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut line = String::new();
    BufReader::new(server.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let ports: Value = serde_json::from_str(&line).unwrap();
    let mut answers = Answers::default();
    let mut wrong = Vec::new();
    for (case, ports) in table["cases"].as_array().unwrap().iter().zip(ports.as_array().unwrap()) {
        let name = case["name"].as_str().unwrap();
        for (at, version) in ["TLS 1.2", "TLS 1.3"].into_iter().enumerate() {
            let go = case["go"][at].as_bool().unwrap();
            let ours = connect(&table["texts"], case, ports[at].as_u64().unwrap());
            let listed = STRICTER.iter().find(|(prefix, ..)| name.starts_with(prefix));
            let reason = listed.map_or("", |(.., reason)| reason);
            answers.add(go, ours.as_ref().copied().map_err(|_error| reason));
            if go
                && ours
                    .as_ref()
                    .is_err_and(|error| !listed.is_some_and(|(_, words, _)| error.contains(words)))
            {
                wrong.push(format!("{name}, {version}: {ours:?}"));
            }
            println!("{name}, {version}: {ours:?}; Go: {go} {}", case["why"]);
        }
    }
    println!("{answers:?}");
    assert!(wrong.is_empty(), "{} handshakes:\n{}", wrong.len(), wrong.join("\n"));
    answers.check("tls/handshakes.json");
}
