//! Tests on a cluster of three nodes: standbys, redirects, fresh reads, and the loss of the leader under load.

use std::{sync::Arc, time::Duration};

use crate::common::{kek, key};
use kms_core::{
    ConnectionDetails, ErrorKind, Freshness, Kek, KeyVersion, KmsProvider, KmsProviderExt, ProviderBuilder,
    PutMode,
    layer::{self, LayerOptions},
    secret::{SecretData, SecretMap},
};
use kms_testkit::servers::openbao::Raft;
use kms_vault::{Vault, VaultBuilder};

async fn client(raft: &Raft, node: usize, token: &str, settings: &[(&str, &str)]) -> Vault {
    let mut secrets = SecretMap::new("the test");
    secrets.insert(SecretData::new("t").with("token", token.as_bytes().to_vec()));
    secrets.insert(SecretData::new("ca").with("cert", raft.pki().ca.cert.clone().into_bytes()));
    let url = raft.url(node);
    let details: ConnectionDetails = [("VAULT_ADDR", url.as_str()), ("VAULT_CACERT", "ca")]
        .into_iter()
        .chain(settings.iter().copied())
        .collect();
    VaultBuilder::new().with_details(&details).with_token_secret("t").build(&secrets).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Vault server: cargo xtask it vault"]
async fn reads_that_decide_are_fresh_through_a_standby() {
    let raft = Raft::start().await.unwrap();
    let (leader, standby) = (raft.leader().await.unwrap(), raft.standby().await.unwrap());
    let token = raft.admin(leader).rook_token().await.unwrap();
    for mount in ["rook", "rookv2"] {
        let mount = [("VAULT_BACKEND_PATH", mount)];
        let writer = client(&raft, leader, &token, &mount).await;
        let reader = client(&raft, standby, &token, &mount).await;
        for round in 0..50 {
            // One client writes at the leader, another reads at the standby.
            let name = key(&format!("other-{round}"));
            writer.put(&name, &kek("one"), PutMode::Create).await.unwrap();
            let fresh = reader.get(&name, Freshness::Fresh).await.unwrap();
            assert_eq!(fresh.kek.expose_secret_text().unwrap(), "one");
            writer.put(&name, &kek("two"), PutMode::Update(fresh.version)).await.unwrap();
            assert_eq!(
                reader.get(&name, Freshness::Fresh).await.unwrap().kek.expose_secret_text().unwrap(),
                "two"
            );
            let error = reader.put(&name, &kek("two"), PutMode::Create).await.unwrap_err();
            assert_eq!(error.existing(), Some(kms_core::Existing::Same), "{error}");

            // The same client writes and reads through the standby.
            let name = key(&format!("own-{round}"));
            reader.put(&name, &kek("one"), PutMode::Create).await.unwrap();
            assert_eq!(
                reader.get(&name, Freshness::Any).await.unwrap().kek.expose_secret_text().unwrap(),
                "one"
            );
            reader.delete(&name, kms_core::DeleteMode::Destroy).await.unwrap();
            assert_eq!(reader.get(&name, Freshness::Any).await.unwrap_err().kind(), ErrorKind::NotFound);
            assert_eq!(writer.get(&name, Freshness::Any).await.unwrap_err().kind(), ErrorKind::NotFound);

            // A standby that has not replicated a key confirms its deletion and does nothing. A standby that has not
            // replicated a version refuses the next version.
            let name = key(&format!("chain-{round}"));
            let first = writer.put(&name, &kek("one"), PutMode::Create).await.unwrap();
            let second = reader.put(&name, &kek("two"), PutMode::Update(first)).await.unwrap();
            let third = writer.put(&name, &kek("three"), PutMode::Update(second)).await.unwrap();
            reader.put(&name, &kek("four"), PutMode::Update(third)).await.unwrap();
            let name = key(&format!("gone-{round}"));
            writer.put(&name, &kek("one"), PutMode::Create).await.unwrap();
            reader.delete(&name, kms_core::DeleteMode::Destroy).await.unwrap();
            assert_eq!(writer.get(&name, Freshness::Fresh).await.unwrap_err().kind(), ErrorKind::NotFound);
            reader.put(&name, &kek("two"), PutMode::Create).await.unwrap();
        }
        let racers: Vec<_> = (0..2)
            .map(|node| {
                let vault = if node == 0 { &writer } else { &reader };
                vault.ensure(kms_name(), Kek::parse(format!("racer-{node}")).unwrap())
            })
            .collect();
        let found = futures_util::future::try_join_all(racers).await.unwrap();
        if mount[0].1 == "rookv2" {
            assert!(found[0].stored.kek.ct_eq(&found[1].stored.kek), "both got the winner's key");
        }
    }
}

fn kms_name() -> &'static kms_core::KeyName {
    static NAME: std::sync::OnceLock<kms_core::KeyName> = std::sync::OnceLock::new();
    NAME.get_or_init(|| key("raced"))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Vault server: cargo xtask it vault"]
async fn keys_are_read_from_standbys_while_there_is_no_leader() {
    let mut raft = Raft::start().await.unwrap();
    let leader = raft.leader().await.unwrap();
    let token = raft.admin(leader).rook_token().await.unwrap();
    let settings = [("VAULT_BACKEND_PATH", "rookv2")];
    client(&raft, leader, &token, &settings)
        .await
        .put(&key("boot"), &kek("k"), PutMode::Create)
        .await
        .unwrap();
    // Wait until all nodes have the write: a standby's own copy is a little behind.
    for node in 0..3 {
        let reader = client(&raft, node, &token, &settings).await;
        let arrived = async { while reader.get(&key("boot"), Freshness::Any).await.is_err() {} };
        tokio::time::timeout(Duration::from_secs(20), arrived).await.unwrap();
    }
    let first = raft.kill_leader().await.unwrap();
    assert_eq!(first, leader);
    let second = raft.leader().await.unwrap();
    raft.kill(second).unwrap();
    // One node of three is left: there is no quorum, and reads still work.
    let left = (0..3).find(|node| *node != first && *node != second).unwrap();
    let reader = client(&raft, left, &token, &settings).await;
    assert_eq!(
        reader.get(&key("boot"), Freshness::Any).await.unwrap().kek.expose_secret_text().unwrap(),
        "k"
    );
    let mut options = LayerOptions::default();
    options.retry.deadline = Duration::from_secs(3);
    let writer = layer::standard(Arc::new(reader), &options);
    let error = writer.put(&key("new"), &kek("k"), PutMode::Create).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Vault server: cargo xtask it vault"]
async fn the_loss_of_the_leader_loses_and_doubles_nothing() {
    const PUTS: usize = 1000;
    const CALLERS: usize = 32;
    let mut raft = Raft::start().await.unwrap();
    let (leader, standby) = (raft.leader().await.unwrap(), raft.standby().await.unwrap());
    let token = raft.admin(leader).rook_token().await.unwrap();
    let settings = [("VAULT_BACKEND_PATH", "rookv2"), ("VAULT_BACKEND", "v2")];
    let vault: Arc<dyn KmsProvider> =
        layer::standard(Arc::new(client(&raft, standby, &token, &settings).await), &LayerOptions::default());
    let (done, mut counted) = tokio::sync::watch::channel(0_usize);
    let done = Arc::new(done);
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let (vault, done) = (Arc::clone(&vault), Arc::clone(&done));
            tokio::spawn(async move {
                let mut outcomes = Vec::new();
                for number in (caller..PUTS).step_by(CALLERS) {
                    let kek = Kek::generate().unwrap();
                    let name = key(&format!("load-{number}"));
                    let result = vault.put(&name, &kek, PutMode::Create).await;
                    outcomes.push((name, kek, result));
                    done.send_modify(|done| *done += 1);
                }
                outcomes
            })
        })
        .collect();
    counted.wait_for(|done| *done >= PUTS / 4).await.unwrap();
    raft.kill_leader().await.unwrap();
    let mut outcomes = Vec::new();
    for caller in callers {
        outcomes.extend(caller.await.unwrap());
    }
    assert_eq!(outcomes.len(), PUTS);
    let now = raft.leader().await.unwrap();
    let reader = client(&raft, now, &token, &settings).await;
    let (mut stored, mut failed) = (0, 0);
    for (name, kek, result) in outcomes {
        let found = reader.get(&name, Freshness::Fresh).await;
        match result {
            Ok(version) => {
                stored += 1;
                let found = found.unwrap_or_else(|error| panic!("{name} was stored and is lost: {error}"));
                assert!(found.kek.ct_eq(&kek), "{name} has another KEK");
                assert_eq!(
                    (version, found.version),
                    (KeyVersion::new("1"), KeyVersion::new("1")),
                    "{name} is doubled"
                );
            }
            Err(error) => {
                failed += 1;
                // The key may exist only if the error reports an unknown outcome.
                if found.is_ok() {
                    assert!(error.to_string().contains("outcome: unknown"), "{name} is there, but: {error}");
                }
            }
        }
    }
    assert!(stored > PUTS / 2, "{stored} stored, {failed} failed");
}
