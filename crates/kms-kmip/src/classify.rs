//! Decides which object of a key is the KEK.
//!
//! KMIP has no conditional write, and names need not be unique on a server. So each object that we register carries its
//! cluster and, if it replaces another object, its generation. The KEK is the oldest object of the highest generation.
//! An object that is [marked as superseded](crate::superseded) is never the KEK, even if its successor is gone.
//! After a Register a writer [looks again](crate::find), and destroys its own object unless that object is the KEK.

use kms_core::{Error, ErrorKind, KeyName, Result};

use crate::{
    label::{NO_CLUSTER, Tag},
    name::{key_name, superseded_key},
    stored::{Attributes, object_type, revocation, state},
};

/// An object on the server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Object {
    pub(crate) uid: String,
    /// The keys whose names the object has. Empty if the object is superseded, or if its type cannot be that of a KEK.
    pub(crate) keys: Vec<KeyName>,
    /// The keys of which the object is a superseded object.
    pub(crate) superseded: Vec<KeyName>,
    pub(crate) tag: Option<Tag>,
    pub(crate) initial_date: Option<i64>,
    /// `None` if the server does not tell the type.
    pub(crate) object_type: Option<u32>,
    /// Whether the server has destroyed the key material; some servers keep the attributes.
    pub(crate) destroyed: bool,
    /// Whether the object is deactivated, by its date or by someone. Some servers hand its KEK out nevertheless.
    pub(crate) deactivated: bool,
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
        // A certificate may have the name of a key.
        if !object_type::may_be_kek(attributes.object_type) {
            keys.clear();
            superseded.clear();
        }
        Self {
            uid: uid.to_owned(),
            keys,
            superseded,
            tag: Tag::of(attributes),
            initial_date: attributes.initial_date,
            object_type: attributes.object_type,
            destroyed: attributes
                .state
                .is_some_and(|found| matches!(found, state::DESTROYED | state::DESTROYED_COMPROMISED)),
            deactivated: attributes.state == Some(state::DEACTIVATED),
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

    /// The cluster in the object's tag. `None` if the object has no tag, or if the server has lost the cluster.
    pub(crate) fn cluster(&self) -> Option<&str> {
        self.tag.as_ref()?.cluster.as_deref()
    }

    /// The object that this one replaces.
    pub(crate) fn predecessor(&self) -> Option<&str> {
        self.tag.as_ref()?.predecessor.as_deref()
    }

    /// Whether the object belongs to another cluster than `ours`. Objects without a cluster belong to none.
    pub(crate) fn is_foreign(&self, ours: Option<&str>) -> bool {
        self.cluster()
            .is_some_and(|cluster| cluster != NO_CLUSTER && ours.is_some_and(|ours| ours != cluster))
    }

    /// Whether the labels of two objects show that `other` belongs to the key of this object: it is the predecessor, or
    /// it is a successor whose cluster the server has lost.
    fn leads_to(&self, other: &Self) -> bool {
        let is_lost = other.tag.is_some() && other.cluster().is_none();
        self.predecessor() == Some(&other.uid) || (is_lost && other.predecessor() == Some(&self.uid))
    }

    /// The sort key by age, oldest first. Times are whole seconds; identifiers break ties, in an order that need not be
    /// that of the registrations.
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
    let known =
        |found: &[Object], cluster: &str| found.iter().any(|object| object.cluster() == Some(cluster));
    // Prefer the objects of our cluster, then objects without a cluster, then objects without a tag.
    let group = match cluster {
        Some(cluster) => [cluster, NO_CLUSTER].into_iter().find(|cluster| known(&found, cluster)),
        None => {
            let mut clusters = found.iter().filter_map(Object::cluster);
            let first = clusters.next();
            if let Some(other) = clusters.find(|other| Some(*other) != first) {
                return Err(ambiguous("objects of several clusters", &found)
                    .context("clusters", format!("{}, {other}", first.unwrap_or_default())));
            }
            first
        }
    }
    .map(ToOwned::to_owned);
    let (mut found, mut rest): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|object| object.cluster() == group.as_deref());
    if group.is_none() {
        rest.extend(found.drain(1.min(found.len())..));
    }
    gather(&mut found, &mut rest, cluster);
    if group.is_none() && rest.iter().any(|object| object.cluster().is_none()) {
        found.append(&mut rest);
        return Err(ambiguous("several objects that rook-kms has not registered", &found));
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

/// Moves the objects that belong to the key of `found` from `rest` to `found`. A predecessor belongs to it even if another
/// program has registered it.
pub(crate) fn gather(found: &mut Vec<Object>, rest: &mut Vec<Object>, cluster: Option<&str>) {
    let mut at = 0;
    while let Some(object) = found.get(at) {
        match rest.iter().position(|other| !other.is_foreign(cluster) && object.leads_to(other)) {
            Some(position) => found.push(rest.swap_remove(position)),
            None => at += 1,
        }
    }
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
            object_type: Some(2),
            destroyed: false,
            deactivated: false,
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
    fn a_successor_whose_cluster_the_server_has_lost_is_the_kek_and_another_clusters_is_not() {
        let ours = Some("ns/name");
        let lost = |uid: &str, generation, before: &str| {
            let mut object = object(uid, ours, generation, 5);
            object.tag = Some(Tag { cluster: None, generation, predecessor: Some(before.to_owned()) });
            object
        };
        let first = || object("1", ours, 0, 1);
        assert_eq!(current(ours, vec![lost("3", 2, "2"), first(), lost("2", 1, "1")]).as_deref(), Some("3"));
        assert_eq!(current(ours, vec![lost("9", 2, "8"), first()]).as_deref(), Some("1"));
        // The objects before were renamed, and the index was lost.
        assert_eq!(current(ours, vec![lost("3", 2, "2")]).as_deref(), Some("3"));
        assert_eq!(current(ours, vec![lost("3", 2, "2"), lost("4", 3, "3")]).as_deref(), Some("4"));
        let error = classify(&name(), ours, vec![lost("3", 2, "2"), lost("9", 3, "8")]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        // A label that names an object of another cluster does not make it ours.
        let theirs = object("7", Some("other/one"), 0, 1);
        let sorted = classify(&name(), ours, vec![lost("3", 2, "7"), theirs]).unwrap().unwrap();
        assert_eq!((sorted.current.uid.as_str(), sorted.superseded), ("3", vec![]));
    }

    #[test]
    fn only_an_object_of_a_type_of_keks_has_the_name_of_a_key() {
        let attributes = |object_type| Attributes {
            names: vec!["rook-ceph-osd-encryption-key-a".to_owned()],
            object_type,
            ..Attributes::default()
        };
        for (object_type, keys) in
            [(None, 1), (Some(2), 1), (Some(7), 1), (Some(8), 1), (Some(1), 0), (Some(3), 0), (Some(6), 0)]
        {
            assert_eq!(Object::new("1", &attributes(object_type)).keys.len(), keys, "{object_type:?}");
        }
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
