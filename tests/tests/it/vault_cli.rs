//! Runs the program on a real OpenBao, as a user does: layout, files, exit codes, requests, and secrets that it must
//! not print.
use std::os::unix::fs::PermissionsExt;

use kms_conformance::leak::Canary;
use kms_testkit::servers::openbao::{OpenBao, OpenBaoConfig, TokenSpec};
use kms_tests::{Kms, secret};
use serde_json::{Value, json};

const NAME: &str = "set1-data-0x7dwl";
const ID: &str = "rook-ceph-osd-encryption-key-set1-data-0x7dwl";

async fn server() -> OpenBao {
    OpenBao::start(OpenBaoConfig::default()).await.unwrap()
}

fn kms(server: &OpenBao, token: &str, mount: &str, settings: &[(&str, &str)]) -> Kms {
    Kms::new().on_vault(server, &format!("{token}\n"), mount, settings)
}

#[tokio::test]
#[ignore = "needs a Vault server: cargo xtask it vault"]
async fn the_main_job_works_on_both_versions_of_kv() {
    let server = server().await;
    let token = server.admin().rook_token().await.unwrap();
    for (mount, path) in [("rook", format!("rook/{ID}")), ("rookv2", format!("rookv2/data/{ID}"))] {
        let kms = kms(&server, &token, mount, &[]);
        let _ = kms.run(&["check"]).want(0);
        let place = format!("OpenBao (VAULT_ADDR {}, VAULT_BACKEND_PATH {mount})", server.url());
        let empty = kms.run(&["list"]).want(0);
        assert!(empty.stderr.contains(&format!("{place} has none")), "{}", empty.stderr);
        for args in [&["get", NAME][..], &["delete", NAME, "--destroy"], &["verify", NAME, "/dev/null"]] {
            let absent = kms.run(args).want(3).stderr;
            let located = absent.contains("looked in: ") && absent.contains(&place);
            assert!(located && absent.contains("there is no such key"), "{args:?}: {absent}");
        }
        let created = kms.run(&["create", NAME]).want(0);
        let found = server.admin().call("GET", &path, Value::Null).await.unwrap();
        let data = if mount == "rook" { &found["data"] } else { &found["data"]["data"] };
        let kek = data[ID].as_str().unwrap().to_owned();
        assert_eq!((kek.len(), data.as_object().unwrap().len()), (172, 1), "Rook's layout");
        assert!(!created.text().contains(&kek[..16]), "create prints no key");
        assert_eq!(kms.run(&["get", NAME]).want(0).stdout, kek, "byte for byte, no line break");

        assert_eq!(kms.run(&["-o", "json", "get", NAME]).want(0).json()["kek"], kek.as_str());

        let refused = kms.run(&["create", NAME]).want(1);
        let said = ["the key exists", "to do: keep it with --if-absent"];
        assert!(said.iter().all(|said| refused.stderr.contains(said)), "{}", refused.stderr);
        let _ = kms.run(&["create", NAME, "--if-absent"]).want(0);
        assert_eq!(kms.run(&["get", NAME]).want(0).stdout, kek, "--if-absent changed nothing");

        for _ in 0..2 {
            let _ = kms.run(&["get", NAME, "KEY"]).want(0);
            let file = kms.folder().join("KEY");
            assert_eq!(std::fs::read_to_string(&file).unwrap(), kek);
            assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o400);
        }
        let _ = kms.run_with(&["put", NAME, "--from", "-"], "another-key").want(1);
        let _ = kms.run_with(&["put", NAME, "--from", "-", "--replace"], "another-key").want(0);
        assert_eq!(kms.run(&["get", NAME]).want(0).stdout, "another-key");
        let _ = kms.run_with(&["put", "other", "--from", "-"], "with-newline\n").want(2);

        let listed = kms.run(&["-o", "json", "list"]).want(0);
        assert!(listed.stdout.contains(NAME) && !listed.stdout.contains("another-key"), "{}", listed.stdout);
        if mount == "rook" {
            let refused = kms.run(&["delete", NAME]).want(2);
            assert!(refused.stderr.contains("--destroy"), "KV v1 cannot undo it: {}", refused.stderr);
            let _ = kms.run(&["undelete", NAME]).want(2);
        } else {
            let deleted = kms.run(&["-o", "json", "delete", NAME]).want(0).json();
            assert_eq!(deleted["outcome"], "recoverable");
            let undo = deleted["undo"].as_str().unwrap().strip_prefix("kms ").unwrap();
            let _ = kms.run(&["get", NAME]).want(3);
            let _ = kms.run(&undo.split(' ').collect::<Vec<_>>()).want(0);
            let refused = kms.run(&["undelete", NAME]).want(1).stderr;
            assert!(refused.contains("it is not deleted") && !refused.contains("compared"), "{refused}");
        }
        assert_eq!(kms.run(&["get", NAME]).want(0).stdout, "another-key", "nothing is lost");
        let _ = kms.run(&["delete", NAME, "--destroy"]).want(0);
        let _ = kms.run(&["delete", NAME, "--destroy"]).want(3);
        let _ = kms.run(&["delete", NAME, "--destroy", "--ignore-not-found"]).want(0);
        let _ = kms.run(&["undelete", NAME]).want(if mount == "rook" { 2 } else { 3 });
        assert_eq!(server.admin().request("GET", &path, Value::Null).await.unwrap().status, 404);
        let left: Vec<_> =
            std::fs::read_dir(kms.folder()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left.len(), 4, "three documents and KEY: {left:?}");
    }
}

#[tokio::test]
#[ignore = "needs a Vault server: cargo xtask it vault"]
async fn a_run_is_one_request_and_at_most_one_look_at_the_mount() {
    let server = server().await;
    let token = server.admin().rook_token().await.unwrap();
    let mut requests = server.requests().unwrap();
    for (mount, version) in [("rook", "v1"), ("rookv2", "v2")] {
        let data = if mount == "rook" { format!("rook/{ID}") } else { format!("rookv2/data/{ID}") };
        let detecting = kms(&server, &token, mount, &[]);
        requests.forget().unwrap();
        let _ = detecting.run(&["create", NAME]).want(0);
        let creates = if version == "v1" { 2 } else { 1 };
        assert_eq!(requests.all().unwrap().len(), creates + 1, "{:?}", requests.table());
        requests.forget().unwrap();
        let _ = detecting.run(&["get", NAME]).want(0);
        assert_eq!(requests.all().unwrap().len(), 2, "{:?}", requests.table());
        let told = kms(&server, &token, mount, &[("VAULT_BACKEND", version)]);
        requests.forget().unwrap();
        let _ = told.run(&["create", "another"]).want(0);
        // Even if `VAULT_BACKEND` says v2, kms looks up the mount before the first write: on a v1 mount the
        // write could destroy data.
        assert_eq!(requests.all().unwrap().len(), 2, "{:?}", requests.table());
        requests.forget().unwrap();
        let _ = told.run(&["get", NAME]).want(0);
        assert_eq!(
            requests.table().unwrap().into_iter().collect::<Vec<_>>(),
            [(("read".to_owned(), data), 1)]
        );
    }
}

#[tokio::test]
#[ignore = "needs a Vault server: cargo xtask it vault"]
async fn exit_codes_tell_what_to_do() {
    let server = server().await;
    let token = server.admin().rook_token().await.unwrap();
    let _ = kms(&server, &token, "nosuch", &[]).run(&["get", NAME]).want(2);
    let _ = kms(&server, "s.wrong-token", "rook", &[]).run(&["get", NAME]).want(4);
    let wrong = kms(&server, &token, "rook", &[("VAULT_ADRR", "x"), ("VAULT_SKIP_VERIFY", "maybe")]);
    let ran = wrong.run(&["get", NAME]).want(2);
    assert!(
        ran.stderr.contains("did you mean VAULT_ADDR?") && ran.stderr.contains("VAULT_SKIP_VERIFY"),
        "{}",
        ran.stderr
    );
    let away = kms(&server, &token, "rook", &[("VAULT_ADDR", "https://127.0.0.1:9")]);
    let ran = away.run(&["--timeout", "1s", "get", NAME]).want(5);
    assert!(ran.stderr.contains("refused"), "{}", ran.stderr);
    let ran = kms(&server, &token, "rook", &[("VAULT_CACERT", "nosuch")]).run(&["get", NAME]).want(2);
    assert!(ran.stderr.contains("nosuch"), "{}", ran.stderr);
    let json = away.run(&["-o", "json", "--timeout", "1s", "get", NAME]).want(5);
    let error: Value = serde_json::from_str(json.stderr.trim()).unwrap();
    assert_eq!(error["error"]["kind"], "unavailable");
}

#[tokio::test]
#[ignore = "needs a Vault server: cargo xtask it vault"]
async fn the_environment_of_a_rook_pod_is_enough() {
    let server = server().await;
    let token = server.admin().rook_token().await.unwrap();
    let ca = Kms::new().file("vault.ca", &server.pki().ca.cert);
    let folder = tempfile::tempdir().unwrap();
    let ca_file = folder.path().join("vault.ca");
    std::fs::write(&ca_file, &server.pki().ca.cert).unwrap();
    drop(ca);
    let pod = Kms::new()
        .env("KMS_PROVIDER", "vault")
        .env("VAULT_ADDR", server.url())
        .env("VAULT_BACKEND", "v1")
        .env("VAULT_BACKEND_PATH", "rook")
        .env("VAULT_SECRET_ENGINE", "kv")
        .env("VAULT_AUTH_METHOD", "token")
        .env("VAULT_CACERT", &ca_file.display().to_string())
        .env("VAULT_TOKEN", &token)
        .env("VAULT_PORT", "tcp://10.0.0.1:8200")
        .env("VAULT_SERVICE_HOST", "10.0.0.1");
    server.admin().call("PUT", &format!("rook/{ID}"), json!({ID: "QUJD"})).await.unwrap();
    assert_eq!(pod.run(&["get", NAME]).want(0).stdout, "QUJD");
    let _ = pod.run(&["create", "from-a-pod"]).want(0);
}

#[tokio::test]
#[ignore = "needs a Vault server: cargo xtask it vault"]
async fn nothing_secret_is_printed_at_any_level_on_any_path() {
    let server = server().await;
    let token = server.admin().rook_token().await.unwrap();
    let kek = "canary-kek-Zm9vYmFyYmF6cXV4cXV1eGNvcmdl";
    let reader = TokenSpec { policies: &["default"], ..TokenSpec::default() };
    let poor = server.admin().create_token(reader).await.unwrap();
    let canaries = [Canary::new("KEK", kek), Canary::new("token", &token), Canary::new("poor token", &poor)];
    for mount in ["rook", "rookv2"] {
        for format in ["text", "json"] {
            let good = kms(&server, &token, mount, &[]).env("RUST_LOG", "trace").global(&["-o", format]);
            let bad = kms(&server, &poor, mount, &[]).env("RUST_LOG", "trace").global(&["-o", format]);
            let away = kms(&server, &token, mount, &[("VAULT_ADDR", "https://127.0.0.1:9")])
                .env("RUST_LOG", "trace")
                .global(&["-o", format, "--timeout", "300ms"]);
            let mut printed = vec![
                good.run_with(&["put", NAME, "--from", "-"], kek).want(0).text(),
                good.run_with(&["put", NAME, "--from", "-"], kek).want(1).text(),
                good.run_with(&["put", NAME, "--from", "-", "--replace"], kek).want(0).text(),
                good.run(&["get", NAME, "KEY"]).want(0).text(),
                good.run(&["get", NAME]).want(0).stderr,
                good.run(&["create", NAME]).want(1).text(),
                good.run(&["create", NAME, "--if-absent"]).want(0).text(),
                good.run(&["list"]).want(0).text(),
                good.run(&["check"]).want(0).text(),
                bad.run(&["get", NAME]).want(4).text(),
                bad.run(&["check"]).want(4).text(),
                bad.run_with(&["put", NAME, "--from", "-"], kek).want(4).text(),
                away.run_with(&["put", NAME, "--from", "-"], kek).want(5).text(),
                good.run(&["delete", NAME, "--destroy"]).want(0).text(),
            ];
            assert!(
                printed.iter().any(|text| text.contains("TRACE") || text.contains("DEBUG")),
                "it does log"
            );
            printed.retain(|text| !text.is_empty());
            for text in printed {
                for canary in &canaries {
                    assert_eq!(canary.found_in(&text), None, "{text}");
                }
            }
        }
    }
}

#[tokio::test]
#[ignore = "needs a Vault server: cargo xtask it vault"]
async fn the_process_holds_no_secret_in_its_arguments_and_dumps_no_core() {
    let server = server().await;
    let relay = server.relay().await.unwrap();
    let token = server.admin().rook_token().await.unwrap();
    let kms = kms(&server, &token, "rook", &[("VAULT_ADDR", &relay.url())]);
    relay.freeze(true);
    let mut child = kms.command(&["--timeout", "60s", "get", NAME]).spawn().unwrap();
    // The server has accepted its first connection, so the program is set up and waits for a response.
    while relay.accepted() == 0 {
        tokio::task::yield_now().await;
    }
    let proc = format!("/proc/{}", child.id());
    let arguments = std::fs::read_to_string(format!("{proc}/cmdline")).unwrap();
    assert!(!arguments.contains(&token));
    let limits = std::fs::read_to_string(format!("{proc}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test]
#[ignore = "needs a Vault server: cargo xtask it vault"]
async fn a_check_explains_each_layer_that_is_broken() {
    let server = OpenBao::start(OpenBaoConfig::mutual_tls()).await.unwrap();
    let token = server.admin().rook_token().await.unwrap();
    let (cert, key) = (&server.pki().client1.cert, &server.pki().client1.key);
    let with_client = |settings: &[(&str, &str)]| {
        let mut all = vec![("VAULT_CLIENT_CERT", "client"), ("VAULT_CLIENT_KEY", "client")];
        all.extend(settings.iter().copied());
        kms(&server, &token, "rook", &all)
            .document("client.yaml", &secret("client", &[("cert", cert), ("key", key)]))
    };
    let good = with_client(&[]).run(&["-o", "json", "check"]).want(0);
    assert!(good.stdout.contains("2.7.2"), "{}", good.stdout);
    for (settings, code, said) in [
        (vec![("VAULT_ADDR", "https://nosuch.invalid:8200")], 5, "could not be resolved"),
        (vec![("VAULT_ADDR", "https://127.0.0.1:9")], 5, "refused"),
        (vec![("VAULT_TLS_SERVER_NAME", "other.example")], 2, "other names"),
        (vec![("VAULT_BACKEND_PATH", "nosuch")], 2, "no mount at VAULT_BACKEND_PATH"),
    ] {
        let ran = with_client(&settings).run(&["--timeout", "2s", "check"]).want(code);
        assert!(ran.text().contains(said), "{said:?} is not in {}", ran.text());
    }
    server.seal().await.unwrap();
    let ran = with_client(&[]).run(&["--timeout", "2s", "check", "--read-only"]).want(5);
    assert!(ran.text().contains("sealed"), "{}", ran.text());
}

#[tokio::test]
#[ignore = "needs a Vault server: cargo xtask it vault"]
async fn the_tab_key_offers_the_names_of_the_keys() {
    let server = server().await;
    let token = server.admin().rook_token().await.unwrap();
    let kms = kms(&server, &token, "rook", &[]);
    for name in [NAME, "set2-data-1"] {
        let _ = kms.run(&["create", name]).want(0);
    }
    let offered = |typed: &str| {
        let line = kms.command(&["get", typed]);
        let mut asked = std::process::Command::new(line.get_program());
        asked.args(["--", "kms"]).args(line.get_args()).current_dir(kms.folder());
        asked.env_clear().env("KMS_COMPLETE", "fish");
        let ran = asked.output().unwrap();
        String::from_utf8(ran.stdout).unwrap()
    };
    assert_eq!(offered("set1"), format!("{NAME}\n"));
    assert!(offered("").contains("set2-data-1"));
    assert_eq!(offered("x"), "");
}
