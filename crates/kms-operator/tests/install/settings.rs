//! What people may change: the values of the Helm chart.

use serde_json::{Map, Value, json};

/// Whether CustomResourceDefinitions outlive the release.
pub(crate) const KEEP: &str = "crds.keep";

/// Whether the Prometheus Operator gets objects.
pub(crate) const MONITORING: &str = "monitoring.enabled";

/// The namespaces with CephClusters.
pub(crate) const NAMESPACES: &str = "namespaces";

/// The setting that has no default.
pub(crate) const IMAGE: &str = "image";

/// The image in files for kustomize, where an overlay names another one. The domain is one that no registry has.
pub(crate) const IMAGE_IN_BASE: &str = "registry.example.com/kms:v0.1.0";

/// A part of an object that depends on values in its own way.
#[derive(Debug)]
pub(crate) struct Fragment {
    pub(crate) name: &'static str,
    /// The settings that decide.
    pub(crate) paths: &'static [&'static str],
    /// The lines of the template.
    pub(crate) template: &'static str,
    /// The field with the defaults of the settings, if it has one then.
    default: Option<&'static str>,
}

/// All fragments.
pub(crate) const FRAGMENTS: [Fragment; 7] = [
    Fragment {
        name: "arguments",
        paths: &[NAMESPACES, "page.auth", TLS],
        template: r#"{{- range .Values.namespaces }}
- {{ printf "--watch-namespace=%s" . | quote }}
{{- end }}
{{- if not .Values.page.auth }}
- --page-auth=off
{{- end }}
{{- if .Values.page.tlsSecret }}
- --listen-certificate=/etc/kms/tls/tls.crt
- --listen-key=/etc/kms/tls/tls.key
{{- end }}"#,
        default: None,
    },
    Fragment {
        name: "scheme",
        paths: &[TLS],
        template: "{{- if .Values.page.tlsSecret }}\nscheme: HTTPS\n{{- end }}",
        default: None,
    },
    Fragment {
        name: "scraperToken",
        paths: &["page.auth"],
        template: "{{- if .Values.page.auth }}\nbearerTokenFile: /var/run/secrets/kubernetes.io/serviceaccount/token\n{{- end }}",
        default: Some("/var/run/secrets/kubernetes.io/serviceaccount/token"),
    },
    Fragment {
        name: "scraperTls",
        paths: &[TLS, "monitoring.tlsConfig"],
        template: r#"{{- if .Values.page.tlsSecret }}
scheme: https
tlsConfig:
{{- with .Values.monitoring.tlsConfig }}
  {{- toYaml . | nindent 6 }}
{{- else }}
  ca:
    secret:
      key: ca.crt
      name: {{ .Values.page.tlsSecret | quote }}
  serverName: kms-operator.{{ $.Release.Namespace }}.svc
{{- end }}
{{- end }}"#,
        default: None,
    },
    Fragment {
        name: "selectedBy",
        paths: &["monitoring.labels"],
        template: "{{- with .Values.monitoring.labels }}\n{{- toYaml . | nindent 4 }}\n{{- end }}",
        default: None,
    },
    Fragment {
        name: "volumes",
        paths: &[TLS],
        template: "{{- with .Values.page.tlsSecret }}\nvolumes:\n- name: tls\n  secret:\n    secretName: {{ . | quote }}\n{{- end }}",
        default: None,
    },
    Fragment {
        name: "volumeMounts",
        paths: &[TLS],
        template: "{{- if .Values.page.tlsSecret }}\nvolumeMounts:\n- mountPath: /etc/kms/tls\n  name: tls\n  readOnly: true\n{{- end }}",
        default: None,
    },
];

/// The Secret with the server's certificate.
const TLS: &str = "page.tlsSecret";

/// How an object has a fragment: as an item of a list, or as a field of any name.
pub(crate) fn fragment(name: &str) -> Value {
    Value::from(format!("<{name}>"))
}

/// The fragment that a value is.
pub(crate) fn fragment_of(value: &Value) -> Option<&'static Fragment> {
    let name = value.as_str()?.strip_prefix('<')?.strip_suffix('>')?;
    let found = FRAGMENTS.iter().find(|fragment| fragment.name == name);
    Some(found.unwrap_or_else(|| panic!("there is no fragment {name}")))
}

/// A value of the chart.
#[derive(Debug)]
pub(crate) struct Setting {
    /// Its place in the values, with a dot between the names.
    pub(crate) path: &'static str,
    /// What it is for, in sentences.
    pub(crate) meaning: &'static str,
    pub(crate) default: Value,
    /// Its JSON schema, without the meaning.
    schema: Value,
}

/// All settings, in the order of `values.yaml`. Those with the same first name are neighbours.
pub(crate) fn all() -> Vec<Setting> {
    let object = || json!({"type": "object"});
    let list = || json!({"type": "array", "items": {"type": "object"}});
    let some = || json!({"type": "array", "items": {"type": "object"}, "minItems": 1});
    let yes_or_no = || json!({"type": "boolean"});
    let strings = || json!({"type": "object", "additionalProperties": {"type": "string"}});
    let setting = |path, meaning, default, schema| Setting { path, meaning, default, schema };
    vec![
        setting(
            IMAGE,
            "The image with kms, better by digest than by tag. It has no default: no registry has an image of this project.",
            json!(""),
            json!({"type": "string"}),
        ),
        setting(
            "imagePullPolicy",
            "When a node pulls the image.",
            json!("IfNotPresent"),
            json!({"type": "string", "enum": ["Always", "IfNotPresent", "Never"]}),
        ),
        setting(
            NAMESPACES,
            "The namespaces with CephClusters; that of the release if empty. The operator has no rights in any other one.",
            json!([]),
            json!({"type": "array", "items": {"type": "string", "minLength": 1}}),
        ),
        setting("imagePullSecrets", "The Secrets with credentials for the registry.", json!([]), list()),
        setting(
            "replicas",
            "How many pods run. One of them works, the others take over when it is gone.",
            json!(2),
            json!({"type": "integer", "minimum": 0}),
        ),
        setting(
            "resources",
            "What a pod asks for and may use. The memory grows with the number of OSDs.",
            json!({"limits": {"memory": "256Mi"}, "requests": {"cpu": "20m", "memory": "64Mi"}}),
            object(),
        ),
        setting("nodeSelector", "The labels of the nodes that may run the pods.", json!({}), strings()),
        setting("tolerations", "The taints that the pods tolerate.", json!([]), list()),
        setting("affinity", "Further rules of placement.", json!({}), object()),
        setting("podAnnotations", "Further annotations of the pods.", json!({}), strings()),
        setting(
            "page.auth",
            "Shows metrics and the status page to users whom the cluster allows it, by their tokens; otherwise to all who can connect.",
            json!(true),
            yes_or_no(),
        ),
        setting(
            TLS,
            "The Secret of the type kubernetes.io/tls with the certificate of metrics and page. Without it tokens cross the network in the clear.",
            json!(""),
            json!({"type": "string"}),
        ),
        setting(
            MONITORING,
            "Makes a ServiceMonitor and a PrometheusRule. The definitions of the Prometheus Operator must be in the cluster; without them Helm refuses the release before it changes anything.",
            json!(false),
            yes_or_no(),
        ),
        setting(
            "monitoring.labels",
            "Further labels of both, by which a Prometheus selects them.",
            json!({}),
            strings(),
        ),
        setting(
            "monitoring.tlsConfig",
            "How Prometheus checks the certificate of page.tlsSecret, as in a ServiceMonitor. If empty, by the key ca.crt of that Secret and the name of the Service.",
            json!({}),
            object(),
        ),
        setting(
            "crds.enabled",
            "Installs the CustomResourceDefinitions. Without them the operator is not ready.",
            json!(true),
            yes_or_no(),
        ),
        setting(
            KEEP,
            "Keeps the CustomResourceDefinitions and all their objects when the release is uninstalled. No key depends on them.",
            json!(true),
            yes_or_no(),
        ),
        setting(
            "podDisruptionBudget.enabled",
            "Keeps one pod running while nodes are drained.",
            json!(true),
            yes_or_no(),
        ),
        setting(
            "networkPolicy.enabled",
            "Limits the connections of the pods: in to the port of metrics, out to DNS and the API server.",
            json!(true),
            yes_or_no(),
        ),
        setting(
            "networkPolicy.from",
            "The peers that may connect to the port of metrics and of the page, as in a NetworkPolicy.",
            json!([{"namespaceSelector": {}}]),
            some(),
        ),
        setting(
            "networkPolicy.apiServerPorts",
            "The ports of the API server, before and behind its Service.",
            json!([{"port": 443, "protocol": "TCP"}, {"port": 6443, "protocol": "TCP"}]),
            some(),
        ),
    ]
}

/// How an object of [`objects`](crate::objects) refers to a setting: as a whole value.
pub(crate) fn reference(path: &str) -> Value {
    Value::from(format!("__{path}__"))
}

/// The setting that a value refers to.
pub(crate) fn referred(value: &Value) -> Option<Setting> {
    let path = value.as_str()?.strip_prefix("__")?.strip_suffix("__")?;
    let found = all().into_iter().find(|setting| setting.path == path);
    Some(found.unwrap_or_else(|| panic!("there is no setting {path}")))
}

/// Adds the paths of the settings that an object refers to.
pub(crate) fn used(object: &Value, paths: &mut Vec<String>) {
    match object {
        Value::Array(items) => items.iter().for_each(|item| used(item, paths)),
        Value::Object(fields) => fields.values().for_each(|value| used(value, paths)),
        other => {
            let fragment = fragment_of(other).into_iter().flat_map(|fragment| fragment.paths);
            paths.extend(fragment.map(|path| (*path).to_owned()));
            paths.extend(referred(other).map(|setting| setting.path.to_owned()));
        }
    }
}

/// The object with the default in the place of each reference. An empty default is left out.
pub(crate) fn with_defaults(object: &Value) -> Option<Value> {
    Some(match object {
        Value::Array(items) => items.iter().filter_map(with_defaults).collect(),
        Value::Object(fields) => fields
            .iter()
            .filter_map(|(name, value)| Some((name.clone(), with_defaults(value)?)))
            .collect::<Map<_, _>>()
            .into(),
        other => match (fragment_of(other), referred(other)) {
            (Some(fragment), _) => Value::from(fragment.default?),
            (None, None) => other.clone(),
            (None, Some(setting)) if setting.path == IMAGE => Value::from(IMAGE_IN_BASE),
            (None, Some(Setting { default, .. })) => (!is_empty(&default)).then_some(default)?,
        },
    })
}

fn is_empty(value: &Value) -> bool {
    value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty)
}

/// The schema of all values.
pub(crate) fn schema() -> Value {
    let mut properties = Map::new();
    for Setting { path, meaning, default, schema } in all() {
        let mut property = schema;
        property["description"] = Value::from(meaning);
        property["default"] = default;
        let (outer, inner) = path.split_once('.').map_or((path, None), |(outer, inner)| (outer, Some(inner)));
        match inner {
            None => _ = properties.insert(outer.to_owned(), property),
            Some(inner) => {
                let group = json!({"type": "object", "additionalProperties": false, "properties": {}});
                properties.entry(outer).or_insert(group)["properties"][inner] = property;
            }
        }
    }
    // Helm sets it for every chart that is part of another one.
    properties.insert("global".to_owned(), json!({"type": "object"}));
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "additionalProperties": false,
        "properties": properties,
    })
}
