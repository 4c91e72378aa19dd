//! Compares the dashboard in `deploy/monitoring/` with what is generated, which `cargo xtask codegen` writes, and the rules
//! with the metrics and the runbooks.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use kms_operator::metrics;

use crate::{
    dashboard::{dashboard, expressions},
    rules::{rules, runbooks},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[expect(clippy::disallowed_methods, reason = "how a developer asks for new files")]
fn compare(path: &str, new: &str) {
    let path = root().join("deploy/monitoring").join(path);
    if std::env::var_os("KMS_CODEGEN").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, new).unwrap();
    }
    let old = fs::read_to_string(&path).unwrap_or_default();
    assert!(old == new, "run cargo xtask codegen: {} is out of date", path.display());
}

#[test]
fn the_dashboard_is_up_to_date() {
    compare("dashboard.json", &(serde_json::to_string_pretty(&dashboard()).unwrap() + "\n"));
}

#[test]
fn rules_and_panels_name_only_metrics_that_are_exported() {
    let mut texts = expressions();
    let rules = rules();
    let alerts = rules["spec"]["groups"][0]["rules"].as_array().unwrap();
    texts.extend(alerts.iter().map(|alert| alert["expr"].as_str().unwrap().to_owned()));
    let exported: BTreeSet<&str> = metrics::ALL.iter().map(|metric| metric.name).collect();
    let mut named = BTreeSet::new();
    for text in &texts {
        let words = text.split(|one: char| !one.is_ascii_alphanumeric() && one != '_');
        named.extend(words.filter(|word| word.starts_with("kms_")));
    }
    let series = |word: &str| {
        let whole = word.strip_suffix("_bucket").or_else(|| word.strip_suffix("_count")).unwrap_or(word);
        exported.contains(whole)
    };
    let unknown: Vec<_> = named.iter().filter(|word| !series(word)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn every_alert_has_a_runbook() {
    for (page, anchor) in runbooks() {
        let text = fs::read_to_string(root().join(format!("docs/doctor/{page}.md"))).unwrap();
        assert!(text.contains(&format!("<a id=\"{anchor}\"></a>")), "{page}.md has no {anchor}");
    }
}
