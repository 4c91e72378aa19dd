//! Parses YAML documents into a tree with the place of each value. No error quotes a value.

use std::{fmt, vec};

use kms_core::{Error, Result};
use serde::{
    Deserialize, Deserializer,
    de::{
        self, DeserializeOwned, Expected, IntoDeserializer, MapAccess, SeqAccess, Unexpected, Visitor,
        value::{MapDeserializer, SeqDeserializer},
    },
    forward_to_deserialize_any,
};
use serde_saphyr::{Location, Spanned, options::AliasLimits};
use zeroize::Zeroizing;

/// The size of the largest input, in bytes. With its managed fields the Deployment of an OSD takes about 100 KiB, and a
/// list may hold a thousand of them.
pub const MAX_BYTES: usize = 128 * 1024 * 1024;
/// The deepest nesting. A CephCluster with every field has fewer than 30 levels. In a build without optimization each
/// level takes up to 40 KiB of stack.
const MAX_DEPTH: usize = 48;
/// The largest number of values in an input. The Deployment of an OSD has about 3,500 with its managed fields.
const MAX_NODES: usize = 4_000_000;
/// The largest number of aliases (`*name`) in an input, and of the values that they expand to together.
const MAX_ALIASES: usize = 1_000;
const MAX_ALIASED: usize = 50_000;

/// A value and the place where it begins.
pub(super) struct Node {
    at: Location,
    pub(super) value: Value,
}

/// The contents of a value.
pub(super) enum Value {
    Bool(bool),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
    Null,
    Number(Number),
    Text(Zeroizing<String>),
}

/// A number. No setting is a number, but fields of other objects are.
#[derive(Clone, Copy)]
pub(super) enum Number {
    Float(f64),
    Signed(i64),
    Unsigned(u64),
}

/// Reads all documents of an input.
///
/// # Errors
///
/// `ConfigInvalid` with line and column. The error does not quote the input, which may be a secret.
pub(super) fn parse(text: &str) -> Result<Vec<Node>, Mistake> {
    parse_up_to(text, MAX_NODES)
}

fn parse_up_to(text: &str, max_nodes: usize) -> Result<Vec<Node>, Mistake> {
    let mut options = serde_saphyr::Options::default();
    let mut budget = serde_saphyr::Budget::default();
    budget.max_depth = MAX_DEPTH;
    budget.flow_nesting_limit = MAX_DEPTH;
    budget.max_nodes = max_nodes;
    budget.max_events = 3 * max_nodes;
    budget.max_aliases = MAX_ALIASES;
    budget.max_anchors = MAX_ALIASES;
    budget.max_recorded_anchor_events = MAX_ALIASED;
    let mut aliases = AliasLimits::default();
    aliases.max_total_replayed_events = MAX_ALIASED;
    aliases.max_replay_stack_depth = 8;
    options.budget = Some(budget);
    options.alias_limits = aliases;
    options.with_snippet = false;
    serde_saphyr::from_multiple_with_options(text, options).map_err(|error| Mistake::of_syntax(&error))
}

impl Node {
    /// The fields; an error if the value is not a map.
    pub(super) fn into_map(self) -> Result<Vec<(String, Self)>, Mistake> {
        match self.value {
            Value::Map(fields) => Ok(fields),
            Value::Null => Ok(Vec::new()),
            other => Err(Mistake { at: Some(self.at), what: format!("this is {}, not a map", other.kind()) }),
        }
    }

    /// The fields; empty if the value is not a map.
    pub(super) fn fields(&self) -> &[(String, Self)] {
        match &self.value {
            Value::Map(fields) => fields,
            _ => &[],
        }
    }

    /// Keeps only the wanted fields of a map.
    pub(super) fn keep(mut self, wanted: impl Fn(&str, &Self) -> bool) -> Self {
        if let Value::Map(fields) = &mut self.value {
            fields.retain(|(field, node)| wanted(field, node));
        }
        self
    }

    /// The field of this name; `None` if the value is not a map or lacks the field.
    pub(super) fn get(&self, name: &str) -> Option<&Self> {
        self.fields().iter().find(|(field, _)| field == name).map(|(_, node)| node)
    }

    /// The text; `None` if the value is not a text.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn is_map(&self) -> bool {
        matches!(self.value, Value::Map(_))
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    /// Reads the value as a type.
    ///
    /// # Errors
    ///
    /// The expected type, and the place.
    pub(super) fn read<T: DeserializeOwned>(self) -> Result<T, Mistake> {
        T::deserialize(self)
    }

    /// Makes an error about this value.
    pub(super) fn mistake(&self, what: impl Into<String>) -> Mistake {
        Mistake { at: Some(self.at), what: what.into() }
    }
}

impl Value {
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Bool(_) => "a boolean",
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
            Self::Null => "null",
            Self::Number(_) => "a number",
            Self::Text(_) => "a text",
        }
    }
}

/// An error in an input, with its place. It never quotes the input.
#[derive(Debug)]
pub(super) struct Mistake {
    at: Option<Location>,
    what: String,
}

impl Mistake {
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self { at: None, what: what.into() }
    }

    fn of_syntax(error: &serde_saphyr::Error) -> Self {
        use serde_saphyr::Error as Cause;
        let what = match error.without_snippet() {
            Cause::AliasReplayLimitExceeded { .. }
            | Cause::AliasExpansionLimitExceeded { .. }
            | Cause::AliasReplayStackDepthExceeded { .. }
            | Cause::AliasReplayCounterOverflow { .. } => "its aliases expand to too many values",
            Cause::Budget { .. } => "it is nested too deeply, or has too many values or aliases",
            Cause::DuplicateMappingKey { .. } => "a map has the same key twice",
            Cause::Eof { .. } => "it ends too early",
            Cause::RecursiveReferencesRequireWeakTypes { .. } => {
                "an alias refers to a value that contains it"
            }
            Cause::UnknownAnchor { .. } => "an alias has no anchor before it",
            _ => "it is not valid YAML",
        };
        Self { at: error.location(), what: what.to_owned() }
    }

    /// Sets the place, unless a more exact place is set.
    fn at(mut self, at: Location) -> Self {
        self.at.get_or_insert(at);
        self
    }

    /// Makes an error with the name of the input.
    pub(super) fn in_input(self, input: &str) -> Error {
        let place = match self.at {
            Some(at) if at.line() > 0 => format!("{input}:{}:{}", at.line(), at.column()),
            _ => input.to_owned(),
        };
        Error::config(format!("{place}: {}", self.what))
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Mistake {}

impl de::Error for Mistake {
    /// Drops the text, since some callers put values into it.
    fn custom<T: fmt::Display>(_message: T) -> Self {
        Self::new("this does not have the form that is expected here")
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let found = match found {
            Unexpected::Bool(_) => "a boolean",
            Unexpected::Unsigned(_) | Unexpected::Signed(_) | Unexpected::Float(_) => "a number",
            Unexpected::Str(_) | Unexpected::Char(_) => "a text",
            Unexpected::Unit | Unexpected::Option => "null",
            Unexpected::Seq => "a list",
            Unexpected::Map => "a map",
            _ => "something else",
        };
        Self::new(format!("this is {found}, not {expected}"))
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(format!("the field {field} is missing"))
    }

    fn invalid_value(_found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(format!("the value is not {expected}"))
    }

    fn unknown_variant(_found: &str, known: &'static [&'static str]) -> Self {
        Self::new(format!("the value is not one of: {}", known.join(", ")))
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Spanned { value, referenced: at, .. } = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Self { at, value })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
                Ok(Value::Bool(value))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
                Ok(Value::Number(Number::Signed(value)))
            }

            // No field has a number of this size. It only matters that the value is a number.
            fn visit_i128<E: de::Error>(self, value: i128) -> Result<Value, E> {
                Ok(Value::Number(Number::Float(value as f64)))
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
                Ok(Value::Number(Number::Unsigned(value)))
            }

            fn visit_u128<E: de::Error>(self, value: u128) -> Result<Value, E> {
                Ok(Value::Number(Number::Float(value as f64)))
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
                Ok(Value::Number(Number::Float(value)))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Value, E> {
                Ok(Value::Text(Zeroizing::new(text.to_owned())))
            }

            fn visit_string<E: de::Error>(self, text: String) -> Result<Value, E> {
                Ok(Value::Text(Zeroizing::new(text)))
            }

            fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
                Ok(Value::Null)
            }

            fn visit_none<E: de::Error>(self) -> Result<Value, E> {
                Ok(Value::Null)
            }

            fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
                Value::deserialize(deserializer)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
                let mut list = Vec::new();
                while let Some(node) = seq.next_element()? {
                    list.push(node);
                }
                Ok(Value::List(list))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Value::Map(fields))
            }
        }

        deserializer.deserialize_any(Any)
    }
}

impl<'de> IntoDeserializer<'de, Mistake> for Node {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Node {
    type Error = Mistake;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        let Self { at, value } = self;
        let read = match value {
            Value::Bool(value) => visitor.visit_bool(value),
            Value::List(list) => {
                let mut list = SeqDeserializer::<vec::IntoIter<Self>, Mistake>::new(list.into_iter());
                visitor.visit_seq(&mut list)
            }
            Value::Map(fields) => {
                let mut fields =
                    MapDeserializer::<vec::IntoIter<(String, Self)>, Mistake>::new(fields.into_iter());
                visitor.visit_map(&mut fields)
            }
            Value::Null => visitor.visit_unit(),
            Value::Number(Number::Float(value)) => visitor.visit_f64(value),
            Value::Number(Number::Signed(value)) => visitor.visit_i64(value),
            Value::Number(Number::Unsigned(value)) => visitor.visit_u64(value),
            // The visitor gets the text itself, so that no copy stays here.
            Value::Text(mut text) => visitor.visit_string(std::mem::take(&mut *text)),
        };
        read.map_err(|mistake| mistake.at(at))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        if self.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    /// Wipes the value. A visitor would drop it without wiping it.
    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        drop(self);
        visitor.visit_unit()
    }

    /// The times and quantities of Kubernetes are types with one unnamed field, which accept no bare text.
    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Mistake> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mistake> {
        let at = self.at;
        match self.text() {
            Some(text) => text.into_deserializer().deserialize_enum(name, variants, visitor),
            None => Err(self.mistake(format!("this is {}, not a name", self.value.kind()))),
        }
        .map_err(|mistake: Mistake| mistake.at(at))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq
        tuple tuple_struct map struct identifier
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(text: &str) -> String {
        match parse(text) {
            Ok(_) => panic!("this should fail: {text:.100}"),
            Err(mistake) => mistake.in_input("a.yaml").to_string(),
        }
    }

    #[test]
    fn a_syntax_error_has_its_place_and_quotes_nothing() {
        for text in [
            "a: canary\n b: canary\n",
            "a: [canary\n",
            "a: 'canary\n",
            "a: {canary: canary, canary: x}\n",
            "? canary\n: - canary\n  canary\n",
            "a: *canary\n",
            "a: &canary [*canary]\n",
            "a: !!binary canary\n",
            "%canary\n",
            "a: \"\\qcanary\"\n",
            "a: !<canary\n",
        ] {
            let error = failure(text);
            assert!(!error.contains("canary"), "{error}");
            assert!(error.starts_with("a.yaml"), "{error}");
        }
        assert_eq!(failure("a: 1\nb: [x\nc: y"), "a.yaml:3:2: it is not valid YAML");
    }

    #[test]
    fn what_would_grow_without_bounds_is_refused() {
        let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\n\
                    c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\n\
                    e: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n";
        let deep_flow = "[".repeat(100_000);
        let deep_block: String = (0..2000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
        for text in [bomb, &deep_flow, &deep_block] {
            failure(text);
        }
        let many = "- x\n".repeat(101);
        assert!(parse_up_to(&many, 100).is_err() && parse(&many).is_ok());
    }

    /// `kubectl get deployments -o yaml` in a cluster with a hundred OSDs and more.
    #[test]
    fn a_list_may_have_as_many_values_as_the_objects_of_a_large_cluster() {
        assert!(parse(&"- x\n".repeat(250_000)).is_ok());
    }

    #[test]
    fn aliases_and_merges_in_bounds_work() {
        let nodes = parse("a: &a {x: one}\nb: *a\nc: {<<: *a, y: two}\n").unwrap();
        let [root] = nodes.as_slice() else { panic!("one document") };
        assert_eq!(root.get("b").and_then(|b| b.get("x")).and_then(Node::text), Some("one"));
        assert_eq!(root.get("c").and_then(|c| c.get("x")).and_then(Node::text), Some("one"));
    }

    #[test]
    fn json_is_yaml() {
        for text in ["{\"a\": {\"b\": \"c\\n\"}}", "{\n\t\"a\": {\n\t\t\"b\": \"c\\n\"\n\t}\n}\n"] {
            let nodes = parse(text).unwrap();
            let value = nodes.first().and_then(|root| root.get("a")).and_then(|a| a.get("b"));
            assert_eq!(value.and_then(Node::text), Some("c\n"), "{text}");
        }
    }

    /// Objects of Kubernetes have times and quantities, which are types with one unnamed field.
    #[test]
    fn types_with_one_unnamed_field_and_names_of_variants_are_read() {
        #[derive(Debug, Deserialize, PartialEq)]
        struct Time(String);
        #[derive(Debug, Deserialize, PartialEq)]
        enum Policy {
            Always,
        }
        #[derive(Debug, Deserialize, PartialEq)]
        struct Object {
            at: Time,
            again: Option<Time>,
            policy: Policy,
        }
        let text = "at: \"2026-11-30T01:02:03Z\"\nagain: x\npolicy: Always\n";
        let read: Object = parse(text).unwrap().remove(0).read().unwrap();
        let expected = Object {
            at: Time("2026-11-30T01:02:03Z".to_owned()),
            again: Some(Time("x".to_owned())),
            policy: Policy::Always,
        };
        assert_eq!(read, expected);
        let wrong = parse("at: x\nagain: 1\npolicy: Always").unwrap().remove(0).read::<Object>();
        let error = wrong.unwrap_err().in_input("a.yaml").to_string();
        assert_eq!(error, "a.yaml:2:8: this is a number, not a string");
        let wrong = parse("at: x\npolicy: canary").unwrap().remove(0).read::<Object>();
        let error = wrong.unwrap_err().in_input("a.yaml").to_string();
        assert_eq!(error, "a.yaml:2:9: the value is not one of: Always");
    }

    #[test]
    fn a_mistake_in_the_types_has_its_place_and_quotes_nothing() {
        #[derive(Debug, Deserialize)]
        struct Spec {
            #[expect(dead_code, reason = "only the type counts")]
            enabled: bool,
        }
        for (text, message) in [
            ("\nenabled: canary\n", "a.yaml:2:10: this is a text, not a boolean"),
            ("{enabled: [canary]}", "a.yaml:1:11: this is a list, not a boolean"),
            ("enable: true", "a.yaml:1:1: the field enabled is missing"),
            ("canary", "a.yaml:1:1: this is a text, not struct Spec"),
        ] {
            let node = parse(text).unwrap().remove(0);
            assert_eq!(node.read::<Spec>().unwrap_err().in_input("a.yaml").to_string(), message);
        }
    }
}
