//! Compares `docs/json-output.md` with the output of the program, field by field.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::SystemTime};

use clap::Parser;
use kms_core::{Error, ErrorKind, KmsProvider, memory::Memory};
use kms_testkit::fake::{InjectedFault, Operation, Scripted};
use serde_json::Value;
use tokio::time::Instant;

use crate::{
    cli::{Cli, Command},
    cmd::{clusters, devices, escrow, keys, program},
    lazy::Lazy,
    osd_host::Host,
    output::{ErrorDocument, Failure, Format, Output},
    progress::ProgressLine,
};

const PAGE: &str = include_str!("../../../../docs/json-output.md");

/// A row of the page.
pub(crate) struct Row {
    /// The type.
    pub(crate) kind: String,
    pub(crate) meaning: String,
}

/// The documented fields of a section.
pub(crate) fn documented(section: &str) -> BTreeMap<String, Row> {
    let start = PAGE.find(&format!("\n## {section}\n")).unwrap_or_else(|| panic!("no section {section}"));
    let text = PAGE[start + 4..].split("\n## ").next().unwrap();
    let row = |line: &str| {
        let mut cells = line.strip_prefix("| `")?.split('|');
        let field = cells.next()?.trim().trim_end_matches('`').to_owned();
        let (kind, meaning) = (cells.next()?.trim().to_owned(), cells.next()?.trim().to_owned());
        Some((field, Row { kind, meaning }))
    };
    text.lines().filter_map(row).collect()
}

/// Whether a value has the documented type.
fn fits(value: &Value, documented: &str) -> bool {
    let is = |name: &str| match name {
        "boolean" => value.is_boolean(),
        "list" => value.is_array(),
        "list of objects of Kubernetes" => {
            value.as_array().is_some_and(|list| list.iter().all(Value::is_object))
        }
        "list of strings" => value.as_array().is_some_and(|list| list.iter().all(Value::is_string)),
        "map of numbers" => value.as_object().is_some_and(|map| map.values().all(Value::is_u64)),
        "map of strings" => value.as_object().is_some_and(|map| map.values().all(Value::is_string)),
        "null" => value.is_null(),
        "number" => value.is_u64(),
        "object" => value.is_object(),
        "string" => value.is_string(),
        other => panic!("the page has the type {other:?}"),
    };
    documented.split(" or ").any(is)
}

/// Walks through a document, and counts each field.
fn compare(value: &Value, path: &str, documented: &BTreeMap<String, Row>, met: &mut BTreeMap<String, usize>) {
    if !path.is_empty() && !path.ends_with("[]") {
        let Row { kind, .. } = documented.get(path).unwrap_or_else(|| panic!("{path} is not documented"));
        assert!(fits(value, kind), "{path} is {value}, and documented as {kind}");
        *met.entry(path.to_owned()).or_default() += 1;
        if kind.contains(" of ") {
            return;
        }
    }
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                compare(value, &path, documented, met);
            }
        }
        Value::Array(list) => {
            list.iter().for_each(|value| compare(value, &format!("{path}[]"), documented, met));
        }
        _ => {}
    }
}

/// Compares all documents of a section: every field in the output is documented, and every documented field occurs.
fn check(section: &str, documents: &[String]) {
    let fields = documented(section);
    assert!(!fields.is_empty(), "{section}");
    let mut met = BTreeMap::new();
    for text in documents {
        assert!(!text.contains("s3cr3t"), "{text}");
        let value: Value =
            serde_json::from_str(text).unwrap_or_else(|error| panic!("{section}: {error}: {text}"));
        compare(&value, "", &fields, &mut met);
    }
    for field in fields.keys() {
        assert!(met.contains_key(field), "{section}: {field} is documented, and never written");
    }
}

/// Runs a command line on a host, and returns its output.
async fn run_on(host: &Host, kms: &Arc<Memory>, args: &[&str]) -> String {
    let cli = Cli::try_parse_from(["kms", "-o", "json"].iter().chain(args)).unwrap();
    let mut bytes = Vec::new();
    let (global, command) = cli.into_parts();
    let mut output = Output::to(global.output, &mut bytes);
    let cryptsetup = host.cryptsetup();
    let connect = async || Ok(Arc::clone(kms) as Arc<dyn KmsProvider>);
    match command {
        Command::Devices(devices::Command::Slots(Lazy(args))) => {
            devices::slots::run(args, cryptsetup, &mut output).await
        }
        Command::Devices(devices::Command::Format(Lazy(args))) => {
            devices::format::run(args, cryptsetup, connect, &mut output).await
        }
        Command::Devices(devices::Command::Recover(Lazy(args))) => {
            devices::recover::run(args, cryptsetup, &crate::rook::Rook::new(None), connect, &mut output).await
        }
        Command::Devices(devices::Command::Open(Lazy(args))) => {
            devices::open::run(args, cryptsetup, connect, &mut output).await
        }
        Command::Devices(devices::Command::Close(Lazy(args))) => {
            devices::close::run(args, cryptsetup, &mut output).await
        }
        Command::Devices(devices::Command::Status(Lazy(args))) => {
            devices::status::run(args, cryptsetup, &mut output)
        }
        Command::Devices(devices::Command::Resize(Lazy(args))) => {
            devices::resize::run(args, cryptsetup, &mut output).await
        }
        Command::Escrow(Lazy(args)) => match args.command {
            escrow::Escrow::Create(args) => {
                let about = kms_escrow::About::new("memory", None, None);
                let nowhere = async |_made| ();
                escrow::create::run(args, (about, None), cryptsetup, (connect, nowhere), &mut output).await
            }
            escrow::Escrow::Drill(args) => {
                let connect = async || Ok((Arc::clone(kms) as Arc<dyn KmsProvider>, None));
                let nowhere = async |_at| ();
                escrow::drill::run(args, cryptsetup, (connect, nowhere), &mut output).await
            }
            escrow::Escrow::List(args) => escrow::list::run(args, SystemTime::now(), &mut output),
            escrow::Escrow::Slot(escrow::slot::SlotCommand::Check(args)) => {
                escrow::slot::check::run(args, cryptsetup, &mut output).await
            }
            escrow::Escrow::Slot(other) => panic!("{other:?} is not run here"),
            escrow::Escrow::Restore(args) => {
                escrow::restore::run(args, cryptsetup, connect, &mut output).await
            }
        },
        other => panic!("{other:?} is not run here"),
    }
    .unwrap();
    drop(output);
    String::from_utf8(bytes).unwrap()
}

/// A timer on which each pause is over at once.
#[derive(Default)]
struct Skipping {
    end: std::sync::Mutex<Option<Instant>>,
}

#[async_trait::async_trait]
impl kms_rotation::Timer for Skipping {
    fn now(&self) -> Instant {
        let real = Instant::now();
        self.end.lock().unwrap().map_or(real, |end| end.max(real))
    }

    async fn sleep_until(&self, end: Instant) {
        let end = end.max(self.now());
        *self.end.lock().unwrap() = Some(end);
    }
}

/// Runs `rotate` or `verify` on real headers, and returns the output and the exit code.
async fn run_rotation(kms: &Arc<Memory>, args: &[&str]) -> (String, u8) {
    let cli = Cli::try_parse_from(["kms", "-o", "json"].iter().chain(args)).unwrap();
    let mut bytes = Vec::new();
    let (global, command) = cli.into_parts();
    let mut output = Output::to(global.output, &mut bytes);
    let cryptsetup = kms_luks::Cryptsetup::new();
    let connect = async || Ok(Arc::clone(kms) as Arc<dyn KmsProvider>);
    let exit = match command {
        Command::Devices(devices::Command::Rotate(Lazy(args))) => {
            let rook = crate::rook::Rook::new(None);
            let host = devices::rotate::Host {
                cryptsetup,
                kube_namespace: None,
                rook,
                options: kms_rotation::Options::default().with_timer(Arc::new(Skipping::default())),
                sinks: Vec::new(),
            };
            devices::rotate::run(args, host, connect, &mut output).await
        }
        Command::Devices(devices::Command::Verify(Lazy(args))) => {
            devices::verify::run(args, cryptsetup, connect, &mut output).await
        }
        other => panic!("{other:?} is not run here"),
    };
    let exit = exit.unwrap().code();
    drop(output);
    (String::from_utf8(bytes).unwrap(), exit)
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it rotation"]
async fn the_page_describes_what_is_written_of_rotations() {
    let kms = Arc::new(Memory::new());
    let folder = tempfile::tempdir().unwrap();
    let kek = kms_core::Kek::generate().unwrap();
    for name in ["a", "b"] {
        kms.put(&name.parse().unwrap(), &kek, kms_core::PutMode::Create).await.unwrap();
    }
    let bare = kms_testkit::luks::Image::luks2(&kek);
    // A folder of Rook that shows all devices of an OSD that has started.
    let osd = folder.path().join("rook-ceph/a/ceph-0");
    std::fs::create_dir_all(&osd).unwrap();
    std::fs::write(osd.join("block"), "").unwrap();
    let image = kms_testkit::luks::Image::luks2(&kek).copy(osd.join("block-tmp"));
    let device = image.path().display().to_string();
    let broken = folder.path().join("broken").display().to_string();
    std::fs::write(&broken, "no device").unwrap();
    let rotate = |more: &'static [&str]| {
        let args = [&["rotate", "a", &device][..], more].concat();
        let kms = &kms;
        async move { run_rotation(kms, &args).await }
    };
    let documents = [
        rotate(&["--dry-run"]).await,
        rotate(&["--grace", "0", "--destroy-superseded"]).await,
        rotate(&["--finish"]).await,
        rotate(&["--no-wait"]).await,
        rotate(&["--no-wait"]).await,
        rotate(&["--finish", "--grace", "0"]).await,
    ];
    for ((text, exit), outcome) in
        documents.iter().zip(["dry-run", "rotated", "nothing-to-finish", "pending", "pending", "finished"])
    {
        assert!(text.contains(&format!("\"outcome\": \"{outcome}\"")) && *exit == 0, "{text}");
        assert!(text.contains("\"confirmed\": true"), "{text}");
    }
    assert!(documents[1].0.contains("\"retired\": 1,"), "{}", documents[1].0);
    // A device may have been left out, so nothing that may open it is destroyed.
    let bare = bare.path().display().to_string();
    let args = ["rotate", "b", &bare, "--grace", "0", "--destroy-superseded"];
    let (unconfirmed, exit) = run_rotation(&kms, &args).await;
    for field in ["\"outcome\": \"rotated\"", "\"confirmed\": false", "\"retired\": null"] {
        assert!(unconfirmed.contains(field) && exit == 1, "{field}: {unconfirmed}");
    }
    let documents = documents.into_iter().map(|(text, _)| text).chain([unconfirmed]);
    check("kms rotate", &documents.collect::<Vec<_>>());

    let (verified, exit) = run_rotation(&kms, &["verify", "a", &device, &broken]).await;
    assert_ne!(exit, 0);
    check("kms verify", &[verified, run_rotation(&kms, &["verify", "a", &device]).await.0]);

    let list = folder.path().join("list");
    std::fs::write(&list, format!("a {device}\nb {broken}\n")).unwrap();
    let journal = folder.path().join("journal").display().to_string();
    let list = list.display().to_string();
    let all = ["rotate", "--all", "--list", &list, "--grace", "0", "--resume", &journal];
    let (first, exit) = run_rotation(&kms, &all).await;
    assert_ne!(exit, 0);
    let (second, _) = run_rotation(&kms, &all).await;
    assert!(second.contains("\"skipped\": 1"), "{second}");
    check("kms rotate --all", &[first, second]);
}

#[tokio::test]
async fn the_page_describes_what_is_written_of_devices() {
    let (host, kms) = (Host::new(), Arc::new(Memory::new()));
    let device = host.empty("device");
    check("kms format", &[run_on(&host, &kms, &["format", "a", &device, "--fsid", "f"]).await]);
    let recover = ["recover", "a", &device, "--write"];
    check("kms recover", &[run_on(&host, &kms, &recover).await]);
    let at = |name: &str| host.path(name).display().to_string();
    let identity = age_identity();
    std::fs::write(at("id.txt"), identity.0).unwrap();
    std::fs::write(at("recipients.txt"), identity.1).unwrap();
    let (folder, recipients, id) = (at("escrow"), at("recipients.txt"), at("id.txt"));
    let (good, bad) = (format!("a={device}"), format!("a={}", at("missing")));
    let create =
        ["escrow", "create", &folder, "-R", &recipients, "--together", "--device", &good, "--device", &bad];
    check("kms escrow create", &[run_on(&host, &kms, &create).await]);
    let drill = ["escrow", "drill", &folder, "-i", &id, "--device", &good, "--device", &bad];
    check("kms escrow drill", &[run_on(&host, &kms, &drill).await]);
    check("kms escrow list", &[run_on(&host, &kms, &["escrow", "list", &folder]).await]);
    check(
        "kms escrow restore",
        &[run_on(&host, &kms, &["escrow", "restore", &folder, "a", "-i", &id]).await],
    );
    let key = kms_escrow::RecoveryKey::generate().unwrap();
    std::fs::write(at("typed"), key.passphrase().expose_secret_bytes()).unwrap();
    let slot = ["escrow", "slot", "check", &device, "--key", &at("typed")];
    check("kms escrow slot check", &[run_on(&host, &kms, &slot).await]);
    check("kms escrow slot add", &[escrow::slot::add::tests::printed()]);
    check("kms escrow slot remove", &[escrow::slot::remove::tests::printed()]);
    check("kms slots", &[run_on(&host, &kms, &["slots", &device]).await]);
    let open = ["open", "a", &device, "--mapper", "osd", "--fsid", "f"];
    check("kms open", &[run_on(&host, &kms, &open).await, run_on(&host, &kms, &open).await]);
    check("kms status", &[run_on(&host, &kms, &["status", "osd"]).await]);
    check("kms resize", &[run_on(&host, &kms, &["resize", "osd"]).await]);
    let close = [
        run_on(&host, &kms, &["close", "osd"]).await,
        run_on(&host, &kms, &["close", "osd", "--ignore-not-found"]).await,
    ];
    check("kms close", &close);
}

/// An identity of age, and its recipient.
fn age_identity() -> (&'static str, &'static str) {
    (
        "AGE-SECRET-KEY-1GQ9778VQXMMJVE8SK7J6VT8UJ4HDQAJUVSFCWCM02D8GEWQ72PVQ2Y5J33",
        "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa",
    )
}

/// Runs a command line against a provider, and returns its output.
async fn run(kms: &dyn KmsProvider, args: &[&str]) -> String {
    let cli = Cli::try_parse_from(["kms", "-o", "json"].iter().chain(args)).unwrap();
    let mut bytes = Vec::new();
    let (global, command) = cli.into_parts();
    let mut output = Output::to(global.output, &mut bytes);
    match command {
        Command::Keys(keys::Command::Create(Lazy(args))) => keys::create::run(args, kms, &mut output).await,
        Command::Keys(keys::Command::Delete(Lazy(args))) => keys::delete::run(args, kms, &mut output).await,
        Command::Keys(keys::Command::Undelete(Lazy(args))) => {
            keys::undelete::run(args, kms, &mut output).await
        }
        Command::Keys(keys::Command::Get(Lazy(args))) => keys::get::run(args, kms, &mut output).await,
        Command::Keys(keys::Command::List(Lazy(args))) => {
            keys::list::run(args, kms, "memory", SystemTime::now(), &mut output).await
        }
        Command::Program(program::Command::Providers(Lazy(args))) => {
            program::providers::run(args, &mut output)
        }
        Command::Program(program::Command::Explain(Lazy(args))) => program::explain::run(args, &mut output),
        Command::Program(program::Command::Version(Lazy(args))) => {
            program::version::run(args, false, &kms_luks::Cryptsetup::new(), &mut output).await
        }
        Command::Keys(keys::Command::Put(Lazy(args))) => {
            let kek = keys::put::read(&args).unwrap();
            keys::put::run(args, &kek, kms, &mut output).await
        }
        other => panic!("{other:?} is not run here"),
    }
    .unwrap();
    drop(output);
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn the_page_describes_what_is_written() {
    let kms = Memory::new();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(file("kek"), "s3cr3t").unwrap();

    let put = run(&kms, &["put", "b", "--from", &file("kek")]).await;
    check("kms put", &[put, run(&kms, &["put", "b", "--replace", "--from", &file("kek")]).await]);
    let create = [run(&kms, &["create", "a"]).await, run(&kms, &["create", "b", "--if-absent"]).await];
    check("kms create", &create);
    check("kms get", &[run(&kms, &["get", "b", &file("out")]).await]);
    assert_eq!(std::fs::read_to_string(Path::new(&file("out"))).unwrap(), "s3cr3t");
    check("kms list", &[run(&kms, &["list"]).await]);
    let delete = [
        run(&kms, &["delete", "a", "--destroy"]).await,
        run(&kms, &["delete", "b"]).await,
        run(&kms, &["delete", "a", "--ignore-not-found"]).await,
    ];
    check("kms undelete", &[run(&kms, &["undelete", "b"]).await]);
    for (text, outcome) in delete.iter().zip(["destroyed", "recoverable", "not-found"]) {
        assert!(text.contains(outcome), "{text}");
    }
    check("kms delete", &delete);
    check("kms providers", &[run(&kms, &["providers"]).await]);
    check("kms explain", &[run(&kms, &["explain"]).await, run(&kms, &["explain", "VAULT_ADDR"]).await]);
    check("kms version", &[run(&kms, &["version"]).await]);

    let failing = Scripted::new();
    failing.push(Operation::Get, InjectedFault::error(ErrorKind::Unavailable));
    let checks = [
        keys::check::tests::checked(&kms, Format::Json, false).await.1,
        keys::check::tests::checked(&failing, Format::Json, false).await.1,
    ];
    check("kms check", &checks);

    #[cfg(feature = "k8s-secret")]
    rook().await;

    let steps = clusters::migrate::document::tests::printed(Format::Json);
    check("kms migrate", &steps.into_iter().map(|(_, text)| text).collect::<Vec<_>>());
    let reached = clusters::migrate::progress::Reached { done: 3, keys: 10 };
    check("Progress of kms migrate", &[ProgressLine { progress: reached }.json()]);

    let error = Error::new(ErrorKind::Timeout, "too late").context("key", "a");
    let failure = Failure { error: ErrorDocument::of(&error) };
    let ended = |error| {
        ProgressLine { progress: devices::rotate::OsdEnded { name: "a", done: 1, osds: 2, error } }.json()
    };
    let progress = [ended(None), ended(Some(&failure.error))];
    assert!(progress.iter().all(|line| line.lines().count() == 1), "{progress:?}");
    check("Progress of kms rotate --all", &progress);
    check("Errors", &[serde_json::to_string(&failure).unwrap()]);
    for kind in ErrorKind::ALL {
        assert!(PAGE.contains(&format!("`{kind}`")), "{kind}");
    }
}

/// The documents about Kubernetes objects.
#[cfg(feature = "k8s-secret")]
async fn rook() {
    check("kms inventory prune", &[clusters::inventory::prune::tests::printed(Format::Json)]);
    check("kms doctor", &[clusters::doctor::printed()]);
    check("kms inventory", &[clusters::inventory::tests::printed(Format::Json).1]);
    check("kms cronjobs apply", &[clusters::cronjobs::apply::tests::printed(Format::Json).1]);

    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kms-rook/tests/fixtures/rook/vault-tls");
    let read = |file: &str| std::fs::read_to_string(fixtures.join(file)).unwrap();
    let security: Value = serde_json::from_str(&read("security.json")).unwrap();
    let cluster = serde_json::json!({
        "kind": "CephCluster",
        "metadata": {"name": "rook-ceph", "namespace": "rook-ceph"},
        "spec": {"security": security},
    });
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cluster.yaml");
    std::fs::write(&file, format!("{cluster}\n---\n{}", read("osd-deployment.json"))).unwrap();
    for (section, args) in [
        ("kms cronjobs render", &["cronjobs", "render", "--image", "mine:1"][..]),
        ("kms cronjobs rights", &["cronjobs", "rights"]),
        ("kms render env", &["render", "env"]),
        ("kms render volumes", &["render", "volumes"]),
    ] {
        let start = ["kms", "-o", "json", "-f", file.to_str().unwrap()];
        let (global, command) = Cli::try_parse_from(start.iter().chain(args)).unwrap().into_parts();
        let mut bytes = Vec::new();
        let mut output = Output::to(global.output, &mut bytes);
        match command {
            Command::Clusters(clusters::Command::Cronjobs(Lazy(args))) => {
                clusters::cronjobs::run(args, &global, &mut output).await.unwrap()
            }
            Command::Clusters(clusters::Command::Render(Lazy(args))) => {
                clusters::render::run(args, &global, &mut output).await.unwrap()
            }
            other => panic!("{other:?}"),
        };
        drop(output);
        check(section, &[String::from_utf8(bytes).unwrap()]);
    }
}
