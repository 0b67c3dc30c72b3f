//! A word from a closed list, or an object.

use serde::{
    Deserialize, Deserializer,
    de::{self, value::MapAccessDeserializer},
};

use super::node::HINT;

/// Reads a word from a closed list, or an object as a `T`.
struct WordOr<T> {
    words: &'static [&'static str],
    object: std::marker::PhantomData<T>,
}

impl<'de, T: Deserialize<'de>> de::Visitor<'de> for WordOr<T> {
    type Value = Result<usize, T>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let words: Vec<_> = self.words.iter().map(|word| format!("{word:?}")).collect();
        write!(f, "{} or an object", words.join(", "))
    }

    fn visit_str<E: de::Error>(self, word: &str) -> Result<Self::Value, E> {
        let found = self.words.iter().position(|known| *known == word);
        found.map(Ok).ok_or_else(|| {
            let hint =
                if word.contains(['/', '.']) { format!("; a file is {{\"file\": {word:?}}}") } else { String::new() };
            let known = self.words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(", ");
            E::custom(format!("{word:?} is no value for this{HINT}known here: {known}{hint}"))
        })
    }

    fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Err)
    }
}

/// Reads a word, as its index in `words`, or an object as a `T`.
pub(super) fn word_or<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
    words: &'static [&'static str],
) -> Result<Result<usize, T>, D::Error> {
    deserializer.deserialize_any(WordOr { words, object: std::marker::PhantomData })
}
