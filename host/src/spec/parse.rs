//! From a JSON text to what it says, and what is said where it is none.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt};

use super::{
    Place, SpecError,
    bytes::{to_os, to_text},
    node::Node,
    types::PipelineSpec,
};

/// The largest pipeline file that is read, in bytes. A file of a thousand stages has some hundred KiB.
pub const MAX_FILE_BYTES: usize = 16 << 20;

/// The most values in one: each takes some hundred bytes of memory, however few it has in the file.
pub const MAX_VALUES: usize = 1 << 18;

/// Parses a pipeline file.
///
/// # Errors
///
/// The first thing wrong with it, in the order of the text for syntax errors and of the fields for the rest.
pub fn parse(text: &[u8]) -> Result<PipelineSpec, SpecError> {
    let spec: PipelineSpec = read_json(text)?;
    spec.check()?;
    Ok(spec)
}

/// Reads a JSON text as a `T`: UTF-8 of bounded size, no key twice, no unknown keys.
pub(crate) fn read_json<T: serde::de::DeserializeOwned>(text: &[u8]) -> Result<T, SpecError> {
    let mut node = parse_json(text)?;
    node.check(&Place::root())?;
    node.read()
}

/// How many values a JSON text has, from above: each is behind a comma or the beginning of a list.
pub(crate) fn values(text: &[u8]) -> usize {
    let (mut values, mut in_string, mut is_escaped) = (1, false, false);
    for byte in text {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = in_string,
            b'"' => in_string = !in_string,
            b',' | b'[' | b'{' if !in_string => values += 1,
            _ => {}
        }
    }
    values
}

/// Reads a JSON text as far as its syntax goes.
pub(super) fn parse_json(text: &[u8]) -> Result<Node, SpecError> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    if text.len() > MAX_FILE_BYTES {
        return Err(SpecError::new("line 1, column 1", format!("the file is over {} MiB", MAX_FILE_BYTES >> 20)));
    }
    if values(text) > MAX_VALUES {
        return Err(SpecError::new("line 1, column 1", format!("the file has more than {MAX_VALUES} values")));
    }
    match std::str::from_utf8(text) {
        Ok(text) => serde_json::from_str(text).map_err(|error| syntax_error(text, &error)),
        // Names of the system's may be any bytes; what is not even JSON around them is another encoding.
        Err(error) => {
            let refused = |message: &str, hint: &str| {
                let (line, column) = line_and_column(text, error.valid_up_to());
                SpecError::new(format!("line {line}, column {column}"), message).hint(hint)
            };
            let node: Node = serde_json::from_str(&to_text(OsStr::from_bytes(text)))
                .map_err(|_| refused("the file is not UTF-8", "a pipeline file is JSON text in UTF-8"))?;
            match node.text_of_stdin().is_some_and(|text| to_os(text) != OsStr::new(text)) {
                true => Err(refused("the text for standard input is not UTF-8", "keep it in a file of its own")),
                false => Ok(node),
            }
        }
    }
}

fn line_and_column(text: &[u8], offset: usize) -> (usize, usize) {
    let before = &text[..offset];
    let line_start = before.iter().rposition(|&byte| byte == b'\n').map_or(0, |newline| newline + 1);
    (before.iter().filter(|&&byte| byte == b'\n').count() + 1, offset - line_start + 1)
}

fn syntax_error(text: &str, error: &serde_json::Error) -> SpecError {
    let place = format!("line {}, column {}", error.line(), error.column());
    let message = error.to_string();
    let message = message.split(" at line ").next().unwrap_or(&message).to_owned();
    let spec_error = SpecError::new(place, message.clone());
    if text.trim().is_empty() {
        SpecError { message: "the file is empty".into(), ..spec_error }
            .hint(r#"the smallest pipeline file is {"version": 1, "stages": []}"#)
    } else if message.contains("recursion limit") {
        SpecError { message: "the file is nested too deeply".into(), ..spec_error }
    } else if let Some(other) = other_format(text, error) {
        spec_error.hint(other)
    } else if message.contains("trailing comma") {
        spec_error.hint("JSON allows no comma before a closing bracket")
    } else if message.contains("key must be a string") {
        spec_error.hint("JSON keys stand in double quotes, and JSON has no comments")
    } else {
        spec_error
    }
}

/// What a text looks like that is no JSON.
fn other_format(text: &str, error: &serde_json::Error) -> Option<&'static str> {
    let first = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'))?;
    let key = |separator: char| {
        let word = |c: char| c.is_ascii_alphanumeric() || "_-$\"".contains(c);
        first.split_once(separator).is_some_and(|(key, _)| !key.is_empty() && key.trim_end().chars().all(word))
    };
    let inside = first.trim_start_matches('[').trim_end_matches(']');
    let is_table = first.starts_with('[')
        && first.ends_with(']')
        && inside.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c))
        && !inside.is_empty();
    if !first.starts_with('{') && (is_table || key('=')) {
        return Some("this looks like TOML; a pipeline file is JSON");
    }
    if !first.starts_with('{') && (first.starts_with("---") || first.starts_with("- ") || key(':')) {
        return Some("this looks like YAML; a pipeline file is JSON");
    }
    // A comment stands where it stops being JSON.
    let line = text.lines().nth(error.line().checked_sub(1)?)?;
    let at = line.get(error.column().saturating_sub(2)..)?.trim_start();
    let is_comment =
        ["//", "/*", "#"].iter().any(|start| at.starts_with(start) || line.trim_start().starts_with(start));
    is_comment
        .then_some("this looks like JSON with comments, which JSON does not have; \"description\" is there for people")
}
