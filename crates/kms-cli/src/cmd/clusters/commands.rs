//! The commands that findings name.

use kms_kube::ClusterRef;
use kms_rook::doctor::Commands;

use crate::args::Global;

/// The commands of findings, with the options of this call.
pub(super) fn commands(global: &Global) -> Commands {
    let mut kubectl = "kubectl".to_owned();
    let mut kms = "kms".to_owned();
    let mut both = |option: &str, value: &str| {
        let option = format!(" {option} {}", quoted(value));
        kms.push_str(&option);
        kubectl.push_str(&option);
    };
    if let Some(path) = &global.kubeconfig {
        both("--kubeconfig", &path.display().to_string());
    }
    if let Some(context) = &global.context {
        both("--context", context);
    }
    for path in &global.files {
        kms = format!("{kms} -f {}", quoted(&path.display().to_string()));
    }
    let name = global.cluster.as_ref().map(|named| {
        kms = format!("{kms} -n {}", shown(named));
        kubectl = format!("{kubectl} -n {}", named.kube_namespace);
        named.name.clone()
    });
    Commands::new(kms, kubectl, name.unwrap_or_default())
}

/// A CephCluster as `--cluster` names it. Its name is empty if only its namespace is known.
pub(super) fn shown(named: &ClusterRef) -> String {
    let ClusterRef { kube_namespace, name, .. } = named;
    if name.is_empty() { kube_namespace.clone() } else { format!("{kube_namespace}/{name}") }
}

/// A word for a shell.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+:@=,%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_have_the_options_of_the_call_and_can_be_pasted() {
        let mut global = crate::cli::tests::global(&["-f", "my file.yaml", "--context", "it's"]);
        let commands = commands(&global);
        assert_eq!(commands.kms("list"), r"kms --context 'it'\''s' -f 'my file.yaml' list");
        global.files.clear();
        global.context = None;
        global.cluster = Some(ClusterRef::new("rook-ceph", "my"));
        let commands = super::commands(&global);
        assert_eq!(commands.kms("list"), "kms -n rook-ceph/my list");
        assert_eq!(commands.kubectl("get pods"), "kubectl -n rook-ceph get pods");
    }
}
