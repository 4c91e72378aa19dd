//! What a person and a program see of a long command.

use kms_testkit::servers::openbao::{OpenBao, OpenBaoConfig};
use kms_tests::{Kms, terminal::OnTerminal, vault_security};
use serde_json::{Value, json};

const KEYS: usize = 20;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Vault server: cargo xtask it migrate"]
async fn a_terminal_shows_a_bar_with_a_rate_and_other_readers_get_lines() {
    let server = OpenBao::start(OpenBaoConfig::default()).await.unwrap();
    let token = server.admin().rook_token().await.unwrap();
    for number in 0..KEYS {
        let kek = json!({"data": {format!("rook-ceph-osd-encryption-key-set1-data-{number}"): "QUJD"}});
        let path = format!("rookv2/data/rook-ceph-osd-encryption-key-set1-data-{number}");
        server.admin().call("POST", &path, kek).await.unwrap();
    }
    let kms = Kms::new().on_vault(&server, &token, "rookv2", &[]);
    let secrets =
        ["token.yaml", "ca.yaml"].map(|name| std::fs::read_to_string(kms.folder().join(name)).unwrap());
    let kms = Kms::new();
    for (file, mount) in [("from.yaml", "rookv2"), ("to.yaml", "rook")] {
        let settings =
            [("VAULT_ADDR", server.url()), ("VAULT_BACKEND_PATH", mount), ("VAULT_CACERT", "vault-ca")];
        kms.file(file, &format!("{}\n---\n{}\n---\n{}", vault_security(&settings), secrets[0], secrets[1]));
    }
    let copy = |journal: &'static str| {
        let line = ["migrate", "copy", "--from", "from.yaml", "--to", "to.yaml", "--jobs", "1", "--journal"];
        [&line[..], &[journal]].concat()
    };

    let mut command = kms.command(&copy("bar"));
    command.env("TERM", "xterm-256color").env("NO_COLOR", "1");
    let (code, stdout, shown) = OnTerminal::start(command).end();
    assert_eq!(code, 0, "{stdout}{shown}");
    assert!(shown.contains("keys [") && shown.contains("/20 ") && shown.contains("/s  "), "{shown}");
    assert!(shown.contains(" left") && !shown.contains("[20/20] keys"), "{shown}");
    // The bar moves the cursor, and has no colours.
    assert!(shown.contains("\u{1b}[") && !shown.contains('m'), "{shown:?}");
    assert!(stdout.contains("20") && !stdout.contains('\u{1b}'), "{stdout}");

    // A terminal that cannot move its cursor, and no terminal.
    let mut command = kms.command(&copy("dumb"));
    command.env("TERM", "dumb");
    let (_, _, shown) = OnTerminal::start(command).end();
    let lines: String = (2..=KEYS).step_by(2).map(|done| format!("[{done}/20] keys\n")).collect();
    assert_eq!(shown.replace('\r', ""), lines);
    let ran = kms.run(&copy("lines")).want(0);
    assert_eq!(ran.stderr, lines);
    let ran = kms.run(&[&["-q"], &copy("quiet")[..]].concat()).want(0);
    assert_eq!(ran.stderr, "");

    let mut command = kms.command(&[&["-o", "json"], &copy("json")[..]].concat());
    command.env("TERM", "xterm-256color");
    let (_, stdout, shown) = OnTerminal::start(command).end();
    assert_eq!(serde_json::from_str::<Value>(&stdout).unwrap()["keys"], KEYS);
    let documents: Vec<Value> = shown.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((documents.len(), &documents[9]["progress"]["done"]), (10, &json!(KEYS)));
}
