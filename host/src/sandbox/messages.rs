//! wasmtime's messages, in our words where people need to know more.

/// Says in our words that an import is missing, which is what people need to know of a linker's error.
pub(super) fn named_import(error: &str) -> String {
    let component = error.strip_prefix("component imports ").and_then(|rest| rest.split_once(", but a matching"));
    let import = component.map(|(import, _)| import);
    let module = error.strip_prefix("unknown import: ").and_then(|rest| rest.split_once(" has not been defined"));
    match import.or(module.map(|(import, _)| import)) {
        Some(import) => format!("it imports {import}, which this host does not offer"),
        None => error.to_owned(),
    }
}

/// An error's chain on one line.
pub(super) fn readable(error: &wasmtime::Error) -> String {
    // The alternate form leaves out what is behind an error of another library.
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if !text.ends_with(&cause) {
            text.push_str(if text.is_empty() { "" } else { ": " });
            text.push_str(&cause);
        }
    }
    text = text.replace('\n', " ");
    while let Some(double) = text.find("  ") {
        text.remove(double);
    }
    text
}
