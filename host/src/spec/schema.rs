//! The JSON Schemas of what people write, for editors.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::{
    grants::{ClockObject, ClockSpec, NetGrant, RandomObject, RandomSpec},
    types::{FileSink, Ignore, OkExit, PipelineSpec, StderrSpec, StdinSpec, StdoutSpec},
    value::{Bound, Size, Span},
    words::{StderrObject, StdinObject},
};

/// The JSON Schema of the pipeline file.
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(PipelineSpec).to_value()
}

impl JsonSchema for Size {
    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A size: \"64MiB\", \"1GB\", or a byte count.",
            "anyOf": [{ "type": "string", "pattern": "^[0-9]+ ?(B|[KMGT]i?B)?$" }, { "type": "integer", "minimum": 0 }]
        })
    }
}

impl JsonSchema for Span {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "description": "A duration: \"250ms\", \"30s\", \"1m30s\"." })
    }
}

impl<T: JsonSchema> JsonSchema for Bound<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("{}OrNone", T::schema_name()).into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let value = generator.subschema_for::<T>();
        json_schema!({ "anyOf": [value, { "const": "none" }] })
    }
}

impl JsonSchema for NetGrant {
    fn schema_name() -> Cow<'static, str> {
        "Address".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "description": "An address: \"host:port\", \"tcp:host:port\" or \"udp:host:port\"." })
    }
}

impl JsonSchema for ClockSpec {
    fn schema_name() -> Cow<'static, str> {
        "Clock".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let object = generator.subschema_for::<ClockObject>();
        json_schema!({ "anyOf": [{ "enum": ["real"] }, object] })
    }
}

impl JsonSchema for RandomSpec {
    fn schema_name() -> Cow<'static, str> {
        "Random".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let object = generator.subschema_for::<RandomObject>();
        json_schema!({ "anyOf": [{ "enum": ["real"] }, object] })
    }
}

impl JsonSchema for OkExit {
    fn schema_name() -> Cow<'static, str> {
        "OkExit".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let code = json_schema!({ "type": "integer", "minimum": 0, "maximum": 255 });
        json_schema!({ "anyOf": [{ "enum": ["declared"] }, { "type": "array", "items": code }] })
    }
}

impl JsonSchema for Ignore {
    fn schema_name() -> Cow<'static, str> {
        "Ignore".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^(exit:[0-9]{1,3}|signal:(SIG)?[A-Z0-9]+|broken-pipe)$" })
    }
}

macro_rules! word_or_object_schema {
    ($type:ty, $name:literal, [$($word:literal),*], $object:ty) => {
        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }
            fn json_schema(generator: &mut SchemaGenerator) -> Schema {
                let object = generator.subschema_for::<$object>();
                json_schema!({ "anyOf": [{ "enum": [$($word),*] }, object] })
            }
        }
    };
}
word_or_object_schema!(StdinSpec, "Stdin", ["inherit", "null"], StdinObject);
word_or_object_schema!(StdoutSpec, "Stdout", ["inherit", "null"], FileSink);
word_or_object_schema!(StderrSpec, "Stderr", ["tee", "capture", "inherit", "null"], StderrObject);
