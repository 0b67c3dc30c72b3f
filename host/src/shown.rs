//! Text that people read, made of what guests, files and systems say.
//!
//! There is one notion of what may be shown as it is, for errors, reports, plans and guests' lines on a terminal alike. Not shown as
//! they are, but as escapes: control characters (a terminal obeys them), characters that change the direction of what follows or have no
//! width (a text with them does not read as it is written), and the characters that stand for bytes which are no UTF-8. A field is one
//! line; what has several keeps them, indented, so that no line that begins at the margin is another's word.
//! JSON is for programs and keeps everything as it is.

use std::fmt::Write;

use crate::spec::escaped_byte;

/// Whether a character is invisible or turns the text around: Unicode's `Default_Ignorable_Code_Point` and `Bidi_Control`
/// (`DerivedCoreProperties.txt`, `PropList.txt`, version 16), the separators of lines and paragraphs, and annotations between lines.
fn is_deceptive(c: char) -> bool {
    matches!(u32::from(c),
        0xad | 0x34f | 0x61c | 0x115f..=0x1160 | 0x17b4..=0x17b5 | 0x180b..=0x180f | 0x200b..=0x200f | 0x2028..=0x202e
        | 0x2060..=0x206f | 0x3164 | 0xfe00..=0xfe0f | 0xfeff | 0xffa0 | 0xfff0..=0xfffb | 0x1_bca0..=0x1_bca3
        | 0x1_d173..=0x1_d17a | 0xe_0000..=0xe_0fff)
}

/// Whether a character may be shown as it is, within a line.
pub fn is_plain(c: char) -> bool {
    (!c.is_control() || c == '\t') && !is_deceptive(c) && escaped_byte(c).is_none()
}

/// Appends a character as it is shown within a line.
pub(crate) fn push(c: char, shown: &mut String) {
    match escaped_byte(c) {
        // Writing to a string cannot fail.
        Some(byte) => _ = write!(shown, "\\x{byte:02x}"),
        None if is_plain(c) => shown.push(c),
        None => shown.extend(c.escape_default()),
    }
}

/// A field that is one line; line breaks in it are shown too.
pub fn line(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    text.chars().for_each(|c| push(c, &mut shown));
    shown
}

/// A field that may have several lines; those behind the first are indented.
pub fn field(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.trim_end_matches('\n').chars() {
        match c {
            '\n' => shown.push_str("\n  "),
            c => push(c, &mut shown),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_taken_for_another_line_or_command() {
        assert_eq!(line("plain\tüñ€ \u{1f600}"), "plain\tüñ€ \u{1f600}");
        assert_eq!(line("a\nerror: b\r\u{1b}[2J\u{85}\u{9b}"), "a\\nerror: b\\r\\u{1b}[2J\\u{85}\\u{9b}");
        assert_eq!(
            line("\u{202e}evil\u{2066}\u{200b}\u{200d}\u{feff}\u{2028}"),
            "\\u{202e}evil\\u{2066}\\u{200b}\\u{200d}\\u{feff}\\u{2028}"
        );
        assert_eq!(line("caf\u{10ffe9}"), "caf\\xe9");
        assert_eq!(field("first\nerror: second\n\nhint: third\n"), "first\n  error: second\n  \n  hint: third");
        assert!(field("a\r\nb").lines().skip(1).all(|line| line.starts_with("  ")));
    }
}
