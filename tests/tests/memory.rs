//! Checks that no KEK is left on the heap, after use, of a program that sets the same allocator as `kms`.
//!
//! The test searches all writable memory of its own process, so it is a separate program.
#![allow(clippy::panic, clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
};

use kms_core::{
    ConnectionDetails, Freshness, Kek, KeyName, PutMode,
    secret::{SecretData, SecretMap},
};
use kms_dispatch::{Options, connect};
use kms_testkit::servers::openbao::{OpenBao, OpenBaoConfig};

#[global_allocator]
static ALLOCATOR: zeroizing_alloc::ZeroAlloc<std::alloc::System> =
    zeroizing_alloc::ZeroAlloc(std::alloc::System);

/// Counts the occurrences of the bytes in the heap and in other anonymous memory. The pattern stays in
/// disguise (each byte xored with `MASK`) and the memory is compared in the same disguise, so that the search does not
/// find itself.
fn occurrences(disguised: &[u8]) -> usize {
    const MASK: u8 = 0x5a;
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let mut memory = File::open("/proc/self/mem").unwrap();
    let mut found = 0;
    for line in maps.lines().filter(|line| line.contains(" rw-p ")) {
        let fields: Vec<_> = line.split_whitespace().collect();
        // Skips stacks: `kms` cannot wipe what the compiler puts there.
        if fields.get(5).is_some_and(|name| name.starts_with("[stack") || name.starts_with("[v")) {
            continue;
        }
        let (start, end) = fields[0].split_once('-').unwrap();
        let (start, end) = (u64::from_str_radix(start, 16).unwrap(), u64::from_str_radix(end, 16).unwrap());
        let mut piece = vec![0_u8; usize::try_from(end - start).unwrap()];
        if memory.seek(SeekFrom::Start(start)).is_err() || memory.read_exact(&mut piece).is_err() {
            continue;
        }
        let first = disguised[0] ^ MASK;
        let matches =
            |window: &[u8]| window.iter().zip(disguised).all(|(byte, hidden)| byte ^ MASK == *hidden);
        found +=
            piece.windows(disguised.len()).filter(|window| window[0] == first && matches(window)).count();
    }
    found
}

fn disguise(text: &str) -> Vec<u8> {
    text.bytes().take(32).map(|byte| byte ^ 0x5a).collect()
}

#[test]
#[ignore = "needs a Vault server: cargo xtask it vault"]
fn no_kek_and_no_token_is_left_on_the_heap() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (server, token, ca) = runtime.block_on(async {
        let server = OpenBao::start(OpenBaoConfig::default()).await.unwrap();
        let token = server.admin().rook_token().await.unwrap();
        let ca = server.pki().ca.cert.clone();
        (server, token, ca)
    });
    let (hidden_kek, hidden_token) = {
        // A separate runtime: its end also ends the tasks that hold the connections.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let hidden = runtime.block_on(async {
            let mut secrets = SecretMap::new("the test");
            secrets.insert(SecretData::new("t").with("token", token.clone().into_bytes()));
            secrets.insert(SecretData::new("ca").with("cert", ca.into_bytes()));
            let details: ConnectionDetails = [
                ("KMS_PROVIDER", "vault"),
                ("VAULT_ADDR", server.url()),
                ("VAULT_BACKEND_PATH", "rookv2"),
                ("VAULT_CACERT", "ca"),
            ]
            .into_iter()
            .collect();
            let spec = kms_core::SecuritySpec::new(kms_core::KmsSpec::new(details, "t"));
            let vault = connect(&spec, &secrets, Options::default()).await.unwrap();
            let name: KeyName = "memory".parse().unwrap();
            let kek = Kek::generate().unwrap();
            let hidden = disguise(kek.expose_secret());
            let held = occurrences(&hidden);
            assert!(held >= 1, "the search finds a KEK that is held, found {held}");
            let version = vault.put(&name, &kek, PutMode::Create).await.unwrap();
            vault.put(&name, &kek, PutMode::Create).await.unwrap_err();
            for _ in 0..20 {
                vault.get(&name, Freshness::Any).await.unwrap();
                vault.get(&name, Freshness::Fresh).await.unwrap();
            }
            vault.put(&name, &kek, PutMode::Update(version)).await.unwrap();
            hidden
        });
        (hidden, disguise(&token))
    };
    assert_eq!(occurrences(&hidden_kek), 0, "a KEK is left in memory");
    // The test harness holds the token itself; after it is dropped no token may be left.
    drop((server, token, runtime));
    assert_eq!(occurrences(&hidden_token), 0, "a token is left in memory");
}
