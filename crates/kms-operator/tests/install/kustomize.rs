//! The kustomize base: the objects with the defaults of all settings.

use serde_json::json;

use crate::{HEADING, objects, settings, yaml};

pub(crate) fn files() -> Vec<(String, String)> {
    let mut files = Vec::new();
    for file in objects::files() {
        let objects = file.objects.iter().filter_map(settings::with_defaults);
        let namespaces = [objects::PLACE, objects::WATCHED];
        let placed =
            |text: String| namespaces.iter().fold(text, |text, it| text.replace(it, objects::NAMESPACE));
        let text = objects.map(|object| placed(yaml(&object)));
        files.push((file.name.to_owned(), HEADING.to_owned() + &text.collect::<Vec<_>>().join("---\n")));
    }
    let names: Vec<String> = files.iter().map(|(name, _)| name.clone()).collect();
    let list = json!({
        "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": names,
    });
    files.push(("kustomization.yaml".to_owned(), HEADING.to_owned() + &yaml(&list)));
    files
}
