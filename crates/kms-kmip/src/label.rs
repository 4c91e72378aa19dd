//! Labels on objects: they say which key, cluster and generation an object holds.
//!
//! A server may accept several values of one attribute and keep only one of them. So the preferred label has one value
//! of each attribute.

use kms_core::KeyName;

use crate::{
    name::object_name,
    stored::{Attribute, Attributes, Body},
};

/// The application namespace of the value that names the cluster, and the first word of an object group that does.
const CLUSTER: &str = "rook-kms";
/// The first word of the object group that holds generation and predecessor. Earlier versions used it as the application
/// namespace of a second value.
const GENERATION: &str = "rook-kms-generation";
/// The separator in the second name of an object, for servers that refuse application specific information.
const MARK: &str = " rook-kms ";
/// The value that stands for "no cluster".
pub(crate) const NO_CLUSTER: &str = "-";

/// The label of an object that we have registered.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Tag {
    /// `None` if the server has lost the value.
    pub(crate) cluster: Option<String>,
    /// 0 after a create; each update adds 1.
    pub(crate) generation: u64,
    /// The identifier of the object that this one replaces.
    pub(crate) predecessor: Option<String>,
}

impl Tag {
    /// The label of the first object of a key.
    pub(crate) fn first(cluster: Option<&str>) -> Self {
        Self { cluster: Some(cluster.unwrap_or(NO_CLUSTER).to_owned()), generation: 0, predecessor: None }
    }

    /// The label of an object that replaces `predecessor`, whose label is `before`.
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

    /// Reads a label in one text: cluster, generation and predecessor. A cluster is namespace/name, so it has no space.
    fn read(text: &str) -> Self {
        let (cluster, generation) = text.split_once(' ').unwrap_or((text, ""));
        Self::first(Some(cluster)).read_generation(generation)
    }

    /// Reads the label from the attributes of an object. `None` if the object has no label.
    pub(crate) fn of(attributes: &Attributes) -> Option<Self> {
        let data = |namespace: &str| {
            attributes.application.iter().find(|(known, _)| known == namespace).map(|(_, data)| data.as_str())
        };
        let group = |word: &str| {
            attributes.groups.iter().find_map(|group| group.strip_prefix(word)?.strip_prefix(' '))
        };
        let marked = || attributes.names.iter().find_map(|name| Some(name.split_once(MARK)?.1));
        let generation = group(GENERATION).or_else(|| data(GENERATION));
        let tag = data(CLUSTER).or_else(|| group(CLUSTER)).or_else(marked).map(Self::read);
        match generation {
            Some(text) => {
                let lost = Self { cluster: None, generation: 0, predecessor: None };
                Some(tag.unwrap_or(lost).read_generation(text))
            }
            None => tag,
        }
    }
}

/// The form in which to register an object.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Shape {
    pub(crate) body: Body,
    pub(crate) label: Label,
}

/// Where an object carries its [`Tag`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Label {
    /// The cluster in application specific information. If the object replaces another, generation and predecessor in an
    /// object group.
    Group,
    /// All in one value of application specific information. A Locate by cluster does not find the object.
    OneApplication,
    /// All in one object group.
    OneGroup,
    /// All in a second name.
    SecondName,
    /// Nowhere: the object has only its name.
    Name,
    /// Nowhere, and the object has no name either. Only an index can find it.
    None,
}

impl Shape {
    /// The shapes to try, the preferred one first. The client remembers the accepted one.
    ///
    /// Rook can read all of them except secret data, so secret data comes last. An object without a name needs an index
    /// that holds its identifier.
    pub(crate) const ALL: [Self; 12] = [
        Self { body: Body::Raw, label: Label::Group },
        Self { body: Body::Raw, label: Label::OneApplication },
        Self { body: Body::Raw, label: Label::OneGroup },
        Self { body: Body::Raw, label: Label::SecondName },
        Self { body: Body::Raw, label: Label::Name },
        Self { body: Body::Raw, label: Label::None },
        Self { body: Body::Rook, label: Label::None },
        Self { body: Body::SecretData, label: Label::Group },
        Self { body: Body::SecretData, label: Label::OneApplication },
        Self { body: Body::SecretData, label: Label::OneGroup },
        Self { body: Body::SecretData, label: Label::SecondName },
        Self { body: Body::SecretData, label: Label::Name },
    ];

    /// Whether objects in this shape carry their [`Tag`].
    pub(crate) fn has_tag(self) -> bool {
        !matches!(self.label, Label::Name | Label::None)
    }

    /// Whether a reader can recognise an object with this shape and tag without an index.
    pub(crate) fn is_found(self, tag: &Tag) -> bool {
        self.has_tag() || (self.label == Label::Name && tag.generation == 0)
    }

    /// Describes the shape for logs and errors.
    pub(crate) fn describe(self) -> String {
        let body = match self.body {
            Body::Raw => "symmetric key (Raw)",
            Body::Rook => "symmetric key as Rook writes it (Opaque)",
            Body::SecretData => "secret data",
        };
        let label = match self.label {
            Label::Group => "application specific information and object group",
            Label::OneApplication => "application specific information alone",
            Label::OneGroup => "object group alone",
            Label::SecondName => "two names",
            Label::Name => "a name alone",
            Label::None => "no name",
        };
        format!("{body} with {label}")
    }
}

/// Owns the attribute values of a new object, which the attributes borrow.
pub(crate) struct Texts {
    name: String,
    cluster: String,
    generation: Option<String>,
    /// Cluster, generation and predecessor.
    all: String,
    second_name: String,
    group: String,
}

impl Texts {
    pub(crate) fn new(name: &KeyName, tag: &Tag) -> Self {
        let name = object_name(name);
        let cluster = tag.cluster.as_deref().unwrap_or(NO_CLUSTER).to_owned();
        let all = match tag.generation {
            0 => cluster.clone(),
            _ => format!("{cluster} {}", tag.generation_text()),
        };
        Self {
            generation: (tag.generation > 0).then(|| format!("{GENERATION} {}", tag.generation_text())),
            second_name: format!("{name}{MARK}{all}"),
            group: format!("{CLUSTER} {all}"),
            name,
            cluster,
            all,
        }
    }

    /// The attributes of a new object with this label.
    pub(crate) fn attributes(&self, label: Label) -> Vec<Attribute<'_>> {
        let mut attributes = vec![Attribute::UsageMaskExport];
        if label == Label::None {
            return attributes;
        }
        attributes.push(Attribute::Name(&self.name));
        match label {
            Label::Group => {
                attributes.push(cluster_filter(&self.cluster));
                attributes.extend(self.generation.as_deref().map(Attribute::ObjectGroup));
            }
            Label::OneApplication => attributes.push(cluster_filter(&self.all)),
            Label::OneGroup => attributes.push(Attribute::ObjectGroup(&self.group)),
            Label::SecondName => attributes.push(Attribute::Name(&self.second_name)),
            Label::Name | Label::None => {}
        }
        attributes
    }
}

/// The filter for the objects of a cluster.
pub(crate) fn cluster_filter(cluster: &str) -> Attribute<'_> {
    Attribute::ApplicationSpecific { namespace: CLUSTER, data: cluster }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::key_name;

    fn applications(values: &[(&str, &str)]) -> Attributes {
        let owned = |(namespace, data): &(&str, &str)| ((*namespace).to_owned(), (*data).to_owned());
        Attributes { application: values.iter().map(owned).collect(), ..Attributes::default() }
    }

    #[test]
    fn a_tag_is_read_back_from_each_label_and_no_attribute_but_the_name_is_there_twice() {
        let name = KeyName::new("a").unwrap();
        for tag in [
            Tag::first(Some("ns/name")),
            Tag::first(None),
            Tag::next(Some("ns/name"), Some(&Tag::first(Some("ns/name"))), "old uid"),
        ] {
            let texts = Texts::new(&name, &tag);
            for label in [Label::Group, Label::OneApplication, Label::OneGroup, Label::SecondName] {
                let mut attributes = Attributes::default();
                for attribute in texts.attributes(label) {
                    match attribute {
                        Attribute::Name(name) => attributes.names.push(name.to_owned()),
                        Attribute::ApplicationSpecific { namespace, data } => {
                            attributes.application.push((namespace.to_owned(), data.to_owned()));
                        }
                        Attribute::ObjectGroup(group) => attributes.groups.push(group.to_owned()),
                        _ => {}
                    }
                }
                assert!(attributes.application.len() <= 1 && attributes.groups.len() <= 1, "{label:?}");
                assert!(attributes.names.len() == 1 || label == Label::SecondName, "{label:?}");
                let keys: Vec<_> = attributes.names.iter().filter_map(|name| key_name(name)).collect();
                assert_eq!(
                    (keys, Tag::of(&attributes)),
                    (vec![name.clone()], Some(tag.clone())),
                    "{label:?}"
                );
            }
            assert_eq!(texts.attributes(Label::None).len(), 1);
            assert_eq!(texts.attributes(Label::Name).len(), 2);
        }
    }

    #[test]
    fn objects_of_earlier_versions_are_read_also_if_the_server_has_lost_one_of_two_values() {
        let (cluster, generation) = (("rook-kms", "ns/name"), ("rook-kms-generation", "3 old uid"));
        let first = Tag::first(Some("ns/name"));
        let both = Tag { generation: 3, predecessor: Some("old uid".to_owned()), ..first.clone() };
        let lost = Tag { cluster: None, ..both.clone() };
        for (values, tag) in [
            (&[cluster, generation][..], both.clone()),
            (&[generation, cluster], both.clone()),
            (&[("rook-kms", "ns/name 3 old uid")], both),
            (&[cluster], first),
            (&[generation], lost),
        ] {
            assert_eq!(Tag::of(&applications(values)), Some(tag), "{values:?}");
        }
        assert_eq!(Tag::of(&applications(&[("other", "ns/name")])), None);
    }
}
