//! Reading the values that are a word or an object.

use schemars::JsonSchema;
use serde::{
    Deserialize, Deserializer,
    de::{self, value::MapAccessDeserializer},
};
use signal_hook::low_level::signal_name;

use super::{Declared, FileSink, Ignore, OkExit, Size, StderrSpec, StdinSpec, StdoutSpec, node::HINT};

impl std::str::FromStr for Ignore {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = || {
            format!(
                "{text:?} is no way to end{HINT}known here: \"exit:N\" with N from 1 to 255, \"signal:TERM\" and other \
                 signals by name, \"broken-pipe\""
            )
        };
        match text.split_once(':') {
            None if text == "broken-pipe" => Ok(Self::BrokenPipe),
            Some(("exit", code)) => code.parse().ok().filter(|code| *code != 0).map(Self::Exit).ok_or_else(refuse),
            Some(("signal", name)) => signal_number(name).map(Self::Signal).ok_or_else(refuse),
            _ => Err(refuse()),
        }
    }
}

/// The number of a signal by its name, with or without `SIG`.
fn signal_number(name: &str) -> Option<i32> {
    let name = name.strip_prefix("SIG").unwrap_or(name);
    (1..32).find(|signal| signal_name(*signal).is_some_and(|known| known.strip_prefix("SIG") == Some(name)))
}

impl<'de> Deserialize<'de> for Ignore {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

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

pub(super) fn word_or<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
    words: &'static [&'static str],
) -> Result<Result<usize, T>, D::Error> {
    deserializer.deserialize_any(WordOr { words, object: std::marker::PhantomData })
}

impl<'de> Deserialize<'de> for OkExit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Codes;
        impl<'de> de::Visitor<'de> for Codes {
            type Value = OkExit;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a list of exit codes, or \"declared\"")
            }
            fn visit_str<E: de::Error>(self, word: &str) -> Result<OkExit, E> {
                match word {
                    "declared" => Ok(OkExit::Declared),
                    other => Err(E::custom(format!(
                        "{other:?} is no value for this{HINT}known here: \"declared\", or a list such as [1]"
                    ))),
                }
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<OkExit, A::Error> {
                let mut codes = Vec::new();
                while let Some(code) = seq.next_element()? {
                    codes.push(code);
                }
                Ok(OkExit::Codes(codes))
            }
        }
        deserializer.deserialize_any(Codes)
    }
}

impl JsonSchema for OkExit {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "OkExit".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let code = schemars::json_schema!({ "type": "integer", "minimum": 0, "maximum": 255 });
        schemars::json_schema!({ "anyOf": [{ "enum": ["declared"] }, { "type": "array", "items": code }] })
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct StdinObject {
    /// A file's path.
    file: Option<String>,
    /// A text.
    text: Option<String>,
    /// How many bytes the input has: one that ends sooner or later is an error. Without a file or text it is the host's own standard
    /// input.
    bytes: Option<Size>,
    /// The input's SHA-256 digest, as 64 hexadecimal digits: another one is an error.
    sha256: Option<String>,
}

impl<'de> Deserialize<'de> for StdinSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match word_or(deserializer, &["inherit", "null"])? {
            Ok(0) => Ok(Self::Inherit),
            Ok(_) => Ok(Self::Null),
            Err(StdinObject { file, text, bytes, sha256 }) => {
                let bytes = bytes.map(|bytes| bytes.0);
                let is_declared = bytes.is_some() || sha256.is_some();
                let from = match (file, text) {
                    (Some(file), None) => Self::File(file),
                    (None, Some(text)) => Self::Text(text),
                    (None, None) if is_declared => Self::Inherit,
                    _ => return Err(de::Error::custom("stdin is either a \"file\" or a \"text\"")),
                };
                if sha256.as_deref().is_some_and(|digest| super::digest(digest).is_none()) {
                    return Err(de::Error::custom(format!(
                        "a SHA-256 digest is 64 hexadecimal digits{HINT}`sha256sum FILE` prints it"
                    )));
                }
                Ok(if is_declared { Self::Declared(Box::new(from), Declared { bytes, sha256 }) } else { from })
            }
        }
    }
}

impl<'de> Deserialize<'de> for StdoutSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match word_or(deserializer, &["inherit", "null"])? {
            Ok(0) => Ok(Self::Inherit),
            Ok(_) => Ok(Self::Null),
            Err(file) => Ok(Self::File(file)),
        }
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct StderrObject {
    /// A file's path.
    file: String,
}

impl<'de> Deserialize<'de> for StderrSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match word_or(deserializer, &["tee", "capture", "inherit", "null"])? {
            Ok(0) => Self::Tee,
            Ok(1) => Self::Capture,
            Ok(2) => Self::Inherit,
            Ok(_) => Self::Null,
            Err(StderrObject { file }) => Self::File(file),
        })
    }
}

macro_rules! word_or_object_schema {
    ($type:ty, $name:literal, [$($word:literal),*], $object:ty) => {
        impl JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                $name.into()
            }
            fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                let object = generator.subschema_for::<$object>();
                schemars::json_schema!({ "anyOf": [{ "enum": [$($word),*] }, object] })
            }
        }
    };
}
word_or_object_schema!(StdinSpec, "Stdin", ["inherit", "null"], StdinObject);
word_or_object_schema!(StdoutSpec, "Stdout", ["inherit", "null"], FileSink);
word_or_object_schema!(StderrSpec, "Stderr", ["tee", "capture", "inherit", "null"], StderrObject);

impl JsonSchema for Ignore {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Ignore".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^(exit:[0-9]{1,3}|signal:(SIG)?[A-Z0-9]+|broken-pipe)$" })
    }
}
