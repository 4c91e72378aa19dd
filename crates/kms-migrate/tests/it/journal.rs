//! Journals: torn lines, other places, locks, modes, and what they must not hold.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::{PermissionsExt as _, symlink},
};

use kms_core::{ErrorKind, Freshness, KmsProvider as _, Retry};
use kms_migrate::{Journal, Options, Phase, Place, Silent, copy};

use crate::{Scene, key, places};

#[tokio::test]
async fn a_journal_has_names_states_and_versions_and_nothing_of_a_kek() {
    let scene = Scene::with_keys(3).await;
    let mut journal = scene.journal();
    scene.copied(&mut journal).await;
    let text = fs::read_to_string(scene.path()).unwrap();
    assert!(text.contains(r#"{"name":"set1-data-0","state":"created","source":"1","target":"1"}"#), "{text}");
    for number in 0..3 {
        let stored = scene.from.get(&key(number), Freshness::Fresh).await.unwrap();
        for secret in [stored.kek.expose_secret_text().unwrap(), &stored.kek.fingerprint()] {
            assert!(!text.contains(secret));
        }
    }
    assert_eq!(fs::metadata(scene.path()).unwrap().permissions().mode() & 0o7777, 0o600);
}

#[tokio::test]
async fn a_line_that_a_kill_has_cut_off_is_removed() {
    let scene = Scene::with_keys(2).await;
    scene.copied(&mut scene.journal()).await;
    let whole = fs::read(scene.path()).unwrap();
    // A kill after any byte.
    for length in 0..=whole.len() {
        fs::write(scene.path(), &whole[..length]).unwrap();
        let mut journal = scene.journal();
        let copied = copy(scene.pair(), &mut journal, &Options::default(), &Silent).await.unwrap();
        assert!(copied.failed.is_empty() && copied.keys == 2, "{length}: {copied:?}");
        drop(journal);
        // The next run understands every line.
        drop(scene.journal());
        let text = fs::read_to_string(scene.path()).unwrap();
        assert!(
            text.ends_with('\n') && text.lines().all(|line| line.starts_with('{') && line.ends_with('}'))
        );
    }
    scene.assert_copied_once(2).await;
}

#[tokio::test]
async fn a_damaged_line_is_named() {
    let scene = Scene::with_keys(1).await;
    scene.copied(&mut scene.journal()).await;
    let [from, to] = places();
    let whole = fs::read_to_string(scene.path()).unwrap();
    for (line, text) in
        [(1, "{}"), (2, r#"{"name":"a","state":"unknown","source":null,"target":null}"#), (2, "x")]
    {
        let mut lines: Vec<&str> = whole.lines().collect();
        lines[line - 1] = text;
        fs::write(scene.path(), lines.join("\n") + "\n").unwrap();
        let error = Journal::open(&scene.path(), &from, &to).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
        assert!(error.to_string().contains(&format!("line {line} ")), "{error}");
    }
}

#[tokio::test]
async fn a_journal_of_other_places_is_refused_and_the_difference_is_named_without_its_value() {
    let scene = Scene::with_keys(0).await;
    let vault = |address| Place::new("vault", Some("rook-ceph")).with_settings([("VAULT_ADDR", address)]);
    let secrets = |namespace| Place::new("k8s-secret", Some(namespace));
    let journal =
        Journal::open_or_create(&scene.path(), &secrets("rook-ceph"), &vault("https://canary-1")).unwrap();
    drop(journal);
    for (from, to, what) in [
        (secrets("other"), vault("https://canary-1"), "the namespace of the CephCluster of --from"),
        (secrets("rook-ceph"), vault("https://canary-2"), "VAULT_ADDR of --to"),
        (vault("https://canary-1"), secrets("rook-ceph"), "the provider of --from"),
    ] {
        let error = Journal::open_or_create(&scene.path(), &from, &to).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
        assert!(error.to_string().contains(what) && !format!("{error:?}").contains("canary"), "{error}");
    }
    assert!(Journal::open(&scene.path(), &secrets("rook-ceph"), &vault("https://canary-1")).is_ok());
}

#[tokio::test]
async fn a_second_run_is_refused_while_the_first_one_has_the_journal() {
    let scene = Scene::with_keys(0).await;
    let [from, to] = places();
    let journal = scene.journal();
    let error = Journal::open(&scene.path(), &from, &to).unwrap_err();
    assert_eq!((error.kind(), error.retryable()), (ErrorKind::Conflict, Retry::Always));
    drop(journal);
    assert!(Journal::open(&scene.path(), &from, &to).is_ok());
}

#[test]
fn a_link_a_device_and_an_absent_journal_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let [from, to] = places();
    let [target, link] = ["target", "link"].map(|name| folder.path().join(name));
    fs::write(&target, "").unwrap();
    symlink(&target, &link).unwrap();
    for path in [link.as_path(), "/dev/null".as_ref(), folder.path(), &folder.path().join("no/journal")] {
        let error = Journal::open_or_create(path, &from, &to).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConfigInvalid, "{}: {error}", path.display());
    }
    assert_eq!(fs::read(&target).unwrap(), b"");
    let error = Journal::open(&folder.path().join("absent"), &from, &to).unwrap_err();
    assert!(error.to_string().contains("kms migrate copy creates it"), "{error}");
}

#[tokio::test]
async fn the_phase_lasts_from_run_to_run() {
    let scene = Scene::with_keys(0).await;
    let mut journal = scene.journal();
    assert_eq!(journal.phase(), Phase::Copying);
    journal.enter(Phase::Switching).unwrap();
    let canary = journal.canary().clone();
    drop(journal);
    // The start of a line that was never finished changes nothing.
    fs::OpenOptions::new().append(true).open(scene.path()).unwrap().write_all(br#"{"phase":"fin"#).unwrap();
    let mut journal = scene.journal();
    assert_eq!((journal.phase(), journal.canary()), (Phase::Switching, &canary));
    let error = copy(scene.pair(), &mut journal, &Options::default(), &Silent).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Conflict && error.to_string().contains("switching"), "{error}");
}
