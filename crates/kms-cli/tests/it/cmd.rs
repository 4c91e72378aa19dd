//! Runs the program on the cases in `tests/cmd`, and compares what it prints.
//!
//! A case has arguments, environment, files and standard input, and the expected exit code and outputs. Its comment
//! states its purpose. After an intended change, `KMS_SNAPSHOTS=overwrite cargo test -p kms-cli --test it cmd` rewrites
//! the outputs; review the difference before you keep it.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde::Deserialize;

/// The placeholder for the folder in which a case runs.
const DIR: &str = "[DIR]";
/// Must never appear in any output: cases use it for secrets and for values.
const CANARY: &str = "s3cr3t";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    args: Vec<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default)]
    files: BTreeMap<String, String>,
    #[serde(default)]
    stdin: String,
    status: i32,
    stdout: String,
    stderr: String,
}

fn run(case: &Case) -> (i32, String, String) {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in &case.files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let dir = folder.path().display().to_string();
    let mut child = Command::new(env!("CARGO_BIN_EXE_kms"))
        .args(case.args.iter().map(|arg| arg.replace(DIR, &dir)))
        .env_clear()
        // Fixes the width of the help text, and sets a home without a kubeconfig.
        .envs([("COLUMNS", "100"), ("HOME", dir.as_str())])
        .envs(&case.env)
        .current_dir(folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that does not read its input closes the pipe.
    let _ignored = child.stdin.take().unwrap().write_all(case.stdin.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replace(&dir, DIR);
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn cases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cmd");
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    paths.sort();
    paths
}

/// The commands of the program, hidden ones too, each as the arguments that name it.
fn commands() -> Vec<Vec<String>> {
    fn add(of: &clap::Command, path: &[String], found: &mut Vec<Vec<String>>) {
        for command in of.get_subcommands().filter(|command| command.get_name() != "help") {
            let path = [path, &[command.get_name().to_owned()]].concat();
            add(command, &path, found);
            found.push(path);
        }
    }

    let mut program = kms_cli::command();
    program.build();
    let mut found = Vec::new();
    add(&program, &[], &mut found);
    found
}

/// With `KMS_SNAPSHOTS` the missing cases are written, and the other test fills in their outputs in the next run.
#[test]
#[expect(clippy::disallowed_methods, reason = "how a developer asks for new outputs")]
fn every_command_has_a_case_with_its_help() {
    let shown: Vec<Vec<String>> = cases()
        .into_iter()
        .map(|path| toml::from_str::<Case>(&fs::read_to_string(path).unwrap()).unwrap().args)
        .filter_map(|args| {
            args.split_last()
                .filter(|(last, _)| ["-h", "--help"].contains(&last.as_str()))
                .map(|(_, path)| path.to_vec())
        })
        .collect();
    let missing: Vec<Vec<String>> = commands().into_iter().filter(|path| !shown.contains(path)).collect();
    if std::env::var_os("KMS_SNAPSHOTS").is_some() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cmd");
        for path in &missing {
            let args = [path.as_slice(), &["--help".to_owned()]].concat();
            let case = format!(
                "# The help text of {}.\nargs = {args:?}\n\nstatus = 0\nstdout = ''\nstderr = ''\n",
                path.join(" ")
            );
            fs::write(folder.join(format!("help-{}.toml", path.join("-"))), case).unwrap();
        }
    } else {
        assert_eq!(missing, Vec::<Vec<String>>::new(), "no case shows the help of these commands");
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "how a developer asks for new outputs")]
fn every_case_prints_what_it_is_to_print() {
    let overwrite = std::env::var_os("KMS_SNAPSHOTS").is_some();
    let mut wrong = Vec::new();
    let paths = cases();
    assert!(!paths.is_empty());
    for path in paths {
        let name = path.file_name().unwrap().display().to_string();
        let text = fs::read_to_string(&path).unwrap();
        let case: Case = toml::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        let (status, stdout, stderr) = run(&case);
        assert!(!format!("{stdout}{stderr}").contains(CANARY), "{name} shows a secret:\n{stdout}{stderr}");
        if overwrite {
            // The outputs are the last three entries of a case.
            let inputs = text.split("\nstatus = ").next().unwrap();
            let outputs =
                format!("\nstatus = {status}\nstdout = '''\n{stdout}'''\nstderr = '''\n{stderr}'''\n");
            fs::write(&path, format!("{inputs}{outputs}")).unwrap();
        } else if (status, &stdout, &stderr) != (case.status, &case.stdout, &case.stderr) {
            wrong.push(format!(
                "{name}: expected {}\n{}{}--- but got {status}\n{stdout}{stderr}",
                case.status, case.stdout, case.stderr
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}
