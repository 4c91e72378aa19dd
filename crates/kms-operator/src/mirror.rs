//! Copies of objects that the API server has, kept up to date by watches.
//!
//! A copy holds only what the operator needs of each object: the Deployment of an OSD has 25 kB.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::{Stream, StreamExt as _, pin_mut};
use kube::{ResourceExt, runtime::watcher};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::health::Health;

/// The copies of the objects of one kind, by name. Clones share them.
#[derive(Debug)]
pub(crate) struct Mirror<T>(Arc<Mutex<State<T>>>);

#[derive(Debug)]
struct State<T> {
    objects: BTreeMap<String, T>,
    /// The objects of a list that is not complete.
    partial: BTreeMap<String, T>,
    is_synced: bool,
}

/// What a mirror tells, and how it is called.
#[derive(Clone, Debug)]
pub(crate) struct Reports {
    /// The kind and the namespace, for messages.
    pub(crate) name: String,
    pub(crate) health: Health,
    /// Gets a signal for each change.
    pub(crate) changed: watch::Sender<()>,
}

impl<T: Clone + PartialEq> Mirror<T> {
    pub(crate) fn new() -> Self {
        let (objects, partial) = (BTreeMap::new(), BTreeMap::new());
        Self(Arc::new(Mutex::new(State { objects, partial, is_synced: false })))
    }

    /// The copies; `None` before the first list is complete.
    pub(crate) fn objects(&self) -> Option<BTreeMap<String, T>> {
        let state = self.state();
        state.is_synced.then(|| state.objects.clone())
    }

    /// Whether an object of this name is among the copies.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.state().objects.contains_key(name)
    }

    /// Follows a watch until it ends, which it does not by itself. `read` makes the copy of an object, and `None` of one that does
    /// not concern the operator.
    pub(crate) async fn follow<K: ResourceExt + fmt::Debug>(
        self,
        events: impl Stream<Item = watcher::Result<watcher::Event<K>>>,
        read: impl Fn(K) -> Option<T>,
        reports: Reports,
    ) {
        pin_mut!(events);
        let mut failing = false;
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    if std::mem::take(&mut failing) {
                        info!("the watch of {} works again", reports.name);
                    }
                    if self.apply(event, &read) {
                        reports.changed.send_replace(());
                    }
                    if self.state().is_synced {
                        reports.health.store_synced(&reports.name);
                    }
                }
                Err(cause) => {
                    let message = format!("the watch of {} failed: {}", reports.name, in_words(&cause));
                    // The first failure only: kube tries again and again, ever more slowly.
                    if !std::mem::replace(&mut failing, true) {
                        warn!("{message}");
                    }
                    reports.health.failed(message);
                }
            }
        }
    }

    /// Takes an event, and returns whether it changed anything.
    fn apply<K: ResourceExt>(&self, event: watcher::Event<K>, read: &impl Fn(K) -> Option<T>) -> bool {
        let mut state = self.state();
        match event {
            watcher::Event::Init => state.partial.clear(),
            watcher::Event::InitApply(object) => {
                let name = object.name_any();
                if let Some(copy) = read(object) {
                    state.partial.insert(name, copy);
                }
            }
            watcher::Event::InitDone => {
                let objects = std::mem::take(&mut state.partial);
                let is_new = !std::mem::replace(&mut state.is_synced, true) || state.objects != objects;
                state.objects = objects;
                return is_new;
            }
            watcher::Event::Apply(object) => {
                let name = object.name_any();
                return match read(object) {
                    Some(copy) if state.objects.get(&name) == Some(&copy) => false,
                    Some(copy) => {
                        state.objects.insert(name, copy);
                        true
                    }
                    None => state.objects.remove(&name).is_some(),
                };
            }
            watcher::Event::Delete(object) => return state.objects.remove(&object.name_any()).is_some(),
        }
        false
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Clone for Mirror<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// What went wrong with a watch. Objects are not quoted.
fn in_words(error: &watcher::Error) -> String {
    let of = |error: &kube::Error| {
        match error {
        kube::Error::Api(status) if status.code == 404 => {
            "the API server does not know the resource; install the custom resource definitions of kms and of Rook".to_owned()
        }
        kube::Error::Api(status) => format!("HTTP status {}, {}", status.code, status.message),
        kube::Error::SerdeError(_) => "the response is not valid".to_owned(),
        other => other.to_string(),
    }
    };
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => of(error),
        watcher::Error::WatchError(status) => format!("HTTP status {}, {}", status.code, status.message),
        watcher::Error::NoResourceVersion => "the response has no resource version".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::ObjectMeta};
    use kube::runtime::watcher::Event;

    use super::*;

    fn object(name: &str, value: &str) -> ConfigMap {
        ConfigMap {
            metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
            data: Some([("value".to_owned(), value.to_owned())].into()),
            ..ConfigMap::default()
        }
    }

    #[test]
    fn objects_are_there_once_their_list_is_complete_and_a_new_list_replaces_them() {
        let mirror = Mirror::<String>::new();
        let read = |object: ConfigMap| object.data?.remove("value").filter(|value| !value.is_empty());
        let apply = |event| mirror.apply(event, &read);
        let names = || mirror.objects().map(|objects| objects.into_keys().collect::<Vec<_>>().join(","));
        assert!(!apply(Event::Init) && !apply(Event::InitApply(object("a", "1"))));
        assert_eq!(names(), None);
        assert!(apply(Event::InitDone));
        assert!(apply(Event::Apply(object("b", "1"))));
        // Nothing that the operator needs has changed.
        assert!(!apply(Event::Apply(object("b", "1"))));
        assert!(apply(Event::Apply(object("b", "2"))));
        assert_eq!(names().as_deref(), Some("a,b"));
        // A list after a watch that expired: until it is complete, the old objects stay.
        assert!(!apply(Event::Init) && !apply(Event::InitApply(object("c", "1"))));
        assert_eq!(names().as_deref(), Some("a,b"));
        assert!(apply(Event::InitDone));
        assert_eq!(names().as_deref(), Some("c"));
        assert!(apply(Event::Apply(object("c", ""))) && !apply(Event::Delete(object("c", "1"))));
        assert_eq!(names().as_deref(), Some(""));
    }
}
