//! The networks of a rotation job where Multus provides them.

use serde_json::{Map, Value};

/// The annotation of Multus that names the networks of a pod.
pub(crate) const ANNOTATION: &str = "k8s.v1.cni.cncf.io/networks";

/// The value of [`ANNOTATION`] for the selector of a network, in the form that Rook writes: a JSON list in which every
/// network has a namespace.
///
/// A selector is such a list already, or `[<namespace>/]<name>[@<interface>]`.
pub(crate) fn selection(selector: &str, kube_namespace: &str) -> String {
    let mut networks = match serde_json::from_str::<Vec<Map<String, Value>>>(selector) {
        Ok(networks) => networks,
        Err(_short) => selector.split(',').map(|one| short(one.trim())).collect(),
    };
    for network in &mut networks {
        let namespace = network.entry("namespace").or_insert(Value::Null);
        if namespace.as_str().is_none_or(str::is_empty) {
            *namespace = Value::from(kube_namespace);
        }
    }
    networks.into_iter().map(Value::from).collect::<Value>().to_string()
}

/// A network in the short form.
fn short(text: &str) -> Map<String, Value> {
    let (namespace, rest) = text.split_once('/').unwrap_or(("", text));
    let (name, interface) = rest.split_once('@').unwrap_or((rest, ""));
    let fields = [("name", name), ("namespace", namespace), ("interface", interface)];
    let given = fields.into_iter().filter(|(_, value)| !value.is_empty());
    given.map(|(field, value)| (field.to_owned(), Value::from(value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_becomes_a_list_with_namespaces() {
        for (selector, expected) in [
            ("public-net", r#"[{"name":"public-net","namespace":"rook-ceph"}]"#),
            (" other/public-net ", r#"[{"name":"public-net","namespace":"other"}]"#),
            ("public-net@eth1", r#"[{"interface":"eth1","name":"public-net","namespace":"rook-ceph"}]"#),
            (r#"[{"name": "net"}]"#, r#"[{"name":"net","namespace":"rook-ceph"}]"#),
            (
                r#"[{"name": "net", "namespace": "other", "ips": ["10.0.0.1"]}]"#,
                r#"[{"ips":["10.0.0.1"],"name":"net","namespace":"other"}]"#,
            ),
        ] {
            assert_eq!(selection(selector, "rook-ceph"), expected, "{selector}");
        }
    }
}
