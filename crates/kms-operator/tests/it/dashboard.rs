//! The dashboard of Grafana.

use kms_operator::metrics::{
    CONDITION, ESCROWED, FAILED_ATTEMPTS, GENERATION, LEADER, NEXT_ROTATION, RECONCILES, ROTATED,
    TOKEN_EXPIRES, VERIFIED, WITHOUT_KEY,
};
use serde_json::{Value, json};

use crate::rules::KEY;

/// The columns of the dashboard's grid.
const COLUMNS: u64 = 24;

/// A panel: how it is drawn, its title, its unit, its queries with their legends, and its width and height in the grid.
struct Panel {
    kind: &'static str,
    title: &'static str,
    unit: &'static str,
    queries: Vec<(String, &'static str)>,
    size: (u64, u64),
}

/// A metric of the chosen clusters, once for each key: every replica exports every key.
fn of_keys(name: &str, labels: &str) -> String {
    format!(r#"max by ({KEY}) ({name}{{namespace=~"$namespace"{labels}}})"#)
}

fn condition(condition: &str) -> String {
    of_keys(CONDITION.name, &format!(r#", condition="{condition}""#))
}

fn panels() -> Vec<Panel> {
    let stat = |title, expr: String| Panel {
        kind: "stat",
        title,
        unit: "short",
        queries: vec![(expr, "")],
        size: (4, 4),
    };
    let lines = |title, unit, queries| Panel { kind: "timeseries", title, unit, queries, size: (12, 8) };
    let age = |name: &str| format!("time() - {}", of_keys(name, ""));
    vec![
        stat("Keys", format!("count({})", of_keys(FAILED_ATTEMPTS.name, ""))),
        stat("Not ready", format!("count({} == 0) or vector(0)", condition("Ready"))),
        stat("Failing", format!("count({} > 0) or vector(0)", of_keys(FAILED_ATTEMPTS.name, ""))),
        stat("Rotating now", format!("count({} == 1) or vector(0)", condition("Rotating"))),
        stat(
            "OSDs without a key object",
            format!(
                r#"count(max by (namespace, deployment) ({}{{namespace=~"$namespace"}})) or vector(0)"#,
                WITHOUT_KEY.name
            ),
        ),
        stat("Leaders", format!("sum({})", LEADER.name)),
        lines(
            "Age of keys",
            "s",
            vec![
                (format!("max({})", age(ROTATED.name)), "oldest"),
                (format!("quantile(0.5, {})", age(ROTATED.name)), "median"),
            ],
        ),
        lines(
            "Since keys were last verified and escrowed, the oldest",
            "s",
            vec![
                (format!("max({})", age(VERIFIED.name)), "verified"),
                (format!("max({})", age(ESCROWED.name)), "escrowed"),
            ],
        ),
        lines(
            "Rotations in a day",
            "short",
            vec![
                (format!("sum({})", rotations_of_a_day()), "rotated"),
                (format!("sum({})", of_keys(FAILED_ATTEMPTS.name, "")), "failed attempts now"),
            ],
        ),
        lines(
            "Until the tokens of the KMS end",
            "s",
            vec![(
                format!(
                    r#"max by (namespace, cluster) ({}{{namespace=~"$namespace"}}) - time()"#,
                    TOKEN_EXPIRES.name
                ),
                "{{namespace}}/{{cluster}}",
            )],
        ),
        lines(
            "Reconciles",
            "ops",
            vec![(
                format!("sum by (result) (rate({}_count[$__rate_interval]))", RECONCILES.name),
                "{{result}}",
            )],
        ),
        Panel {
            kind: "table",
            title: "Keys, the longest overdue first",
            unit: "s",
            queries: vec![
                (format!("sort_desc(time() - {})", of_keys(NEXT_ROTATION.name, "")), "overdue"),
                (age(ROTATED.name), "age"),
                (of_keys(GENERATION.name, ""), "generation"),
            ],
            size: (12, 9),
        },
        lines(
            "How long reconciles take",
            "s",
            vec![(
                format!(
                    "histogram_quantile(0.99, sum by (le) (rate({}_bucket[$__rate_interval])))",
                    RECONCILES.name
                ),
                "99 %",
            )],
        ),
    ]
}

/// The rotations of each key in a day.
fn rotations_of_a_day() -> String {
    format!(r#"max by ({KEY}) (changes({}{{namespace=~"$namespace"}}[1d]))"#, ROTATED.name)
}

/// The expressions of all panels.
pub(crate) fn expressions() -> Vec<String> {
    panels().into_iter().flat_map(|panel| panel.queries).map(|(expr, _)| expr).collect()
}

/// The dashboard.
pub(crate) fn dashboard() -> Value {
    let source = json!({"type": "prometheus", "uid": "${datasource}"});
    let (mut x, mut y, mut row) = (0, 0, 0);
    let mut drawn = Vec::new();
    for (id, panel) in (1_u64..).zip(panels()) {
        let Panel { kind, title, unit, queries, size: (width, height) } = panel;
        if x + width > COLUMNS {
            (x, y, row) = (0, y + row, 0);
        }
        let target = |(at, (expr, legend)): (usize, (String, &str))| {
            let name = char::from(b'A' + u8::try_from(at).unwrap_or_default()).to_string();
            let table = kind == "table";
            json!({
                "refId": name, "datasource": source, "expr": expr, "legendFormat": legend,
                "instant": table || kind == "stat", "format": if table { "table" } else { "time_series" },
            })
        };
        let mut panel = json!({
            "id": id, "type": kind, "title": title, "datasource": source,
            "gridPos": {"h": height, "w": width, "x": x, "y": y},
            "fieldConfig": {"defaults": {"unit": unit}, "overrides": []},
            "targets": queries.into_iter().enumerate().map(target).collect::<Vec<_>>(),
        });
        if kind == "table" {
            panel["transformations"] = json!([{"id": "merge", "options": {}}]);
        }
        drawn.push(panel);
        (x, row) = (x + width, row.max(height));
    }
    let variable = |name: &str, more: Value| {
        let mut variable = json!({"name": name, "label": name, "hide": 0});
        for (field, value) in more.as_object().into_iter().flatten() {
            variable[field] = value.clone();
        }
        variable
    };
    json!({
        "uid": "kms-operator",
        "title": "Keys of encrypted OSDs",
        "tags": ["rook", "ceph", "kms"],
        "schemaVersion": 39,
        "editable": true,
        "refresh": "1m",
        "time": {"from": "now-7d", "to": "now"},
        "templating": {"list": [
            variable("datasource", json!({"type": "datasource", "query": "prometheus"})),
            variable("namespace", json!({
                "type": "query", "datasource": source, "includeAll": true, "multi": true, "refresh": 2,
                "query": format!("label_values({}, namespace)", FAILED_ATTEMPTS.name),
            })),
        ]},
        "panels": drawn,
    })
}
