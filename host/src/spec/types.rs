//! The pipeline file's shape. One set of types serves reading, validation and the JSON Schema.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use schemars::JsonSchema;
use serde::{
    Deserialize, Deserializer,
    de::{self, value::MapAccessDeserializer},
};

use super::{Bound, MAX_STAGES, Place, Size, Span, SpecError, node::HINT};

/// A pipeline file.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "stagehost pipeline")]
pub struct PipelineSpec {
    /// Where the schema of this file is; not read.
    #[serde(rename = "$schema")]
    pub schema: Option<String>,
    /// The version of the file's format: 1.
    pub version: u64,
    /// The pipeline's name, for reports.
    pub name: Option<String>,
    /// What the pipeline is for, for people.
    pub description: Option<String>,
    /// The stages, first to last. Without any, stdin is copied to stdout.
    pub stages: Vec<StageSpec>,
    /// What the first stage reads. Default: the host's own standard input.
    pub stdin: Option<StdinSpec>,
    /// What takes the last stage's output. Default: the host's own standard output.
    pub stdout: Option<StdoutSpec>,
    /// Environment variables for every stage; null removes one.
    pub env: Option<BTreeMap<String, Option<String>>>,
    /// Limits for every stage that sets none of its own.
    pub limits: Option<LimitsSpec>,
    /// How long the whole run may take. Default: as long as it likes.
    pub timeout: Option<Bound<Span>>,
    /// What the first failure does to the other stages. Default: cancel.
    pub on_failure: Option<OnFailure>,
    /// The capacity of every ring, rounded up to a power of two from 4 KiB to 64 MiB. Default: 256 KiB.
    pub buffer: Option<Size>,
}

/// One stage.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StageSpec {
    /// A component or preview1 module: a path, or `builtin:NAME` for a stock stage.
    pub wasm: Option<String>,
    /// The SHA-256 digest, in hexadecimal, that the `.wasm` file must have.
    pub sha256: Option<String>,
    /// The stage's name; unique. Default: the file's name.
    pub name: Option<String>,
    /// The stage's arguments, without a program name.
    pub args: Option<Vec<String>>,
    /// Environment variables, over the pipeline's; null removes one.
    pub env: Option<BTreeMap<String, Option<String>>>,
    /// The stage's limits, over the pipeline's.
    pub limits: Option<LimitsSpec>,
    /// What the stage needs its ends to be.
    pub requires: Option<RequiresSpec>,
    /// The capacity of the ring this stage writes.
    pub buffer: Option<Size>,
    /// Where the stage's standard error goes. Default: `"tee"` on the command line, `"capture"` in the library.
    pub stderr: Option<StderrSpec>,
    /// Exit codes that are no failure, besides 0 and those that the component declares.
    pub ok_exit: Option<Vec<u8>>,
    /// Ways to end that are no failure: `"exit:N"`, `"broken-pipe"`.
    pub ignore: Option<Vec<Ignore>>,
    /// What a broken pipe on the stage's output means. Default: excuse.
    pub broken_pipe: Option<BrokenPipe>,
}

/// Limits of a stage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitsSpec {
    /// The sum of all linear memories and tables. Default: 256 MiB.
    pub memory: Option<Bound<Size>>,
}

/// What a stage needs its ends to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RequiresSpec {
    /// What stdin must be.
    pub stdin: Option<Requirement>,
    /// What stdout must be.
    pub stdout: Option<Requirement>,
}

/// What a stage says of its stdin or stdout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, serde::Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Requirement {
    /// Anything will do.
    #[default]
    Any,
    /// Nothing may be connected here.
    Forbid,
}

/// What the first failure does to the other stages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// They are stopped at once.
    #[default]
    Cancel,
    /// They go on with what there is; the run fails all the same.
    Drain,
}

/// What a broken pipe on a stage's output means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BrokenPipe {
    /// No failure, if the stage ended because of it and its reader had what it wanted.
    #[default]
    Excuse,
    /// No failure, whatever the stage does after its reader left.
    ExcuseAny,
    /// A failure.
    Error,
}

/// A way to end that is no failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ignore {
    /// `"exit:N"`: this exit code.
    Exit(u8),
    /// `"broken-pipe"`: a broken pipe.
    BrokenPipe,
}

/// What the first stage reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum StdinSpec {
    /// The host's own standard input.
    #[default]
    Inherit,
    /// Nothing.
    Null,
    /// A file.
    File(String),
    /// This text.
    Text(String),
}

/// What takes the last stage's output.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum StdoutSpec {
    /// The host's own standard output.
    #[default]
    Inherit,
    /// Nothing keeps it.
    Null,
    /// A file.
    File(FileSink),
}

/// A file that takes output.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileSink {
    /// The file's path.
    pub file: String,
    /// Whether to write behind what the file has. Default: false.
    pub append: Option<bool>,
    /// Whether the file appears only when the run succeeded, and whole. Default: true, unless `append`.
    pub atomic: Option<bool>,
}

/// Where a stage's standard error goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StderrSpec {
    /// To the host's standard error, and a bounded tail to the report.
    Tee,
    /// A bounded tail to the report.
    Capture,
    /// To the host's standard error.
    Inherit,
    /// Nowhere.
    Null,
    /// To a file, which is appended to.
    File(String),
}

/// The JSON Schema of the pipeline file.
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(PipelineSpec).to_value()
}

impl PipelineSpec {
    /// The stages' names: their own, else the file's, made unique by a number.
    pub fn stage_names(&self) -> Vec<String> {
        let mut taken: BTreeSet<String> = self.stages.iter().filter_map(|stage| stage.name.clone()).collect();
        let name = |stage: &StageSpec| {
            if let Some(name) = &stage.name {
                return name.clone();
            }
            let wasm = stage.wasm.as_deref().unwrap_or_default();
            let file = Path::new(wasm.strip_prefix("builtin:").unwrap_or(wasm));
            let stem = file.file_stem().map_or_else(|| "stage".into(), |stem| stem.to_string_lossy().into_owned());
            let numbered = (2_u32..).map(|number| format!("{stem}-{number}"));
            let name = std::iter::once(stem.clone()).chain(numbered).find(|name| !taken.contains(name)).unwrap_or(stem);
            taken.insert(name.clone());
            name
        };
        self.stages.iter().map(name).collect()
    }

    /// Checks what the types cannot say.
    pub(crate) fn check(&self) -> Result<(), SpecError> {
        let root = Place::root();
        if self.version != 1 {
            return Err(SpecError::new(root.key("version"), format!("version {} is not known", self.version))
                .hint("this program reads version 1"));
        }
        if self.stages.len() > MAX_STAGES {
            return Err(SpecError::new(root.key("stages"), format!("there are more than {MAX_STAGES} stages")));
        }
        check_env(self.env.as_ref(), &root)?;
        check_buffer(self.buffer, &root)?;
        let mut names = BTreeSet::new();
        for (index, stage) in self.stages.iter().enumerate() {
            let place = root.key("stages").index(index);
            stage.check(&place)?;
            if let Some(name) = &stage.name
                && !names.insert(name)
            {
                return Err(SpecError::new(place.key("name"), format!("another stage is named {name:?}"))
                    .hint("names of stages are unique"));
            }
        }
        if let Some(StdoutSpec::File(FileSink { append: Some(true), atomic: Some(true), .. })) = &self.stdout {
            return Err(SpecError::new(
                root.key("stdout").key("atomic"),
                "a file that is appended to cannot be atomic",
            )
            .hint("leave out one of \"append\" and \"atomic\""));
        }
        Ok(())
    }
}

impl StageSpec {
    fn check(&self, place: &Place) -> Result<(), SpecError> {
        let Some(wasm) = &self.wasm else {
            return Err(SpecError::new(place, "the stage says nothing to run")
                .hint(r#"add "wasm": "builtin:cat" or the path of a component"#));
        };
        if wasm.is_empty() {
            return Err(SpecError::new(place.key("wasm"), "the path is empty"));
        }
        if self.name.as_deref().is_some_and(str::is_empty) {
            return Err(SpecError::new(place.key("name"), "the name is empty"));
        }
        if let Some(digest) = &self.sha256
            && (digest.len() != 64 || !digest.bytes().all(|byte| byte.is_ascii_hexdigit()))
        {
            return Err(SpecError::new(place.key("sha256"), "a SHA-256 digest is 64 hexadecimal digits")
                .hint("`sha256sum FILE` prints it"));
        }
        check_env(self.env.as_ref(), place)?;
        check_buffer(self.buffer, place)
    }
}

fn check_env(env: Option<&BTreeMap<String, Option<String>>>, place: &Place) -> Result<(), SpecError> {
    for key in env.into_iter().flat_map(BTreeMap::keys) {
        if key.is_empty() || key.contains('=') {
            return Err(SpecError::new(place.key("env").key(key), "a variable's name is not empty and has no `=`"));
        }
    }
    Ok(())
}

fn check_buffer(buffer: Option<Size>, place: &Place) -> Result<(), SpecError> {
    match buffer {
        Some(Size(bytes)) if bytes > 64 << 20 => {
            Err(SpecError::new(place.key("buffer"), "a ring has at most 64 MiB").hint("the default is 256KiB"))
        }
        _ => Ok(()),
    }
}

impl std::str::FromStr for Ignore {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse =
            || format!("{text:?} is no way to end{HINT}known here: \"exit:N\" with N from 1 to 255, \"broken-pipe\"");
        match text.split_once(':') {
            None if text == "broken-pipe" => Ok(Self::BrokenPipe),
            Some(("exit", code)) => code.parse().map(Self::Exit).map_err(|_| refuse()),
            _ => Err(refuse()),
        }
    }
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

fn word_or<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
    words: &'static [&'static str],
) -> Result<Result<usize, T>, D::Error> {
    deserializer.deserialize_any(WordOr { words, object: std::marker::PhantomData })
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct StdinObject {
    /// A file's path.
    file: Option<String>,
    /// A text.
    text: Option<String>,
}

impl<'de> Deserialize<'de> for StdinSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match word_or(deserializer, &["inherit", "null"])? {
            Ok(0) => Ok(Self::Inherit),
            Ok(_) => Ok(Self::Null),
            Err(StdinObject { file: Some(file), text: None }) => Ok(Self::File(file)),
            Err(StdinObject { file: None, text: Some(text) }) => Ok(Self::Text(text)),
            Err(_) => Err(de::Error::custom("stdin is either a \"file\" or a \"text\"")),
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
        schemars::json_schema!({ "type": "string", "pattern": "^(exit:[0-9]{1,3}|broken-pipe)$" })
    }
}
