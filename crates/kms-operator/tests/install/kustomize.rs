//! The kustomize base, and the component for the Prometheus Operator: the objects with the defaults of all settings.

use serde_json::json;

use crate::{HEADING, objects, settings, yaml};

/// The files, by their paths below `deploy/`.
pub(crate) fn files() -> Vec<(String, String)> {
    let of_kind = |folder: &str, kind: &str, version: &str, of_monitoring: bool| {
        let wanted = |file: &objects::File| (file.wanted == Some(settings::MONITORING)) == of_monitoring;
        let mut files = Vec::new();
        let mut names = Vec::new();
        for file in objects::files().into_iter().filter(wanted) {
            let objects = file.objects.iter().filter_map(settings::with_defaults);
            let namespaces = [objects::PLACE, objects::WATCHED];
            let placed =
                |text: String| namespaces.iter().fold(text, |text, it| text.replace(it, objects::NAMESPACE));
            let text = objects.map(|object| placed(yaml(&object)));
            let text = HEADING.to_owned() + &text.collect::<Vec<_>>().join("---\n");
            files.push((format!("{folder}/{}", file.name), text));
            names.push(file.name);
        }
        let list = json!({
            "apiVersion": format!("kustomize.config.k8s.io/{version}"), "kind": kind, "resources": names,
        });
        files.push((format!("{folder}/kustomization.yaml"), HEADING.to_owned() + &yaml(&list)));
        files
    };
    let base = of_kind("kustomize/base", "Kustomization", "v1beta1", false);
    [base, of_kind("monitoring", "Component", "v1alpha1", true)].concat()
}
