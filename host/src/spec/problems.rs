//! All that is wrong with a pipeline file, not only the first of it.
//!
//! Reading stops at the first error, and says where it is. So what is wrong there is taken out, and the rest is read again, until
//! nothing is wrong or nothing can be taken out.

use super::{PipelineSpec, Place, SpecError, node::Node, parse::parse_json};

/// The most errors that are looked for.
const MOST: usize = 50;

/// What can be read of a pipeline file, and all that is wrong with it.
#[derive(Debug)]
pub struct Problems {
    /// What can be read: what is wrong is not in it, and a stage of which nothing else is left copies its input. `None`: nothing.
    pub spec: Option<PipelineSpec>,
    /// What is wrong, in the order in which it is found: the first fifty errors, and then that there are more.
    pub errors: Vec<SpecError>,
    rest: Rest,
}

impl Problems {
    /// The place in the file of what stands at a place in what could be read: behind an item that is wrong they have other numbers.
    pub fn place_in_file(&self, place: &str) -> String {
        steps(place).map_or_else(|| place.to_owned(), |steps| self.rest.place_in_file(&steps, place))
    }
}

/// Reads a pipeline file, with all that is wrong with it.
pub fn problems(text: &[u8]) -> Problems {
    let mut errors: Vec<SpecError> = Vec::new();
    let mut rest = match parse_json(text) {
        Ok(node) => Rest { node, removed: Vec::new() },
        // Behind a syntax error nothing is known to be what it seems.
        Err(error) => return Problems { spec: None, errors: vec![error], rest: Rest::default() },
    };
    // Each round takes something out, or puts in what is missing.
    let spec = loop {
        let mut checked = rest.node.clone();
        let read = checked.check(&Place::root()).and_then(|()| checked.read::<PipelineSpec>());
        let error = match read.and_then(|spec| spec.check().map(|()| spec)) {
            Ok(spec) => break Some(spec),
            Err(error) => error,
        };
        if errors.len() == MOST {
            errors.push(SpecError::new("the file", format!("there are more errors than these {MOST}")));
            break None;
        }
        let Some(steps) = steps(&error.place) else {
            errors.push(error);
            errors.push(SpecError::new("the file", "what stands behind this was not looked at"));
            break None;
        };
        if !rest.follows_from_what_was_told(&steps, &error.message) {
            errors.push(SpecError { place: rest.place_in_file(&steps, &error.place), ..error.clone() });
        }
        if !rest.put_in(&steps, &error.message) && !rest.take_out(steps) {
            break None;
        }
    };
    Problems { spec, errors, rest }
}

/// A step from a node to one inside it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
}

/// The steps of a place as it is printed: `stages[2].limits.memory`, `env["a b"]`.
fn steps(place: &str) -> Option<Vec<Step>> {
    let mut steps = Vec::new();
    if place == Place::root().to_string() {
        return Some(steps);
    }
    let mut rest = place;
    while !rest.is_empty() {
        rest = rest.strip_prefix('.').unwrap_or(rest);
        if let Some(inside) = rest.strip_prefix('[') {
            if inside.starts_with('"') {
                // A key that is quoted, as Rust quotes texts.
                let mut ends = inside.char_indices().skip(1).scan(false, |escaped, (at, c)| {
                    let ends = c == '"' && !*escaped;
                    *escaped = c == '\\' && !*escaped;
                    Some((at, ends))
                });
                let end = ends.find(|(_, ends)| *ends)?.0;
                steps.push(Step::Key(serde_json::from_str(&inside[..=end]).ok()?));
                rest = inside[end + 1..].strip_prefix(']')?;
            } else {
                let (index, after) = inside.split_once(']')?;
                steps.push(Step::Index(index.parse().ok()?));
                rest = after;
            }
        } else {
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            if end == 0 {
                return None;
            }
            steps.push(Step::Key(rest[..end].to_owned()));
            rest = &rest[end..];
        }
    }
    Some(steps)
}

/// What is left of a file, and what was taken out of it: steps as they were in the file.
#[derive(Debug, Default)]
struct Rest {
    node: Node,
    removed: Vec<Vec<Step>>,
}

impl Rest {
    /// Steps in the file, from steps in what is left of it: behind an item that was taken out they have other numbers.
    fn in_file(&self, steps: &[Step]) -> Vec<Step> {
        let mut file: Vec<Step> = Vec::new();
        for step in steps {
            let Step::Index(left) = step else {
                file.push(step.clone());
                continue;
            };
            let gone = |removed: &Vec<Step>| match removed.split_last() {
                Some((Step::Index(index), around)) if around == file => Some(*index),
                _ => None,
            };
            let mut gone: Vec<_> = self.removed.iter().filter_map(gone).collect();
            gone.sort_unstable();
            let index = gone.into_iter().fold(*left, |index, gone| index + usize::from(gone <= index));
            file.push(Step::Index(index));
        }
        file
    }

    /// The place in the file, as it is printed.
    fn place_in_file(&self, steps: &[Step], as_found: &str) -> String {
        let file = self.in_file(steps);
        if file == steps {
            return as_found.to_owned();
        }
        let place = file.iter().fold(Place::root(), |place, step| match step {
            Step::Key(key) => place.key(key),
            Step::Index(index) => place.index(*index),
        });
        place.to_string()
    }

    /// Whether an error is there only because something was taken out that was wrong, and told: it is missing now, or what is around
    /// it is nothing without it.
    fn follows_from_what_was_told(&self, steps: &[Step], message: &str) -> bool {
        let mut place = self.in_file(steps);
        if let Some(key) = missing_key(message) {
            place.push(Step::Key(key.to_owned()));
        }
        !place.is_empty() && self.removed.iter().any(|removed| removed.starts_with(&place))
    }

    /// Puts in what every file has, if that is missing.
    fn put_in(&mut self, around: &[Step], message: &str) -> bool {
        let value = match missing_key(message) {
            Some("version") => Node::Number(1.into()),
            Some("stages") => Node::Array(Vec::new()),
            _ => return false,
        };
        match (&mut self.node, around, missing_key(message)) {
            (Node::Object(entries), [], Some(key)) => {
                entries.push((key.to_owned(), value));
                true
            }
            _ => false,
        }
    }

    /// Takes out what is wrong. `false`: nothing can be taken out there.
    fn take_out(&mut self, mut steps: Vec<Step>) -> bool {
        if steps.is_empty() {
            return false;
        }
        // What is missing in a stage, or wrong with its kind, is wrong with all of it.
        if let Some(index) = stage_of(&steps) {
            return replace_stage(&mut self.node, index);
        }
        loop {
            let whole = self.in_file(&steps);
            let Some(last) = steps.pop() else { return false };
            if let Some(around) = follow(&mut self.node, &steps)
                && remove(around, &last)
            {
                self.removed.push(whole);
                return true;
            }
            // It is not there, such as a key that is missing: what is around it goes.
            if let Some(index) = stage_of(&steps) {
                return replace_stage(&mut self.node, index);
            }
        }
    }
}

/// The key that an error says is missing.
fn missing_key(message: &str) -> Option<&str> {
    message.strip_prefix("the key \"")?.strip_suffix("\" is missing")
}

/// The stage whose steps these are.
fn stage_of(steps: &[Step]) -> Option<usize> {
    match steps {
        [Step::Key(stages), Step::Index(index)] if stages == "stages" => Some(*index),
        _ => None,
    }
}

fn follow<'a>(mut node: &'a mut Node, steps: &[Step]) -> Option<&'a mut Node> {
    for step in steps {
        node = match (node, step) {
            (Node::Object(entries), Step::Key(key)) => &mut entries.iter_mut().find(|(known, _)| known == key)?.1,
            (Node::Array(items), Step::Index(index)) => items.get_mut(*index)?,
            _ => return None,
        };
    }
    Some(node)
}

fn remove(around: &mut Node, last: &Step) -> bool {
    match (around, last) {
        (Node::Object(entries), Step::Key(key)) => {
            // Of a key that stands twice, the second.
            let at = entries.iter().rposition(|(known, _)| known == key);
            at.is_some_and(|at| {
                entries.remove(at);
                true
            })
        }
        (Node::Array(items), Step::Index(index)) if *index < items.len() => {
            items.remove(*index);
            true
        }
        _ => false,
    }
}

fn replace_stage(root: &mut Node, index: usize) -> bool {
    let copies = || Node::Object(vec![("wasm".into(), Node::String("builtin:cat".into()))]);
    match follow(root, &[Step::Key("stages".into()), Step::Index(index)]) {
        // It was replaced before: nothing of it can be wrong.
        Some(Node::Object(entries)) if matches!(&entries[..], [(key, Node::String(_))] if key == "wasm") => false,
        Some(stage) => {
            *stage = copies();
            true
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::{Problems, problems};

    #[test]
    fn all_errors_are_found_and_the_rest_is_read() {
        let text = br#"{"version": 1, "nmae": "x", "timeout": 5, "stages": [
            {"wasm": "builtin:cat", "limits": {"memory": "64M", "fule": 1}},
            {},
            {"command": ["sort"], "args": ["-u"], "env": {"a b": 7}},
            {"wasm": "builtin:wc"}
        ]}"#;
        let Problems { spec, errors: found, .. } = problems(text);
        let places: Vec<_> = found.iter().map(|error| error.place.as_str()).collect();
        let expected =
            ["nmae", "timeout", "stages[0].limits.memory", "stages[0].limits.fule", "stages[1]", "stages[2].args"];
        for place in expected {
            assert!(places.contains(&place), "{place} is not in {places:?}");
        }
        assert!(places.contains(&"stages[2].env[\"a b\"]"), "{places:?}");
        assert_eq!(spec.unwrap().stages.len(), 4);
        let Problems { spec, errors: found, .. } = problems(b"{\"version\": 1,");
        assert!(spec.is_none() && found.len() == 1);
        let places = |text: &[u8]| {
            let mut places: Vec<_> = problems(text).errors.into_iter().map(|error| error.place).collect();
            places.sort();
            places
        };
        // Places are those of the file, whatever was taken out before them.
        let text = br#"{"version": 1, "stages": [{"wasm": "builtin:cat", "ok_exit": [1, 300, 2, "x", 400], "args": ["a", 1, "b", 2]}]}"#;
        let expected =
            ["args[1]", "args[3]", "ok_exit[1]", "ok_exit[3]", "ok_exit[4]"].map(|place| format!("stages[0].{place}"));
        assert_eq!(places(text), expected);
        // What was wrong is not told a second time as missing.
        assert_eq!(places(br#"{"version": 2, "stages": [], "timeout": 5}"#), ["timeout", "version"]);
        assert_eq!(places(br#"{"version": 1, "stages": {}, "timeout": 5}"#), ["stages", "timeout"]);
        assert_eq!(places(b"{}"), ["the file", "the file"]);
        // Nothing is left out in silence.
        let many = format!(r#"{{"version": 1, "stages": [{}]}}"#, vec![r#"{"wasm": 1}"#; 60].join(","));
        let Problems { spec, errors: found, .. } = problems(many.as_bytes());
        assert!(spec.is_none() && found.len() == 51 && found[50].message.contains("more errors"));
        let odd =
            br#"{"version": 1, "stages": [], "env": {"a\u200bb": 1, "\u0001": 2, "\udbff\udfe9": 3}, "timeout": 5}"#;
        assert_eq!(problems(odd).errors.len(), 4);
        assert_eq!(places(br#"{"version": 1, "stages": [], "stdin": {"file": 1}}"#), ["stdin.file"]);
        let dirs = br#"{"version": 1, "stages": [{"wasm": "x", "grants": {"dirs": [{"host": 3}, {"host": "d"}]}}]}"#;
        assert_eq!(problems(dirs).place_in_file("stages[0].grants.dirs[0].host"), "stages[0].grants.dirs[1].host");
        let Problems { spec, errors: found, .. } = problems(br#"{"version": 1, "stages": []}"#);
        assert!(spec.is_some() && found.is_empty());
    }
}
