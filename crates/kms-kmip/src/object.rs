//! Which of the objects of a name is the KEK.
//!
//! KMIP has no conditional write, and names need not be unique on a server. So each object that we register says of
//! which cluster it is and, if it replaces another one, of which generation: the highest generation counts, and of
//! one generation the oldest object, since whoever registers looks again afterwards and takes its own object back if
//! it is not that one.

use kms_core::{Error, ErrorKind, KeyName, Result};

use crate::{
    api::{Attribute, Attributes, Body},
    name::{key_name, object_name},
};

/// The application namespace of the cluster.
const CLUSTER: &str = "rook-kms";
/// The application namespace of generation and predecessor.
const GENERATION: &str = "rook-kms-generation";
/// Stands in the second name of an object, where the server takes no application specific information.
const MARK: &str = " rook-kms ";
/// The cluster of objects that were registered without one.
pub(crate) const NO_CLUSTER: &str = "-";

/// The states Destroyed and Destroyed Compromised.
const DESTROYED: [u32; 2] = [5, 6];

/// What an object of ours says of itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Tag {
    pub(crate) cluster: String,
    /// 0 for a key that was created, one more for each update.
    pub(crate) generation: u64,
    /// The identifier of the object that this one replaces.
    pub(crate) predecessor: Option<String>,
}

impl Tag {
    pub(crate) fn first(cluster: Option<&str>) -> Self {
        Self { cluster: cluster.unwrap_or(NO_CLUSTER).to_owned(), generation: 0, predecessor: None }
    }

    pub(crate) fn next(cluster: Option<&str>, before: Option<&Self>, predecessor: &str) -> Self {
        let generation = before.map_or(0, |before| before.generation);
        Self {
            generation: generation.saturating_add(1),
            predecessor: Some(predecessor.to_owned()),
            ..Self::first(cluster)
        }
    }

    fn generation_text(&self) -> String {
        format!("{} {}", self.generation, self.predecessor.as_deref().unwrap_or_default())
    }

    fn read_generation(mut self, text: &str) -> Self {
        let (generation, predecessor) = text.split_once(' ').unwrap_or((text, ""));
        self.generation = generation.parse().unwrap_or_default();
        self.predecessor = Some(predecessor.to_owned()).filter(|uid| !uid.is_empty());
        self
    }

    fn of(attributes: &Attributes) -> Option<Self> {
        let data = |namespace: &str| {
            attributes.application.iter().find(|(known, _)| known == namespace).map(|(_, data)| data.as_str())
        };
        if let Some(cluster) = data(CLUSTER) {
            // A cluster is namespace/name, so it has no space.
            let (cluster, rest) = cluster.split_once(' ').unwrap_or((cluster, ""));
            return Some(Self::first(Some(cluster)).read_generation(data(GENERATION).unwrap_or(rest)));
        }
        let marked = attributes.names.iter().find_map(|name| Some(name.split_once(MARK)?.1))?;
        let (cluster, generation) = marked.split_once(' ').unwrap_or((marked, ""));
        Some(Self::first(Some(cluster)).read_generation(generation))
    }
}

/// How an object is registered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Shape {
    pub(crate) body: Body,
    pub(crate) label: Label,
}

/// How an object says of itself what it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Label {
    /// By its name and application specific information, twice where it replaces another object.
    Application,
    /// The same in one piece: from 2.0 on PyKMIP takes no attribute twice. It cannot be located by its cluster.
    OneApplication,
    /// By its name and a second name.
    SecondName,
    /// By its name alone.
    Name,
    /// Not at all, as with Rook. Only an index can find it.
    None,
}

impl Shape {
    /// The shapes to try, the best first. What was accepted is remembered.
    ///
    /// Rook can read all of them but secret data, so that is the last resort; and an object without a name is of use
    /// only where an index has its identifier.
    pub(crate) const ALL: [Self; 9] = [
        Self { body: Body::Raw, label: Label::Application },
        Self { body: Body::Raw, label: Label::OneApplication },
        Self { body: Body::Raw, label: Label::SecondName },
        Self { body: Body::Raw, label: Label::Name },
        Self { body: Body::Rooks, label: Label::None },
        Self { body: Body::SecretData, label: Label::Application },
        Self { body: Body::SecretData, label: Label::OneApplication },
        Self { body: Body::SecretData, label: Label::SecondName },
        Self { body: Body::SecretData, label: Label::Name },
    ];

    /// Whether an object of this shape, with this tag, can be told from others without an index.
    pub(crate) fn is_found(self, tag: &Tag) -> bool {
        match self.label {
            Label::Application | Label::OneApplication | Label::SecondName => true,
            Label::Name => tag.generation == 0,
            Label::None => false,
        }
    }

    pub(crate) fn describe(self) -> &'static str {
        match (self.body, self.label) {
            (Body::Raw, Label::Application) => "symmetric key (Raw) with application specific information",
            (Body::Raw, Label::OneApplication) => {
                "symmetric key (Raw) with application specific information in one piece"
            }
            (Body::Raw, Label::SecondName) => "symmetric key (Raw) with two names",
            (Body::Raw, _) => "symmetric key (Raw) with a name",
            (Body::Rooks, _) => "symmetric key as Rook writes it (Opaque, no name)",
            (Body::SecretData, Label::Application | Label::OneApplication) => {
                "secret data with application specific information"
            }
            (Body::SecretData, Label::SecondName) => "secret data with two names",
            (Body::SecretData, _) => "secret data with a name",
        }
    }
}

/// The texts of the attributes of a new object.
pub(crate) struct Texts {
    name: String,
    second_name: String,
    cluster: String,
    generation: Option<String>,
    all: String,
}

impl Texts {
    pub(crate) fn new(name: &KeyName, tag: &Tag) -> Self {
        let name = object_name(name);
        let second_name = format!("{name}{MARK}{} {}", tag.cluster, tag.generation_text());
        Self {
            second_name: second_name.trim_end().to_owned(),
            name,
            all: match tag.generation {
                0 => tag.cluster.clone(),
                _ => format!("{} {}", tag.cluster, tag.generation_text()),
            },
            cluster: tag.cluster.clone(),
            generation: (tag.generation > 0).then(|| tag.generation_text()),
        }
    }

    pub(crate) fn attributes(&self, label: Label) -> Vec<Attribute<'_>> {
        let mut attributes = vec![Attribute::UsageMaskExport];
        if label == Label::None {
            return attributes;
        }
        attributes.push(Attribute::Name(&self.name));
        match label {
            Label::Application => {
                attributes.push(Attribute::ApplicationSpecific { namespace: CLUSTER, data: &self.cluster });
                attributes.extend(
                    self.generation
                        .as_deref()
                        .map(|data| Attribute::ApplicationSpecific { namespace: GENERATION, data }),
                );
            }
            Label::OneApplication => {
                attributes.push(Attribute::ApplicationSpecific { namespace: CLUSTER, data: &self.all });
            }
            Label::SecondName => attributes.push(Attribute::Name(&self.second_name)),
            Label::Name | Label::None => {}
        }
        attributes
    }
}

/// What finds the objects of a cluster.
pub(crate) fn cluster_filter(cluster: &str) -> Attribute<'_> {
    Attribute::ApplicationSpecific { namespace: CLUSTER, data: cluster }
}

/// An object on the server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Object {
    pub(crate) uid: String,
    pub(crate) keys: Vec<KeyName>,
    pub(crate) tag: Option<Tag>,
    pub(crate) initial_date: Option<i64>,
    /// Its key material is gone; some servers keep the rest.
    pub(crate) destroyed: bool,
}

impl Object {
    pub(crate) fn new(uid: &str, attributes: &Attributes) -> Self {
        Self {
            uid: uid.to_owned(),
            keys: attributes.names.iter().filter_map(|name| key_name(name)).collect(),
            tag: Tag::of(attributes),
            initial_date: attributes.initial_date,
            destroyed: attributes.state.is_some_and(|state| DESTROYED.contains(&state)),
        }
    }

    pub(crate) fn generation(&self) -> u64 {
        self.tag.as_ref().map_or(0, |tag| tag.generation)
    }

    /// The older comes first. Many servers count their identifiers, and tell time in seconds.
    fn age(&self) -> (i64, Option<u64>, &str) {
        (self.initial_date.unwrap_or(i64::MAX), self.uid.parse().ok(), &self.uid)
    }
}

/// The objects of one key.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Line {
    /// The KEK.
    pub(crate) current: Object,
    /// Objects of the same generation that came later: of lost races, and of writers that died. The first to go.
    pub(crate) strays: Vec<Object>,
    /// Those that were replaced, the oldest first.
    pub(crate) superseded: Vec<Object>,
}

/// Sorts what was found under the name of a key.
///
/// A server may ignore what it is asked for, so name and cluster are compared here again (UP-111).
///
/// # Errors
///
/// `Conflict` if nobody can say which object is the KEK: objects of several clusters where ours is not known, or
/// several that are not ours.
pub(crate) fn arrange(name: &KeyName, cluster: Option<&str>, mut found: Vec<Object>) -> Result<Option<Line>> {
    found.retain(|object| !object.destroyed && object.keys.contains(name));
    let is_of =
        |object: &Object, cluster: &str| object.tag.as_ref().is_some_and(|tag| tag.cluster == cluster);
    // Our cluster's own objects; else those of no cluster; else those of which nothing is known.
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
        return Err(ambiguous("several objects that rook-kms did not register", &found));
    }
    // What one of them has replaced is of this key too, whoever has registered it.
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
    Ok(Some(Line { current, strays, superseded }))
}

fn ambiguous(what: &str, found: &[Object]) -> Error {
    let mut uids: Vec<_> = found.iter().map(|object| object.uid.as_str()).collect();
    uids.truncate(8);
    Error::new(
        ErrorKind::Conflict,
        format!(
            "the server has {what} under the name of the key, and nobody can say which is the KEK: rename or \
             destroy those that are not, or give the cluster"
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
        Object { uid: uid.to_owned(), keys: vec![name()], tag, initial_date: Some(date), destroyed: false }
    }

    fn current(cluster: Option<&str>, found: Vec<Object>) -> Option<String> {
        arrange(&name(), cluster, found).unwrap().map(|line| line.current.uid)
    }

    #[test]
    fn a_tag_is_read_back_from_either_label() {
        for tag in [
            Tag::first(Some("ns/name")),
            Tag::first(None),
            Tag::next(Some("ns/name"), Some(&Tag::first(Some("ns/name"))), "old uid"),
        ] {
            let texts = Texts::new(&name(), &tag);
            for label in [Label::Application, Label::OneApplication, Label::SecondName] {
                let mut attributes = Attributes::default();
                for attribute in texts.attributes(label) {
                    match attribute {
                        Attribute::Name(name) => attributes.names.push(name.to_owned()),
                        Attribute::ApplicationSpecific { namespace, data } => {
                            attributes.application.push((namespace.to_owned(), data.to_owned()));
                        }
                        Attribute::UsageMaskExport => {}
                    }
                }
                let object = Object::new("1", &attributes);
                assert_eq!((object.keys, object.tag), (vec![name()], Some(tag.clone())), "{label:?}");
            }
            assert_eq!(texts.attributes(Label::None).len(), 1);
            assert_eq!(texts.attributes(Label::Name).len(), 2);
        }
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
        let line = arrange(&name(), ours, found).unwrap().unwrap();
        let uids = |objects: &[Object]| objects.iter().map(|o| o.uid.clone()).collect::<Vec<_>>().join(" ");
        assert_eq!(line.current.uid, "9");
        assert_eq!((uids(&line.strays), uids(&line.superseded)), ("10".to_owned(), "2 3".to_owned()));
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
    fn what_was_replaced_is_of_the_key_whoever_has_registered_it() {
        let ours = Some("ns/name");
        let mut second = object("2", Some(NO_CLUSTER), 1, 2);
        let mut third = object("3", ours, 2, 3);
        for (object, before) in [(&mut second, "1"), (&mut third, "2")] {
            object.tag.as_mut().unwrap().predecessor = Some(before.to_owned());
        }
        let found = vec![object("1", None, 0, 1), second, third, object("9", None, 0, 9)];
        let line = arrange(&name(), ours, found).unwrap().unwrap();
        let superseded: Vec<_> = line.superseded.iter().map(|object| object.uid.as_str()).collect();
        assert_eq!((line.current.uid.as_str(), superseded), ("3", vec!["1", "2"]));
        assert!(line.strays.is_empty());
    }

    #[test]
    fn what_cannot_be_told_apart_is_said_to_be_so() {
        let error = arrange(&name(), Some("a/b"), vec![object("1", None, 0, 1), object("2", None, 0, 1)])
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(error.to_string().contains("objects: 1, 2"), "{error}");
        let found = vec![object("1", Some("a/b"), 0, 1), object("2", Some("c/d"), 0, 1)];
        let error = arrange(&name(), None, found).unwrap_err();
        assert!(error.to_string().contains("several clusters"), "{error}");
    }
}
