//! Checks that no KEK is left on the heap, after use, of a program that sets the same allocator as `kms`.
//!
//! The test searches all writable memory of its own process, so it is a separate program.
#![allow(clippy::panic, clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use kms_core::{
    ConnectionDetails, Freshness, Kek, KeyName, KmsProvider as _, PutMode,
    secret::{SecretData, SecretMap},
};
use kms_dispatch::{Options, connect};
use kms_escrow::{About, Drill, Escrow, Identities, Recipients, save};
use kms_luks::Cryptsetup;
use kms_rotation::{Observer, Osd, Phase, Step, rotate};
use kms_testkit::{
    luks::Image,
    servers::openbao::{OpenBao, OpenBaoConfig},
};
use kms_tests::stores::{Store, Which, arguments, provider};
use tokio::sync::Notify;

#[global_allocator]
static ALLOCATOR: zeroizing_alloc::ZeroAlloc<std::alloc::System> =
    zeroizing_alloc::ZeroAlloc(std::alloc::System);

/// Lets one test at a time search: a search copies the memory in which another test looks for its own KEK.
static ALONE: Mutex<()> = Mutex::new(());

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

fn disguise(text: impl AsRef<[u8]>) -> Vec<u8> {
    text.as_ref().iter().take(32).map(|byte| byte ^ 0x5a).collect()
}

/// Everything that a KEK looks like on the way: its text, the text in the base64 of a Secret, and the bytes on KMIP.
fn forms(kek: &Kek) -> [Vec<u8>; 3] {
    let text = kek.expose_secret_text().unwrap();
    [disguise(text), disguise(STANDARD.encode(text)), disguise(STANDARD.decode(text).unwrap())]
}

#[test]
#[ignore = "needs a Vault server: cargo xtask it vault"]
fn no_kek_and_no_token_is_left_on_the_heap() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
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
            let hidden = disguise(kek.expose_secret_text().unwrap());
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

#[test]
#[ignore = "searches all memory of its process: cargo xtask it escrow"]
fn no_kek_is_left_on_the_heap_after_an_escrow() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let hidden = {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (kms, name): (_, KeyName) = (kms_core::memory::Memory::new(), "memory".parse().unwrap());
            let kek = Kek::generate().unwrap();
            let hidden = disguise(kek.expose_secret_text().unwrap());
            kms.put(&name, &kek, PutMode::Create).await.unwrap();
            assert!(occurrences(&hidden) >= 2, "the search finds a KEK that is held");
            let pair = kms_tests::age::Pair::generate();
            let recipients = Recipients::parse(&pair.recipient).unwrap();
            let identities = Identities::parse(pair.identity.as_bytes()).unwrap();
            let place = tempfile::tempdir().unwrap();
            let folder = place.path().join("escrow");
            let about = About::new("memory", None, None);
            save(&kms, std::slice::from_ref(&name), &recipients, &folder, about).await.unwrap();
            let escrow = Escrow::open(&folder).unwrap();
            assert!(escrow.keks(&identities).unwrap()[0].kek().ct_eq(&kek));
            let mut drill = Drill::begin(escrow, &identities).unwrap();
            drill.compare(&kms, &|_, _| ()).await.unwrap();
            assert!(drill.is_ok());
            hidden
        })
    };
    assert_eq!(occurrences(&hidden), 0, "a KEK is left in memory");
}

/// Says when the grace period has begun.
#[derive(Debug, Default)]
struct Pause(Notify);

impl Observer for Pause {
    fn step(&self, _: &KeyName, _: &Step, _: Phase) {}

    fn waiting(&self, _: &KeyName, _: Duration) {
        self.0.notify_one();
    }
}

#[test]
#[ignore = "needs cryptsetup, a Vault server, an API server and PyKMIP: cargo xtask it rotation"]
fn no_kek_is_on_the_heap_during_the_grace_period() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for which in [Which::VaultV1, Which::VaultV2, Which::KubernetesSecret, Which::Kmip] {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(search_the_grace_period(which));
    }
}

async fn search_the_grace_period(which: Which) {
    let store = Store::start(which).await.unwrap();
    let name: KeyName = "memory".parse().unwrap();
    let (image, old) = {
        let kek = Kek::generate().unwrap();
        store.provider.put(&name, &kek, PutMode::Create).await.unwrap();
        (Image::luks2(&kek), forms(&kek))
    };
    let osd = Osd::new(name.clone(), Cryptsetup::new().devices([image.path().to_owned()])).unwrap();
    let (pause, options) = (Pause::default(), kms_rotation::Options::default());
    let mut rotation = std::pin::pin!(rotate(&*store.provider, &osd, &options, &pause));
    tokio::select! {
        ended = &mut rotation => panic!("{which}: ended without a grace period: {ended:?}"),
        () = pause.0.notified() => {}
    }
    // Another thread reads the new KEK: its runtime ends with all connections.
    let arguments = arguments(&store.kms);
    let read = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let kms = provider(&arguments).await.unwrap();
            forms(&kms.get(&name, Freshness::Fresh).await.unwrap().kek)
        })
    });
    let new = read.join().unwrap();
    assert_ne!(old, new);
    // Idle connections stay open for a few seconds. The grace period has ten minutes.
    let begin = Instant::now();
    loop {
        let found = [&old, &new].map(|forms| forms.each_ref().map(|hidden| occurrences(hidden)));
        if found == [[0; 3]; 2] {
            return;
        }
        assert!(begin.elapsed() < Duration::from_secs(20), "{which}: KEKs in memory (old, new): {found:?}");
        tokio::select! {
            ended = &mut rotation => panic!("{which}: the grace period is over: {ended:?}"),
            () = tokio::time::sleep(Duration::from_millis(100)) => {}
        }
    }
}
