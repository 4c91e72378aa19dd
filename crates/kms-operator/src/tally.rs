//! How many Jobs work for each provider, over all namespaces of this replica.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

/// The Jobs that run, by namespace. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    running: Arc<Mutex<BTreeMap<String, Option<Running>>>>,
    /// Gets a signal when a namespace has fewer Jobs: another one may wait for that.
    changed: watch::Sender<()>,
}

/// The Jobs of a namespace.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Running {
    provider: Option<String>,
    count: usize,
}

impl Tally {
    /// A tally of these namespaces, none of which was looked at.
    pub(crate) fn new<'a>(
        namespaces: impl IntoIterator<Item = &'a String>,
        changed: watch::Sender<()>,
    ) -> Self {
        let unknown = namespaces.into_iter().map(|name| (name.clone(), None)).collect();
        Self { running: Arc::new(Mutex::new(unknown)), changed }
    }

    /// Records what was seen of a namespace.
    pub(crate) fn set(&self, kube_namespace: &str, provider: Option<&str>, count: usize) {
        let running = Running { provider: provider.map(str::to_owned), count };
        let before = self.state().insert(kube_namespace.to_owned(), Some(running.clone())).flatten();
        let is_fewer =
            before.is_none_or(|before| before.provider != running.provider || before.count > count);
        if is_fewer {
            self.changed.send_replace(());
        }
    }

    /// The Jobs of a provider in other namespaces; `None` while one of them was not looked at.
    pub(crate) fn elsewhere(&self, kube_namespace: &str, provider: Option<&str>) -> Option<usize> {
        elsewhere(&self.state(), kube_namespace, provider)
    }

    /// Counts one more Job of a namespace, if all namespaces together stay within the limit. Returns whether they do.
    pub(crate) fn begin(&self, kube_namespace: &str, limit: usize) -> bool {
        let mut state = self.state();
        let Some(Some(own)) = state.get(kube_namespace).cloned() else { return false };
        let Some(others) = elsewhere(&state, kube_namespace, own.provider.as_deref()) else { return false };
        let count = own.count.saturating_add(1);
        if others.saturating_add(count) > limit {
            return false;
        }
        state.insert(kube_namespace.to_owned(), Some(Running { count, ..own }));
        true
    }

    fn state(&self) -> MutexGuard<'_, BTreeMap<String, Option<Running>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn elsewhere(
    state: &BTreeMap<String, Option<Running>>,
    kube_namespace: &str,
    provider: Option<&str>,
) -> Option<usize> {
    let others = state.iter().filter(|(name, _)| *name != kube_namespace);
    others
        .map(|(_, running)| {
            let running = running.as_ref()?;
            Some(if running.provider.as_deref() == provider { running.count } else { 0 })
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_of_one_provider_count_together_once_every_namespace_was_looked_at() {
        let names = ["a", "b", "c"].map(str::to_owned);
        let (sender, mut changed) = watch::channel(());
        let tally = Tally::new(&names, sender);
        tally.set("a", Some("vault"), 1);
        tally.set("b", Some("vault"), 0);
        assert_eq!(tally.elsewhere("b", Some("vault")), None);
        assert!(!tally.begin("b", 9), "the namespace c may have Jobs");
        tally.set("c", Some("kmip"), 5);
        assert_eq!(tally.elsewhere("b", Some("vault")), Some(1));
        assert!(!tally.begin("b", 1) && tally.begin("b", 2) && !tally.begin("b", 2));
        assert!(!tally.begin("a", 2), "the Job that has just begun counts");
        changed.mark_unchanged();
        tally.set("b", Some("vault"), 1);
        assert!(!changed.has_changed().unwrap());
        tally.set("b", Some("vault"), 0);
        assert!(changed.has_changed().unwrap() && tally.begin("a", 2));
    }
}
