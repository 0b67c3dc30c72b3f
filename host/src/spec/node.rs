//! A JSON document that remembers what `serde_json`'s own value forgets: duplicate keys. And a deserializer over it
//! whose errors know their place.

use std::{collections::HashSet, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeOwned, DeserializeSeed, IntoDeserializer, MapAccess, SeqAccess, Unexpected, Visitor},
    forward_to_deserialize_any,
};

use super::error::{Place, SpecError, nearest};

/// A JSON value.
#[derive(Clone, Debug, Default)]
pub(crate) enum Node {
    #[default]
    Null,
    Bool(bool),
    Number(serde_json::Number),
    String(String),
    Array(Vec<Self>),
    Object(Vec<(String, Self)>),
}

impl Node {
    /// The text that a pipeline file gives its first stage.
    pub(crate) fn text_of_stdin(&self) -> Option<&str> {
        match self.get("stdin")?.get("text")? {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    fn get(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Object(entries) => entries.iter().find(|(known, _)| known == key).map(|(_, value)| value),
            _ => None,
        }
    }

    /// Refuses what no pipeline file may contain anywhere, and resolves `$${`.
    pub(crate) fn check(&mut self, place: &Place) -> Result<(), SpecError> {
        match self {
            Self::Null | Self::Bool(_) | Self::Number(_) => Ok(()),
            Self::String(text) => check_text(text, place).map(|resolved| *text = resolved),
            Self::Array(items) => {
                items.iter_mut().enumerate().try_for_each(|(index, item)| item.check(&place.index(index)))
            }
            Self::Object(entries) => {
                let mut seen = HashSet::with_capacity(entries.len());
                for (key, value) in entries {
                    let place = place.key(key);
                    if !seen.insert(&*key) {
                        return Err(SpecError::new(place, format!("the key {key:?} stands here twice"))
                            .hint("keep one of the two"));
                    }
                    check_text(key, &place)?;
                    value.check(&place)?;
                }
                Ok(())
            }
        }
    }

    /// Reads the document as a `T`.
    pub(crate) fn read<T: DeserializeOwned>(self) -> Result<T, SpecError> {
        T::deserialize(At { node: self, place: Place::root() }).map_err(|error| error.0)
    }
}

fn check_text(text: &str, place: &Place) -> Result<String, SpecError> {
    if text.contains('\0') {
        return Err(SpecError::new(place, "a text holds a NUL character"));
    }
    if text.match_indices("${").any(|(at, _)| !text[..at].ends_with('$')) {
        return Err(
            SpecError::new(place, "`${` is kept for variables of a later version").hint("write `$${` for a plain `${`")
        );
    }
    Ok(text.replace("$${", "${"))
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Node;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON value")
            }
            fn visit_unit<E>(self) -> Result<Node, E> {
                Ok(Node::Null)
            }
            fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
                Ok(Node::Bool(value))
            }
            fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
                Ok(Node::Number(value.into()))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
                Ok(Node::Number(value.into()))
            }
            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Node, E> {
                serde_json::Number::from_f64(value).map(Node::Number).ok_or_else(|| E::custom("no finite number"))
            }
            fn visit_str<E>(self, value: &str) -> Result<Node, E> {
                Ok(Node::String(value.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Node::Array(items))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Node::Object(entries))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// An error on its way up. Made without a place, it gets the place of the node it was made for.
#[derive(Debug)]
pub(crate) struct NodeError(SpecError);

impl NodeError {
    fn at(mut self, place: &Place) -> Self {
        if self.0.place.is_empty() {
            self.0.place = place.to_string();
        }
        self
    }
}

impl std::error::Error for NodeError {}

impl fmt::Display for NodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Separates a message from its hint in `de::Error::custom`.
pub(crate) const HINT: &str = "\u{1f}";

impl de::Error for NodeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        let text = message.to_string();
        match text.split_once(HINT) {
            Some((message, hint)) => Self(SpecError::new("", message).hint(hint)),
            None => Self(SpecError::new("", text)),
        }
    }

    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        // serde's names of the language's types, in the file's words.
        let expected = match expected.to_string().as_str() {
            "a sequence" => "a list".to_owned(),
            "a string" => "a text".to_owned(),
            "a boolean" => "true or false".to_owned(),
            "u8" => "a number from 0 to 255".to_owned(),
            "u64" => "a whole number".to_owned(),
            other => other.to_owned(),
        };
        let error = SpecError::new("", format!("{expected} is expected here, not {}", describe(&unexpected)));
        Self(match unexpected {
            Unexpected::Str(text) if expected == "a list" => {
                let words: Vec<_> = text.split_whitespace().map(|word| format!("{word:?}")).collect();
                error.hint(format!("a list is written [{}]", words.join(", ")))
            }
            _ => error,
        })
    }

    fn invalid_value(unexpected: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::invalid_type(unexpected, expected)
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let known = || match field {
            "coprocess" => "the stages of this version are \"wasm\", \"command\" and \"pipeline\" stages".to_owned(),
            _ => format!("known here: {}", expected.join(", ")),
        };
        let hint = nearest(field, expected.iter().copied()).map_or_else(known, |key| format!("did you mean {key:?}?"));
        Self(SpecError::new("", format!("unknown key {field:?}")).hint(hint))
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let known = expected.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
        Self(SpecError::new("", format!("{variant:?} is no value for this")).hint(format!("known here: {known}")))
    }

    fn missing_field(field: &'static str) -> Self {
        Self(SpecError::new("", format!("the key {field:?} is missing")))
    }
}

fn describe(unexpected: &Unexpected<'_>) -> String {
    match unexpected {
        Unexpected::Unit => "null".into(),
        Unexpected::Seq => "a list".into(),
        Unexpected::Map => "an object".into(),
        Unexpected::Str(text) => format!("the text {text:?}"),
        Unexpected::Bool(value) => format!("{value}"),
        Unexpected::Unsigned(value) => format!("the number {value}"),
        Unexpected::Signed(value) => format!("the number {value}"),
        Unexpected::Float(value) => format!("the number {value}"),
        other => other.to_string(),
    }
}

/// A node and where it stands.
struct At {
    node: Node,
    place: Place,
}

impl<'de> Deserializer<'de> for At {
    type Error = NodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NodeError> {
        let Self { node, place } = self;
        match node {
            Node::Null => visitor.visit_unit(),
            Node::Bool(value) => visitor.visit_bool(value),
            Node::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
                (Some(value), ..) => visitor.visit_u64(value),
                (_, Some(value), _) => visitor.visit_i64(value),
                (.., value) => visitor.visit_f64(value.unwrap_or(f64::NAN)),
            },
            Node::String(text) => visitor.visit_string(text),
            Node::Array(items) => visitor.visit_seq(Items { items: items.into_iter(), index: 0, place: place.clone() }),
            Node::Object(entries) => {
                visitor.visit_map(Entries { entries: entries.into_iter(), value: None, place: place.clone() })
            }
        }
        .map_err(|error| error.at(&place))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NodeError> {
        let place = self.place.clone();
        match self.node {
            Node::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
        .map_err(|error: NodeError| error.at(&place))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, NodeError> {
        match self.node {
            Node::String(text) => visitor.visit_enum(text.into_deserializer()),
            _ => return Self::deserialize_any(self, visitor),
        }
        .map_err(|error: NodeError| error.at(&self.place))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, NodeError> {
        // Derived structs would take a list of their fields too; a file's objects are objects.
        let what = match &self.node {
            Node::Object(_) => return self.deserialize_any(visitor),
            Node::Null => Unexpected::Unit,
            Node::Bool(value) => Unexpected::Bool(*value),
            Node::Number(number) => Unexpected::Float(number.as_f64().unwrap_or(f64::NAN)),
            Node::String(text) => Unexpected::Str(text),
            Node::Array(_) => Unexpected::Seq,
        };
        Err(de::Error::invalid_type(what, &"an object")).map_err(|error: NodeError| error.at(&self.place))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, NodeError> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map identifier ignored_any
    }
}

struct Items {
    items: std::vec::IntoIter<Node>,
    index: usize,
    place: Place,
}

impl<'de> SeqAccess<'de> for Items {
    type Error = NodeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, NodeError> {
        let Some(node) = self.items.next() else { return Ok(None) };
        let place = self.place.index(self.index);
        self.index += 1;
        seed.deserialize(At { node, place: place.clone() }).map(Some).map_err(|error| error.at(&place))
    }
}

struct Entries {
    entries: std::vec::IntoIter<(String, Node)>,
    value: Option<(Node, Place)>,
    place: Place,
}

impl<'de> MapAccess<'de> for Entries {
    type Error = NodeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, NodeError> {
        let Some((key, node)) = self.entries.next() else { return Ok(None) };
        let place = self.place.key(&key);
        self.value = Some((node, place.clone()));
        // An unknown key is reported where it stands, not at the object around it.
        seed.deserialize(At { node: Node::String(key), place: place.clone() })
            .map(Some)
            .map_err(|error| error.at(&place))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, NodeError> {
        let (node, place) = self.value.take().unwrap_or((Node::Null, self.place.clone()));
        seed.deserialize(At { node, place: place.clone() }).map_err(|error| error.at(&place))
    }
}
