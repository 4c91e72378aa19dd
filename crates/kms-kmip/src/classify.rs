//! Decides which object of a key is the KEK.
//!
//! KMIP has no conditional write, and names need not be unique on a server. So each object that we register carries its
//! cluster and, if it replaces another object, its generation. The KEK is the oldest object of the highest generation.
//! An object that is [marked as superseded](crate::superseded) is never the KEK, even if its successor is gone.
//! After a Register a writer looks again, and destroys its own object unless that object is the KEK.

use kms_core::{Error, ErrorKind, KeyName, Result};

use crate::{
    label::{NO_CLUSTER, Tag},
    name::{key_name, superseded_key},
    stored::{Attributes, revocation, state},
};

/// An object on the server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Object {
    pub(crate) uid: String,
    /// The keys whose names the object has. Empty if the object is superseded.
    pub(crate) keys: Vec<KeyName>,
    /// The keys of which the object is a superseded object.
    pub(crate) superseded: Vec<KeyName>,
    pub(crate) tag: Option<Tag>,
    pub(crate) initial_date: Option<i64>,
    /// Whether the server has destroyed the key material; some servers keep the attributes.
    pub(crate) destroyed: bool,
}

impl Object {
    pub(crate) fn new(uid: &str, attributes: &Attributes) -> Self {
        let mut keys: Vec<_> = attributes.names.iter().filter_map(|name| key_name(name)).collect();
        let mut superseded: Vec<_> =
            attributes.names.iter().filter_map(|name| superseded_key(name)).collect();
        // The state alone does not count, since a server may deactivate a key after some time.
        if attributes.state == Some(state::DEACTIVATED)
            && attributes.revocation == Some(revocation::SUPERSEDED)
        {
            superseded.append(&mut keys);
        }
        Self {
            uid: uid.to_owned(),
            keys,
            superseded,
            tag: Tag::of(attributes),
            initial_date: attributes.initial_date,
            destroyed: attributes
                .state
                .is_some_and(|found| matches!(found, state::DESTROYED | state::DESTROYED_COMPROMISED)),
        }
    }

    /// Whether the object has the name of a key, or had it before it was superseded.
    pub(crate) fn is_of(&self, name: &KeyName) -> bool {
        self.keys.contains(name) || self.superseded.contains(name)
    }

    /// The object's generation; 0 if the object has no tag.
    pub(crate) fn generation(&self) -> u64 {
        self.tag.as_ref().map_or(0, |tag| tag.generation)
    }

    /// The sort key by age, oldest first. Times are whole seconds; the numbers that many servers give to objects break
    /// ties.
    fn age(&self) -> (i64, Option<u64>, &str) {
        (self.initial_date.unwrap_or(i64::MAX), self.uid.parse().ok(), &self.uid)
    }
}

/// The objects of one key.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Objects {
    /// The KEK.
    pub(crate) current: Object,
    /// Later objects of the same generation, left by writers that lost a race or crashed. Callers destroy them first.
    pub(crate) strays: Vec<Object>,
    /// Superseded objects, the oldest first.
    pub(crate) superseded: Vec<Object>,
}

/// Classifies the objects found under the name of a key. `None` if no object belongs to the key.
///
/// Some servers ignore the filter of a Locate, so this function compares name and cluster again (field-reports UP-111).
///
/// # Errors
///
/// `Conflict` if the KEK cannot be decided: the objects belong to several clusters and ours is unknown, or there are
/// several objects that we have not registered.
pub(crate) fn classify(
    name: &KeyName,
    cluster: Option<&str>,
    mut found: Vec<Object>,
) -> Result<Option<Objects>> {
    found.retain(|object| !object.destroyed && object.keys.contains(name));
    let is_of =
        |object: &Object, cluster: &str| object.tag.as_ref().is_some_and(|tag| tag.cluster == cluster);
    // Prefer the objects of our cluster, then objects without a cluster, then objects without a tag.
    let group = match cluster {
        Some(cluster) => {
            [cluster, NO_CLUSTER].into_iter().find(|known| found.iter().any(|o| is_of(o, known)))
        }
        None => {
            let mut clusters = found.iter().filter_map(|object| Some(object.tag.as_ref()?.cluster.as_str()));
            let first = clusters.next();
            if let Some(other) = clusters.find(|other| Some(*other) != first) {
                return Err(ambiguous("objects of several clusters", &found)
                    .context("clusters", format!("{}, {other}", first.unwrap_or_default())));
            }
            first
        }
    }
    .map(ToOwned::to_owned);
    let (mut found, mut rest): (Vec<_>, Vec<_>) = found.into_iter().partition(|object| match &group {
        Some(cluster) => is_of(object, cluster),
        None => object.tag.is_none(),
    });
    if group.is_none() && found.len() > 1 {
        return Err(ambiguous("several objects that rook-kms has not registered", &found));
    }
    // A predecessor of one of these objects belongs to the key too, even if another program has registered it.
    let mut at = 0;
    while let Some(object) = found.get(at) {
        let before = object.tag.as_ref().and_then(|tag| tag.predecessor.as_deref());
        if let Some(position) = before.and_then(|uid| rest.iter().position(|object| object.uid == uid)) {
            found.push(rest.swap_remove(position));
        }
        at += 1;
    }
    found.sort_by(|one, other| {
        other.generation().cmp(&one.generation()).then_with(|| one.age().cmp(&other.age()))
    });
    let mut found = found.into_iter();
    let Some(current) = found.next() else { return Ok(None) };
    let (strays, mut superseded): (Vec<_>, Vec<_>) =
        found.partition(|object| object.generation() == current.generation());
    superseded.reverse();
    Ok(Some(Objects { current, strays, superseded }))
}

fn ambiguous(what: &str, found: &[Object]) -> Error {
    let mut uids: Vec<_> = found.iter().map(|object| object.uid.as_str()).collect();
    uids.truncate(8);
    Error::new(
        ErrorKind::Conflict,
        format!(
            "the server has {what} under the name of the key, and which of them is the KEK cannot be decided: rename \
             or destroy the others, or name the cluster"
        ),
    )
    .context("objects", uids.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> KeyName {
        KeyName::new("a").unwrap()
    }

    fn object(uid: &str, cluster: Option<&str>, generation: u64, date: i64) -> Object {
        let tag = cluster.map(|cluster| Tag { generation, ..Tag::first(Some(cluster)) });
        Object {
            uid: uid.to_owned(),
            keys: vec![name()],
            superseded: Vec::new(),
            tag,
            initial_date: Some(date),
            destroyed: false,
        }
    }

    fn current(cluster: Option<&str>, found: Vec<Object>) -> Option<String> {
        classify(&name(), cluster, found).unwrap().map(|sorted| sorted.current.uid)
    }

    #[test]
    fn the_highest_generation_counts_and_of_one_generation_the_oldest() {
        let ours = Some("ns/name");
        let found = vec![
            object("9", ours, 1, 20),
            object("10", ours, 1, 20),
            object("3", ours, 0, 10),
            object("2", ours, 0, 11),
            object("1", Some("other/one"), 7, 1),
        ];
        let sorted = classify(&name(), ours, found).unwrap().unwrap();
        let uids = |objects: &[Object]| objects.iter().map(|o| o.uid.clone()).collect::<Vec<_>>().join(" ");
        assert_eq!(sorted.current.uid, "9");
        assert_eq!((uids(&sorted.strays), uids(&sorted.superseded)), ("10".to_owned(), "2 3".to_owned()));
    }

    #[test]
    fn one_with_our_name_and_tag_is_taken_among_many() {
        let ours = Some("ns/name");
        let mut foreign_name = object("1", ours, 0, 1);
        foreign_name.keys.clear();
        let mut destroyed = object("2", ours, 3, 1);
        destroyed.destroyed = true;
        let found = vec![foreign_name, destroyed, object("3", None, 0, 1), object("4", ours, 0, 9)];
        assert_eq!(current(ours, found).as_deref(), Some("4"));
        assert_eq!(current(ours, vec![object("3", None, 0, 1)]).as_deref(), Some("3"));
        assert_eq!(current(None, vec![object("3", ours, 0, 1)]).as_deref(), Some("3"));
        assert_eq!(current(ours, vec![object("3", Some(NO_CLUSTER), 0, 1)]).as_deref(), Some("3"));
        assert_eq!(current(ours, vec![object("3", Some("other/one"), 0, 1)]), None);
        assert_eq!(current(ours, vec![]), None);
    }

    #[test]
    fn a_replaced_object_belongs_to_the_key_even_if_rook_registered_it() {
        let ours = Some("ns/name");
        let mut second = object("2", Some(NO_CLUSTER), 1, 2);
        let mut third = object("3", ours, 2, 3);
        for (object, before) in [(&mut second, "1"), (&mut third, "2")] {
            object.tag.as_mut().unwrap().predecessor = Some(before.to_owned());
        }
        let found = vec![object("1", None, 0, 1), second, third, object("9", None, 0, 9)];
        let sorted = classify(&name(), ours, found).unwrap().unwrap();
        let superseded: Vec<_> = sorted.superseded.iter().map(|object| object.uid.as_str()).collect();
        assert_eq!((sorted.current.uid.as_str(), superseded), ("3", vec!["1", "2"]));
        assert!(sorted.strays.is_empty());
    }

    #[test]
    fn what_cannot_be_told_apart_is_said_to_be_so() {
        let error = classify(&name(), Some("a/b"), vec![object("1", None, 0, 1), object("2", None, 0, 1)])
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(error.to_string().contains("objects: 1, 2"), "{error}");
        let found = vec![object("1", Some("a/b"), 0, 1), object("2", Some("c/d"), 0, 1)];
        let error = classify(&name(), None, found).unwrap_err();
        assert!(error.to_string().contains("several clusters"), "{error}");
    }
}
