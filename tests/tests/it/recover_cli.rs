//! Recovers a real LUKS image with the program and a real OpenBao, after an unrelated KEK was stored over the right one.

use kms_core::Kek;
use kms_testkit::{
    luks::Image,
    servers::openbao::{OpenBao, OpenBaoConfig},
};
use kms_tests::Kms;

const NAME: &str = "set1-data-0x7dwl";

#[tokio::test]
#[ignore = "needs cryptsetup and a Vault server: cargo xtask it rotation"]
async fn a_disk_whose_kek_was_overwritten_is_recovered_from_an_older_version() {
    let server = OpenBao::start(OpenBaoConfig::default()).await.unwrap();
    let token = server.admin().rook_token().await.unwrap();
    let kms = Kms::new().on_vault(&server, &token, "rookv2", &[]);
    let _ = kms.run(&["create", NAME]).want(0);
    let good = Kek::parse(kms.run(&["get", NAME]).want(0).stdout).unwrap();
    let image = Image::luks2(&good);
    let device = image.path().display().to_string();

    let _ = kms.run_with(&["put", NAME, "--from", "-", "--replace"], "an unrelated KEK").want(0);
    let lost = kms.run(&["verify", NAME, &device]).want(1);
    assert!(lost.text().contains("kms recover"), "{}", lost.text());
    let found = kms.run(&["-o", "json", "recover", NAME, &device]).want(0);
    assert!(!found.stdout.contains(&good.expose_secret_text().unwrap()[..16]), "{}", found.stdout);
    let found = found.json();
    assert_eq!((&found["outcome"], &found["candidates"][1]["version"]), (&"found".into(), &"1".into()));
    assert_eq!(found["candidates"][1]["slots"], serde_json::json!([0]));
    let _ = kms.run(&["verify", NAME, &device]).want(1);
    let written = kms.run(&["-o", "json", "recover", NAME, &device, "--write"]).want(0).json();
    assert_eq!((&written["outcome"], &written["version"]), (&"written".into(), &"3".into()));
    let _ = kms.run(&["verify", NAME, &device]).want(0);
    assert!(image.opens(&Kek::parse(kms.run(&["get", NAME]).want(0).stdout).unwrap()));

    // A value that is not a KEK can be replaced too, in a mount with versions.
    let id = format!("rook-ceph-osd-encryption-key-{NAME}");
    let body = serde_json::json!({"data": {&id: 7}});
    server.admin().call("POST", &format!("rookv2/data/{id}"), body).await.unwrap();
    let _ = kms.run(&["verify", NAME, &device]).want(1);
    let written = kms.run(&["-o", "json", "recover", NAME, &device, "--write"]).want(0).json();
    assert_eq!((&written["outcome"], &written["version"]), (&"written".into(), &"5".into()));
    assert_eq!(written["candidates"][0]["fingerprint"], serde_json::Value::Null);
    let _ = kms.run(&["verify", NAME, &device]).want(0);

    // The key is deleted, and then other KEKs come: a deleted version is read only if that is asked for.
    let _ = kms.run(&["delete", NAME, "--data-dir", "/nonexistent"]).want(0);
    let _ = kms.run(&["recover", NAME, &device]).want(0);
    for version in [1, 3, 5] {
        let body = serde_json::json!({"versions": [version]});
        server.admin().call("POST", &format!("rookv2/delete/{id}"), body).await.unwrap();
    }
    let hidden = kms.run(&["recover", NAME, &device]).want(1);
    assert!(hidden.text().contains("--deleted") && hidden.text().contains("not read"), "{}", hidden.text());
    let back = kms.run(&["-o", "json", "recover", NAME, &device, "--deleted", "--write"]).want(0).json();
    assert_eq!(back["outcome"], "written");
    let _ = kms.run(&["verify", NAME, &device]).want(0);
}
