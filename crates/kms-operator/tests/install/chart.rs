//! The Helm chart: the objects with a template in the place of each reference to a setting.

use serde_json::{Value, json};

use crate::{
    HEADING,
    objects::{self, File},
    settings::{self, Fragment, Setting},
    yaml,
};

/// The files, by their paths below `deploy/`.
pub(crate) fn files() -> Vec<(String, String)> {
    let mut files: Vec<(String, String)> = objects::files()
        .iter()
        .map(|file| (format!("templates/{}", file.name), HEADING.to_owned() + &template(file)))
        .collect();
    let schema = serde_json::to_string_pretty(&settings::schema()).unwrap() + "\n";
    files.extend([
        ("Chart.yaml".to_owned(), HEADING.to_owned() + &yaml(&about())),
        ("templates/NOTES.txt".to_owned(), NOTES.to_owned()),
        ("values.schema.json".to_owned(), schema),
        ("values.yaml".to_owned(), HEADING.to_owned() + &values()),
    ]);
    files.into_iter().map(|(name, text)| (format!("helm/kms-operator/{name}"), text)).collect()
}

/// What Helm prints after an installation.
const NOTES: &str = "\
The operator runs in {{ .Release.Namespace }}. It changes no CephCluster and reads no Secret.
It rotates the keys of a CephCluster only after this line, with the image of the Jobs:

  kubectl annotate cephcluster -n NAMESPACE NAME kms.ceph.rook.io/operator=true kms.ceph.rook.io/rotation-image={{ .Values.image }}

The state of every key:

  kubectl get osdkeys -A

Without the operator every OSD starts as before.
";

/// The chart itself.
fn about() -> Value {
    let version = env!("CARGO_PKG_VERSION");
    json!({
        "apiVersion": "v2",
        "name": "kms-operator",
        "description": "Keeps the keys of encrypted Ceph OSDs rotated, and shows their state in Kubernetes",
        "type": "application",
        "version": version,
        "appVersion": version,
        // Since then the API server checks the rules in the schemas.
        "kubeVersion": ">=1.29.0-0",
        "home": env!("CARGO_PKG_REPOSITORY"),
        "annotations": {"artifacthub.io/license": env!("CARGO_PKG_LICENSE")},
    })
}

/// The values with their defaults and meanings.
fn values() -> String {
    let mut text = String::new();
    let mut group = None;
    for Setting { path, meaning, default, .. } in settings::all() {
        let (outer, name) = path.split_once('.').map_or((None, path), |(outer, name)| (Some(outer), name));
        if outer != group {
            text.extend(outer.map(|outer| format!("\n{outer}:\n")));
            group = outer;
        }
        let indent = if outer.is_some() { "  " } else { "" };
        let head = if outer.is_some() { "" } else { "\n" };
        text.push_str(&format!("{head}{indent}# {}\n", meaning.replace(". ", &format!(".\n{indent}# "))));
        let lines = yaml(&json!({name: default}));
        text.extend(lines.lines().map(|line| format!("{indent}{line}\n")));
    }
    text
}

/// A file of objects as a template.
fn template(file: &File) -> String {
    let objects: Vec<String> = file.objects.iter().map(|object| object_template(object, file)).collect();
    let text = objects.join("---\n");
    let text = text.replace(objects::PLACE, "{{ $.Release.Namespace }}").replace(objects::WATCHED, "{{ . }}");
    if file.for_each {
        let namespaces = format!(".Values.{} | default (list .Release.Namespace)", settings::NAMESPACES);
        return format!("{{{{- range {namespaces} }}}}\n---\n{text}{{{{- end }}}}\n");
    }
    match file.wanted {
        Some(path) => format!("{{{{- if .Values.{path} }}}}\n{text}{{{{- end }}}}\n"),
        None => text,
    }
}

fn object_template(object: &Value, file: &File) -> String {
    let mut text = String::new();
    for line in yaml(object).lines() {
        let mut indented = line.len() - line.trim_start().len();
        if let Some(fragment) = line.rsplit(' ').next().and_then(as_fragment) {
            // The first field of an item.
            if line.trim_start().starts_with("- ") && line.contains(": ") {
                text.push_str(&format!("{}-\n", " ".repeat(indented)));
                indented += 2;
            }
            for part in fragment.template.lines() {
                text.push_str(&format!("{}{part}\n", " ".repeat(indented)));
            }
            continue;
        }
        // A reference is the whole value of a field.
        let field = line.split_once(": ").and_then(|(name, value)| {
            let value = Value::from(value.trim_matches(['\'', '"']));
            Some((name, settings::referred(&value)?))
        });
        match field {
            None => text.push_str(&format!("{}\n", escaped(line))),
            Some((name, setting)) => text.push_str(&field_template(name, &setting)),
        }
        if file.wanted == Some("crds.enabled") && line == "metadata:" {
            text.push_str(&format!(
                "  {{{{- if .Values.{} }}}}\n  annotations:\n    helm.sh/resource-policy: keep\n  {{{{- end }}}}\n",
                settings::KEEP
            ));
        }
    }
    text
}

/// A line with its braces, which are templates of Prometheus and not of Helm.
fn escaped(line: &str) -> String {
    let parts = line.split("{{").map(|part| part.replace("}}", "{{ `}}` }}"));
    parts.collect::<Vec<_>>().join("{{ `{{` }}")
}

/// The fragment that the end of a line is.
fn as_fragment(end: &str) -> Option<&'static Fragment> {
    settings::fragment_of(&Value::from(end.trim_matches(['\'', '"'])))
}

/// A field whose value is a setting. `name` has the field's indentation.
fn field_template(name: &str, Setting { path, default, .. }: &Setting) -> String {
    let indent = name.len() - name.trim_start().len();
    let pad = " ".repeat(indent);
    let deep = indent + 2;
    match default {
        Value::Array(_) | Value::Object(_) => format!(
            "{pad}{{{{- with .Values.{path} }}}}\n{name}:\n  {pad}{{{{- toYaml . | nindent {deep} }}}}\n{pad}{{{{- end }}}}\n"
        ),
        Value::String(text) if text.is_empty() => {
            let missing = format!("set {path}: it has no default (deploy/README.md, The image)");
            format!("{name}: {{{{ required \"{missing}\" .Values.{path} | quote }}}}\n")
        }
        Value::String(_) => format!("{name}: {{{{ .Values.{path} | quote }}}}\n"),
        _ => format!("{name}: {{{{ .Values.{path} }}}}\n"),
    }
}
