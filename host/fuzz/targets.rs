//! What is fuzzed, as functions of bytes: driven by the fuzzer, and from generated input in the ordinary tests. Each panics when
//! something does not hold.

use super::api::{inspect, parse, shorthand};

/// A pipeline file: whatever it is, it is a pipeline that checks, or an error that names a place.
pub(crate) fn pipeline_file(text: &[u8]) {
    match parse(text) {
        Ok(spec) => {
            spec.check().expect("what was parsed checks");
            let mut names = spec.stage_names();
            assert_eq!(names.len(), spec.stages.len());
            names.sort();
            names.dedup();
            assert_eq!(names.len(), spec.stages.len(), "names are unique");
        }
        Err(error) => {
            assert!(!error.place.is_empty() && !error.message.is_empty(), "{error:?}");
            assert!(!error.message.contains('\u{1f}'), "{error:?}");
        }
    }
    if let Ok(text) = std::str::from_utf8(text)
        && text.len() < 4096
        && let Ok(spec) = shorthand(text)
    {
        spec.check().expect("what was parsed checks");
    }
}

/// A component or module, its `stagehost` section with it: it is something that can be run, or it is said what it is.
pub(crate) fn component(bytes: &[u8]) {
    match inspect(bytes) {
        Ok(inspection) => assert!(!inspection.exports.is_empty()),
        Err(refused) => assert!(!refused.message.is_empty()),
    }
}
