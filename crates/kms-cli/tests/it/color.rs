//! Which output is in colour.

use std::process::{Command, Output};

fn kms(args: &[&str], env: &[(&str, &str)]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.yaml");
    std::fs::write(
        &file,
        "security: {kms: {tokenSecretName: t, connectionDetails: {KMS_PROVIDER: vault, VAULT_ADDR: \"https://127.0.0.1:1\"}}}\n\
         ---\n{kind: Secret, metadata: {name: t}, stringData: {token: s3cr3t}}\n",
    )
    .unwrap();
    Command::new(env!("CARGO_BIN_EXE_kms"))
        .args(["--timeout", "100ms", "-f"])
        .arg(&file)
        .args(args)
        .env_clear()
        .envs(env.iter().copied())
        .output()
        .unwrap()
}

/// Whether standard output and standard error have escape sequences.
fn colored(ran: &Output) -> (bool, bool) {
    (ran.stdout.contains(&0x1b), ran.stderr.contains(&0x1b))
}

#[test]
fn states_and_errors_are_in_colour_as_the_options_and_the_environment_say() {
    let force = ("CLICOLOR_FORCE", "1");
    for (option, env, expected) in [
        (&["--color", "always"][..], &[][..], true),
        (&["--color", "always"], &[("NO_COLOR", "1")], true),
        (&["--color", "never"], &[force], false),
        (&["--color", "auto"], &[force], true),
        (&[], &[force, ("NO_COLOR", "1")], false),
        // Neither stream is a terminal.
        (&[], &[], false),
    ] {
        let check = kms(&[&["check"][..], option].concat(), env);
        assert_eq!(colored(&check).0, expected, "check {option:?} {env:?}");
        let words = String::from_utf8_lossy(&check.stdout).into_owned();
        assert!(words.contains("FAILED"), "the word is there without the colour: {words}");
        let get = kms(&[&["get", "a"][..], option].concat(), env);
        assert_eq!(colored(&get), (false, expected), "get {option:?} {env:?}");
        assert!(String::from_utf8_lossy(&get.stderr).contains("error:"), "{get:?}");
    }
}

#[test]
fn documents_are_never_in_colour() {
    for format in ["json", "yaml"] {
        let ran = kms(&["check", "-o", format, "--color", "always"], &[]);
        assert_eq!(colored(&ran), (false, false), "{format}: {ran:?}");
    }
    // In JSON an error is a document too.
    let ran = kms(&["get", "a", "-o", "json", "--color", "always", "-q"], &[]);
    assert_eq!(colored(&ran), (false, false), "{ran:?}");
}
