//! The `stagehost` section, checked while the stage is built.
//!
//! A section is JSON. A word in it that no host knows would be read by none, and nobody would be told: so it is an error of the build.

/// The keys that a section may have.
const KEYS: &[&str] =
    &["name", "version", "summary", "ok_exit", "line_at_a_time", "text", "args", "requires", "limits", "grants"];
/// Of each of `args`.
const ARG: &[&str] = &["name", "help"];
/// Of `requires`.
const REQUIRES: &[&str] = &["stdin", "stdout"];
/// Of `limits`.
const LIMITS: &[&str] = &[
    "memory",
    "stack",
    "cpu_time",
    "wall_time",
    "stall_time",
    "fuel",
    "input_bytes",
    "output_bytes",
    "stderr_bytes",
    "handles",
    "open_files",
    "instances",
    "component_size",
    "compile_time",
    "compile_memory",
];
/// Of `grants`.
const GRANTS: &[&str] = &["dirs", "env", "net", "clock", "random"];

/// Checks a section; what `stage!` calls while it is compiled.
///
/// # Panics
///
/// If it is no JSON object, or has a key that means nothing.
#[doc(hidden)]
pub const fn check(section: &str) {
    let text = section.as_bytes();
    let start = space(text, 0);
    assert!(start < text.len() && text[start] == b'{', "the section is no JSON object");
    let end = space(text, object(text, start, Some(KEYS), true));
    assert!(end == text.len(), "something follows the section's object");
}

const fn space(text: &[u8], mut at: usize) -> usize {
    while at < text.len() && matches!(text[at], b' ' | b'\t' | b'\r' | b'\n') {
        at += 1;
    }
    at
}

const fn same(text: &[u8], from: usize, to: usize, word: &str) -> bool {
    let word = word.as_bytes();
    if to - from != word.len() {
        return false;
    }
    let mut i = 0;
    while i < word.len() {
        if text[from + i] != word[i] {
            return false;
        }
        i += 1;
    }
    true
}

/// The end of a string that begins with the quote at `at`.
const fn string(text: &[u8], mut at: usize) -> usize {
    at += 1;
    while at < text.len() && text[at] != b'"' {
        assert!(text[at] >= 0x20, "a string of the section has a control character");
        at += if text[at] == b'\\' { 2 } else { 1 };
    }
    assert!(at < text.len(), "a string of the section has no end");
    at + 1
}

/// The keys of the object that stands under a key of the section itself; `None`: any.
const fn keys_under(text: &[u8], from: usize, to: usize) -> Option<&'static [&'static str]> {
    if same(text, from, to, "args") {
        Some(ARG)
    } else if same(text, from, to, "requires") {
        Some(REQUIRES)
    } else if same(text, from, to, "limits") {
        Some(LIMITS)
    } else if same(text, from, to, "grants") {
        Some(GRANTS)
    } else {
        None
    }
}

/// The end of an object that begins at `at`.
const fn object(text: &[u8], mut at: usize, keys: Option<&[&str]>, outermost: bool) -> usize {
    at = space(text, at + 1);
    if at < text.len() && text[at] == b'}' {
        return at + 1;
    }
    loop {
        assert!(at < text.len() && text[at] == b'"', "a key of the section stands in no double quotes");
        let end = string(text, at);
        let (from, to) = (at + 1, end - 1);
        if let Some(keys) = keys {
            let mut known = false;
            let mut i = 0;
            while i < keys.len() {
                known = known || same(text, from, to, keys[i]);
                i += 1;
            }
            assert!(known, "the section has a key that means nothing: see the SDK's `section` for those that do");
        }
        at = space(text, end);
        assert!(at < text.len() && text[at] == b':', "a colon is missing in the section");
        let under = if outermost { keys_under(text, from, to) } else { None };
        at = space(text, value(text, space(text, at + 1), under));
        assert!(at < text.len(), "an object of the section has no end");
        match text[at] {
            b'}' => return at + 1,
            b',' => at = space(text, at + 1),
            _ => panic!("a comma is missing in the section"),
        }
    }
}

/// The end of a value that begins at `at`. `keys` are those of the object that it is, or of those in the list that it is.
const fn value(text: &[u8], mut at: usize, keys: Option<&'static [&'static str]>) -> usize {
    assert!(at < text.len(), "a value is missing in the section");
    match text[at] {
        b'{' => object(text, at, keys, false),
        b'"' => string(text, at),
        b'[' => {
            at = space(text, at + 1);
            if at < text.len() && text[at] == b']' {
                return at + 1;
            }
            loop {
                at = space(text, value(text, at, keys));
                assert!(at < text.len(), "a list of the section has no end");
                match text[at] {
                    b']' => return at + 1,
                    b',' => at = space(text, at + 1),
                    _ => panic!("a comma is missing in the section"),
                }
            }
        }
        _ => {
            let from = at;
            while at < text.len() && matches!(text[at], b'a'..=b'z' | b'0'..=b'9' | b'-' | b'+' | b'.' | b'E') {
                at += 1;
            }
            let is_word = same(text, from, at, "true") || same(text, from, at, "false") || same(text, from, at, "null");
            assert!(is_word || at > from && matches!(text[from], b'0'..=b'9' | b'-'), "the section is no JSON");
            at
        }
    }
}

#[cfg(test)]
mod tests {
    use super::check;

    fn refuses(section: &'static str, why: &str) {
        let panic = std::panic::catch_unwind(|| check(section)).expect_err(section);
        let text = panic.downcast_ref::<&str>().copied().unwrap_or_default();
        assert!(text.contains(why), "{section}: {text}");
    }

    #[test]
    fn keys_that_mean_nothing_are_refused_wherever_they_are() {
        check(
            r#" {"name": "x", "args": [{"name": "-n", "help": "\"{"}], "limits": {"memory": "1GiB"}, "ok_exit": [1, 2]} "#,
        );
        check(r#"{"grants": {"clock": {"frozen": "now"}, "net": []}, "requires": {}, "line_at_a_time": true}"#);
        check("{}");
        refuses(r#"{"nmae": "x"}"#, "means nothing");
        refuses(r#"{"args": [{"name": "-n"}, {"hlep": ""}]}"#, "means nothing");
        refuses(r#"{"limits": {"memroy": "1GiB"}}"#, "means nothing");
        refuses(r#"{"requires": {"stderr": "any"}}"#, "means nothing");
        refuses(r#"{"name": "x",}"#, "double quotes");
        refuses(r#"{"name" "x"}"#, "colon");
        refuses(r#"{"name": x}"#, "no JSON");
        refuses(r#"{"name": "x"} {}"#, "follows");
        refuses("[]", "no JSON object");
        refuses(r#"{"name": "x"#, "no end");
    }
}
