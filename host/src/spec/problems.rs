//! All that is wrong with a pipeline file, not only the first of it.
//!
//! Reading stops at the first error, and says where it is. So what is wrong there is taken out, and the rest is read again, until
//! nothing is wrong or nothing can be taken out.

use super::{PipelineSpec, Place, SpecError, node::Node, parse_json};

/// The most errors that are looked for.
const MOST: usize = 50;

/// What can be read of a pipeline file, and all that is wrong with it, in the order in which it is found. What is wrong is not in the
/// first part; a stage of which nothing else is left copies its input.
pub fn problems(text: &[u8]) -> (Option<PipelineSpec>, Vec<SpecError>) {
    let mut node = match parse_json(text) {
        Ok(node) => node,
        // Behind a syntax error nothing is known to be what it seems.
        Err(error) => return (None, vec![error]),
    };
    let mut found: Vec<SpecError> = Vec::new();
    while found.len() < MOST {
        let mut checked = node.clone();
        let read = checked.check(&Place::root()).and_then(|()| checked.read::<PipelineSpec>());
        let error = match read.and_then(|spec| spec.check().map(|()| spec)) {
            Ok(spec) => return (Some(spec), found),
            Err(error) => error,
        };
        let place = error.place.clone();
        found.push(error);
        if !take_out(&mut node, &place) {
            break;
        }
    }
    (None, found)
}

/// A step from a node to one inside it.
enum Step {
    Key(String),
    Index(usize),
}

/// The steps of a place as it is printed: `stages[2].limits.memory`, `env["a b"]`.
fn steps(place: &str) -> Option<Vec<Step>> {
    let mut steps = Vec::new();
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

/// Takes out what is wrong. `false`: nothing can be taken out there.
fn take_out(root: &mut Node, place: &str) -> bool {
    let Some(mut steps) = steps(place).filter(|steps| !steps.is_empty()) else { return false };
    // What is missing in a stage, or wrong with its kind, is wrong with all of it.
    if let [Step::Key(stages), Step::Index(index)] = &steps[..]
        && stages == "stages"
    {
        return replace_stage(root, *index);
    }
    loop {
        let Some(last) = steps.pop() else { return false };
        if let Some(around) = follow(root, &steps)
            && remove(around, &last)
        {
            return true;
        }
        // It is not there, such as a key that is missing: what is around it goes.
        if let [Step::Key(stages), Step::Index(index)] = &steps[..]
            && stages == "stages"
        {
            return replace_stage(root, *index);
        }
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
    use super::problems;

    #[test]
    fn all_errors_are_found_and_the_rest_is_read() {
        let text = br#"{"version": 1, "nmae": "x", "timeout": 5, "stages": [
            {"wasm": "builtin:cat", "limits": {"memory": "64M", "fule": 1}},
            {},
            {"command": ["sort"], "args": ["-u"], "env": {"a b": 7}},
            {"wasm": "builtin:wc"}
        ]}"#;
        let (spec, found) = problems(text);
        let places: Vec<_> = found.iter().map(|error| error.place.as_str()).collect();
        let expected =
            ["nmae", "timeout", "stages[0].limits.memory", "stages[0].limits.fule", "stages[1]", "stages[2].args"];
        for place in expected {
            assert!(places.contains(&place), "{place} is not in {places:?}");
        }
        assert!(places.contains(&"stages[2].env[\"a b\"]"), "{places:?}");
        assert_eq!(spec.unwrap().stages.len(), 4);
        let (spec, found) = problems(b"{\"version\": 1,");
        assert!(spec.is_none() && found.len() == 1);
        let (spec, found) = problems(br#"{"version": 1, "stages": []}"#);
        assert!(spec.is_some() && found.is_empty());
    }
}
