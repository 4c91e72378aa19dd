//! Parses the arguments that files in `deploy/` give to the program.

use std::{fs, path::Path};

use serde_json::Value;

const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy");

fn takes<'a>(from: &str, args: impl IntoIterator<Item = &'a str>) {
    let args: Vec<&str> = ["kms"].into_iter().chain(args).collect();
    let error = kms_cli::command().try_get_matches_from(&args).err();
    assert!(error.is_none(), "{from}: {args:?}\n{error:?}");
}

/// The containers of an object, wherever they are in it.
fn containers(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(items) => items.iter().flat_map(containers).collect(),
        Value::Object(fields) => {
            let own = fields.get("containers").and_then(Value::as_array).into_iter().flatten();
            own.chain(fields.values().flat_map(containers)).collect()
        }
        _ => Vec::new(),
    }
}

#[test]
fn the_units_give_arguments_that_the_program_takes() {
    let mut count = 0;
    for entry in fs::read_dir(Path::new(DEPLOY).join("systemd")).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let lines = text.lines().filter_map(|line| line.strip_prefix("Exec")?.split_once("=/usr/bin/kms "));
        for (_, line) in lines {
            let line = line
                .replace("%i", "set1-data-0")
                .replace("$DEVICES", "/dev/sdb /dev/sdc")
                .replace("$OPTIONS", "--grace 30m")
                .replace("${STATE_DIRECTORY}", "/var/lib/kms");
            assert!(!line.contains(['$', '%']), "{line}");
            takes(&path.display().to_string(), line.split(' '));
            count += 1;
        }
    }
    assert_eq!(count, 5);
}

#[test]
fn the_manifests_give_arguments_that_the_program_takes() {
    for file in ["cronjob-manager.yaml", "kustomize/base/deployment.yaml"] {
        let text = fs::read_to_string(Path::new(DEPLOY).join(file)).unwrap();
        let objects: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
        let containers: Vec<&Value> = objects.iter().flat_map(containers).collect();
        assert!(!containers.is_empty(), "{file}");
        for container in containers {
            takes(file, container["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap()));
        }
    }
}
