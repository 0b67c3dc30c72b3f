//! Reading the values that are a word or an object.

use serde::{Deserialize, Deserializer, de};
use signal_hook::low_level::signal_name;

use super::{Declared, Ignore, OkExit, Size, StderrSpec, StdinSpec, StdoutSpec, node::HINT, word_or::word_or};

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

#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct StdinObject {
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
                if sha256.as_deref().is_some_and(|digest| crate::digest::parse(digest).is_none()) {
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

#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct StderrObject {
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
