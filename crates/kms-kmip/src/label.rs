//! Labels on objects: name and application specific information say which key, cluster and generation an object holds.

use kms_core::KeyName;

use crate::{
    name::object_name,
    stored::{Attribute, Attributes, Body},
};

/// The application namespace of the value that names the cluster.
const CLUSTER: &str = "rook-kms";
/// The application namespace of the value that holds generation and predecessor.
const GENERATION: &str = "rook-kms-generation";
/// The separator in the second name of an object, for servers that refuse application specific information.
const MARK: &str = " rook-kms ";
/// The value that stands for "no cluster".
pub(crate) const NO_CLUSTER: &str = "-";

/// The label of an object that we have registered.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Tag {
    pub(crate) cluster: String,
    /// 0 after a create; each update adds 1.
    pub(crate) generation: u64,
    /// The identifier of the object that this one replaces.
    pub(crate) predecessor: Option<String>,
}

impl Tag {
    /// The label of the first object of a key.
    pub(crate) fn first(cluster: Option<&str>) -> Self {
        Self { cluster: cluster.unwrap_or(NO_CLUSTER).to_owned(), generation: 0, predecessor: None }
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

    /// Reads the label from the attributes of an object. `None` if the object has no label.
    pub(crate) fn of(attributes: &Attributes) -> Option<Self> {
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

/// The form in which to register an object.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Shape {
    pub(crate) body: Body,
    pub(crate) label: Label,
}

/// Where an object carries its [`Tag`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Label {
    /// In application specific information: one value for the cluster, and a second value if the object replaces
    /// another.
    Application,
    /// In one value of application specific information, since PyKMIP accepts no attribute twice from 2.0 on. A Locate
    /// by cluster does not find the object.
    OneApplication,
    /// In a second name.
    SecondName,
    /// Nowhere: the object has only its name.
    Name,
    /// Nowhere, and the object has no name, as Rook registers it. Only an index can find it.
    None,
}

impl Shape {
    /// The shapes to try, the preferred one first. The client remembers the accepted one.
    ///
    /// Rook can read all of them except secret data, so secret data comes last. An object without a name needs an index
    /// that holds its identifier.
    pub(crate) const ALL: [Self; 9] = [
        Self { body: Body::Raw, label: Label::Application },
        Self { body: Body::Raw, label: Label::OneApplication },
        Self { body: Body::Raw, label: Label::SecondName },
        Self { body: Body::Raw, label: Label::Name },
        Self { body: Body::Rook, label: Label::None },
        Self { body: Body::SecretData, label: Label::Application },
        Self { body: Body::SecretData, label: Label::OneApplication },
        Self { body: Body::SecretData, label: Label::SecondName },
        Self { body: Body::SecretData, label: Label::Name },
    ];

    /// Whether a reader can recognise an object with this shape and tag without an index.
    pub(crate) fn is_found(self, tag: &Tag) -> bool {
        match self.label {
            Label::Application | Label::OneApplication | Label::SecondName => true,
            Label::Name => tag.generation == 0,
            Label::None => false,
        }
    }

    /// Describes the shape for logs and errors.
    pub(crate) fn describe(self) -> &'static str {
        match (self.body, self.label) {
            (Body::Raw, Label::Application) => "symmetric key (Raw) with application specific information",
            (Body::Raw, Label::OneApplication) => {
                "symmetric key (Raw) with application specific information in one piece"
            }
            (Body::Raw, Label::SecondName) => "symmetric key (Raw) with two names",
            (Body::Raw, _) => "symmetric key (Raw) with a name",
            (Body::Rook, _) => "symmetric key as Rook writes it (Opaque, no name)",
            (Body::SecretData, Label::Application | Label::OneApplication) => {
                "secret data with application specific information"
            }
            (Body::SecretData, Label::SecondName) => "secret data with two names",
            (Body::SecretData, _) => "secret data with a name",
        }
    }
}

/// Owns the attribute values of a new object, which the attributes borrow.
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

    /// The attributes of a new object with this label.
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

/// The filter for the objects of a cluster.
pub(crate) fn cluster_filter(cluster: &str) -> Attribute<'_> {
    Attribute::ApplicationSpecific { namespace: CLUSTER, data: cluster }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::key_name;

    #[test]
    fn a_tag_is_read_back_from_either_label() {
        let name = KeyName::new("a").unwrap();
        for tag in [
            Tag::first(Some("ns/name")),
            Tag::first(None),
            Tag::next(Some("ns/name"), Some(&Tag::first(Some("ns/name"))), "old uid"),
        ] {
            let texts = Texts::new(&name, &tag);
            for label in [Label::Application, Label::OneApplication, Label::SecondName] {
                let mut attributes = Attributes::default();
                for attribute in texts.attributes(label) {
                    match attribute {
                        Attribute::Name(name) => attributes.names.push(name.to_owned()),
                        Attribute::ApplicationSpecific { namespace, data } => {
                            attributes.application.push((namespace.to_owned(), data.to_owned()));
                        }
                        _ => {}
                    }
                }
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
}
