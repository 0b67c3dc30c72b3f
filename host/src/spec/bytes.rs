//! Bytes that are no UTF-8, in the text of a pipeline.
//!
//! JSON is text; names of files, arguments and variables are bytes. So a byte from 0x80 to 0xFF that is not part of a UTF-8 character
//! stands in a pipeline's text as the character U+10FF00 plus that byte, at the end of the last area for private use: 0xE9 is U+10FFE9,
//! which JSON writes `"\udbff\udfe9"`. (Python's `surrogateescape` does the same with surrogates, which a Rust text cannot hold.) Those
//! 128 characters mean bytes wherever a pipeline names something of the system's; a name that really has one of them is written as its
//! four bytes, so that every name has a text and every such text is one name again.

use std::{
    borrow::Cow,
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

const FIRST: u32 = 0x0010_ff80;
const LAST: u32 = 0x0010_ffff;

/// The byte that a character stands for, if it stands for one.
pub fn escaped_byte(c: char) -> Option<u8> {
    matches!(u32::from(c), FIRST..=LAST).then(|| u8::try_from(u32::from(c) & 0xff).expect("eight bits"))
}

/// The character that stands for a byte, which is one from 0x80 on.
fn escape(byte: u8) -> char {
    char::from_u32(0x0010_ff00 | u32::from(byte)).expect("it is below the last character")
}

/// The text that stands for bytes in a pipeline: themselves, where they are UTF-8.
pub fn to_text(bytes: impl AsRef<OsStr>) -> String {
    let bytes = bytes.as_ref().as_bytes();
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match escaped_byte(c) {
                Some(_) => text.extend(c.encode_utf8(&mut [0; 4]).bytes().map(escape)),
                None => text.push(c),
            }
        }
        text.extend(chunk.invalid().iter().copied().map(escape));
    }
    text
}

/// The bytes that a pipeline's text stands for.
pub fn to_os(text: &str) -> Cow<'_, OsStr> {
    if !text.chars().any(|c| escaped_byte(c).is_some()) {
        return Cow::Borrowed(OsStr::new(text));
    }
    let mut bytes = Vec::with_capacity(text.len());
    for c in text.chars() {
        match escaped_byte(c) {
            Some(byte) => bytes.push(byte),
            None => bytes.extend(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    Cow::Owned(OsString::from_vec(bytes))
}

/// The path that a pipeline's text stands for.
pub fn to_path(text: &str) -> Cow<'_, Path> {
    match to_os(text) {
        Cow::Borrowed(path) => Cow::Borrowed(Path::new(path)),
        Cow::Owned(path) => Cow::Owned(PathBuf::from(path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_a_text_and_every_text_is_that_name() {
        let names: [&[u8]; 8] = [
            b"",
            b"plain",
            "caf\u{e9} \u{10ff7f}".as_bytes(),
            b"caf\xe9",
            b"\xff\xfe\x80",
            "\u{10ffe9}".as_bytes(),
            b"a\xf4\x8f\xbf",
            b"\xed\xa0\x80/\xc3",
        ];
        for name in names {
            let text = to_text(OsStr::from_bytes(name));
            assert_eq!(to_os(&text).as_bytes(), name, "{text:?}");
        }
        assert_eq!(to_text(OsStr::from_bytes(b"caf\xe9")), "caf\u{10ffe9}");
        assert_eq!(serde_json::from_str::<String>(r#""caf\udbff\udfe9""#).unwrap(), "caf\u{10ffe9}");
    }

    #[test]
    fn random_bytes_come_back() {
        let mut state = 1_u64;
        for _ in 0..2000 {
            let mut name = Vec::new();
            for _ in 0..12 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                name.push(u8::try_from(state >> 56).unwrap());
            }
            assert_eq!(to_os(&to_text(OsStr::from_bytes(&name))).as_bytes(), name);
        }
    }
}
