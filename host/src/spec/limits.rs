//! Limits of stages: their names, their values, and which kind of stage has which.

use serde::Deserialize;

use super::{Bound, Place, Size, Span, SpecError};

/// Limits of a stage. `"none"` lifts one, where it can be lifted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct LimitsSpec {
    /// Of a wasm stage: the sum of all linear memories and tables (default 256 MiB). Of a command: what its whole process
    /// tree has resident (default none).
    pub memory: Option<Bound<Size>>,
    /// The call stack of a wasm stage, 64 KiB to 8 MiB, rounded up to a power of two. Default: 512 KiB.
    pub stack: Option<Bound<Size>>,
    /// Processor time: of a wasm stage, or of a command's whole process tree. Default: none.
    pub cpu_time: Option<Bound<Span>>,
    /// How long the stage may run. Default: as long as it likes.
    pub wall_time: Option<Bound<Span>>,
    /// How long a wasm stage may go without a byte in or out while it waits neither for input nor for room for its output.
    /// Default: as long as it likes.
    pub stall_time: Option<Bound<Span>>,
    /// Instructions of a wasm stage, as wasmtime counts them: the same on every machine. Default: none.
    pub fuel: Option<Bound<u64>>,
    /// The bytes that a wasm stage may read from its standard input. Default: none.
    pub input_bytes: Option<Bound<Size>>,
    /// The bytes that a wasm stage may write to its standard output. Default: none.
    pub output_bytes: Option<Bound<Size>>,
    /// The bytes that a wasm stage may write to its standard error. Default: 256 MiB.
    pub stderr_bytes: Option<Bound<Size>>,
    /// Handles, resources and streams that a wasm stage may hold at once, 16 to 100,000. Default: 10,000.
    pub handles: Option<Bound<u64>>,
    /// Core instances of a component, 1 to 1,000. Default: 64.
    pub instances: Option<Bound<u64>>,
    /// The size of a component's file, at most 1 GiB. Default: 256 MiB.
    pub component_size: Option<Bound<Size>>,
    /// The processor time that compiling a component may take. Default: 30s, and 3s more for each MiB of its file.
    pub compile_time: Option<Bound<Span>>,
    /// The memory that compiling a component may take. Default: 4 GiB.
    pub compile_memory: Option<Bound<Size>>,
    /// The processes of a command's whole process tree. Default: none.
    pub processes: Option<Bound<u64>>,
    /// The files that each process of a command may have open (default what the host was started with); of a wasm stage with
    /// directories or network, the files, sockets and streams on them that it may hold, 16 to 10,000 (default 256).
    pub open_files: Option<Bound<u64>>,
    /// The largest file that each process of a command may write. Default: what the host was started with.
    pub file_size: Option<Bound<Size>>,
}

/// A limit that is more than a policy allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TooMuch {
    pub(crate) key: &'static str,
    pub(crate) said: String,
    pub(crate) most: String,
}

const WASM: &[&str] = &["wasm", "pipeline"];
const COMMAND: &[&str] = &["command", "pipeline"];
const BOTH: &[&str] = &["wasm", "command", "pipeline"];
const ALL: &[&str] = &["wasm", "command", "function", "pipeline"];

/// Every limit and the kinds of stages that have it.
const KINDS: [(&str, &[&str]); 17] = [
    ("memory", BOTH),
    ("stack", WASM),
    ("cpu_time", BOTH),
    ("wall_time", ALL),
    ("stall_time", WASM),
    ("fuel", WASM),
    ("input_bytes", WASM),
    ("output_bytes", WASM),
    ("stderr_bytes", WASM),
    ("handles", WASM),
    ("instances", WASM),
    ("component_size", WASM),
    ("compile_time", WASM),
    ("compile_memory", WASM),
    ("processes", COMMAND),
    ("open_files", BOTH),
    ("file_size", COMMAND),
];

/// Calls a macro with the names of all limits.
macro_rules! with_all_limits {
    ($call:ident) => {
        $call!(
            memory,
            stack,
            cpu_time,
            wall_time,
            stall_time,
            fuel,
            input_bytes,
            output_bytes,
            stderr_bytes,
            handles,
            instances,
            component_size,
            compile_time,
            compile_memory,
            processes,
            open_files,
            file_size
        )
    };
}

impl LimitsSpec {
    /// The first word on each limit.
    pub(crate) fn first_of<'a>(layers: impl Iterator<Item = &'a Self> + Clone) -> Self {
        macro_rules! first {
            ($($name:ident),*) => { Self { $($name: layers.clone().find_map(|layer| layer.$name)),* } };
        }
        with_all_limits!(first)
    }

    /// These limits as they are held: a stack is a power of two.
    pub(crate) fn rounded(mut self) -> Self {
        if let Some(Bound::At(Size(stack))) = self.stack {
            self.stack = Some(Bound::At(Size(stack.next_power_of_two())));
        }
        self
    }

    /// These limits where they are no more than `most`, for a stage of this kind. One that is not set is `most`, if that is
    /// less than the default. The error is a limit that is too much.
    pub(crate) fn within(self, most: &Self, defaults: &Self, kind: &str) -> Result<Self, TooMuch> {
        fn least<T: PartialOrd + Copy>(
            said: Option<Bound<T>>,
            most: Option<Bound<T>>,
            default: Option<Bound<T>>,
        ) -> Option<Option<Bound<T>>> {
            match (said, most) {
                (said, None | Some(Bound::None)) => Some(said),
                (Some(Bound::At(said)), Some(Bound::At(most))) if said <= most => Some(Some(Bound::At(said))),
                (Some(_), Some(Bound::At(_))) => None,
                (None, Some(Bound::At(most))) => match default {
                    Some(Bound::At(default)) if default <= most => Some(None),
                    _ => Some(Some(Bound::At(most))),
                },
            }
        }
        let has = |name: &str| KINDS.iter().any(|(known, kinds)| *known == name && kinds.contains(&kind));
        let mut most = most.clone();
        if let Some(Bound::At(Size(stack))) = most.stack {
            most.stack = Some(Bound::At(Size(1 << stack.max(1).ilog2())));
        }
        macro_rules! least_of {
            ($($name:ident),*) => {
                Self { $($name: match has(stringify!($name)) {
                    true => least(self.$name, most.$name, defaults.$name).ok_or_else(|| {
                        let shown = |bound: Option<Bound<_>>| bound.map_or_else(String::new, |bound| bound.to_string());
                        TooMuch { key: stringify!($name), said: shown(self.$name), most: shown(most.$name) }
                    })?,
                    false => self.$name,
                }),* }
            };
        }
        Ok(with_all_limits!(least_of))
    }

    /// The limits that are set, with their values as a file has them.
    pub(crate) fn names_and_values(&self) -> std::collections::BTreeMap<&'static str, String> {
        let mut values = std::collections::BTreeMap::new();
        macro_rules! put {
            ($($name:ident),*) => { $(if let Some(bound) = self.$name { values.insert(stringify!($name), bound.to_string()); })* };
        }
        with_all_limits!(put);
        values
    }

    /// The names of the limits.
    pub(crate) fn names() -> impl Iterator<Item = &'static str> {
        KINDS.iter().map(|(name, _)| *name)
    }

    /// One limit by its name and a value as a file has it in quotes.
    ///
    /// # Errors
    ///
    /// A message for people.
    pub fn of(name: &str, value: &str) -> Result<Self, String> {
        fn bound<T>(value: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Result<Option<Bound<T>>, String> {
            Ok(Some(if value == "none" { Bound::None } else { Bound::At(parse(value)?) }))
        }
        let size = |value: &str| value.parse::<Size>();
        let time = |value: &str| super::parse_duration(value).map(Span);
        let number = |value: &str| value.parse::<u64>().map_err(|_| format!("{value:?} is no number"));
        let mut limits = Self::default();
        match name {
            "memory" => limits.memory = bound(value, size)?,
            "stack" => limits.stack = bound(value, size)?,
            "cpu_time" => limits.cpu_time = bound(value, time)?,
            "wall_time" => limits.wall_time = bound(value, time)?,
            "stall_time" => limits.stall_time = bound(value, time)?,
            "fuel" => limits.fuel = bound(value, number)?,
            "input_bytes" => limits.input_bytes = bound(value, size)?,
            "output_bytes" => limits.output_bytes = bound(value, size)?,
            "stderr_bytes" => limits.stderr_bytes = bound(value, size)?,
            "handles" => limits.handles = bound(value, number)?,
            "instances" => limits.instances = bound(value, number)?,
            "component_size" => limits.component_size = bound(value, size)?,
            "compile_time" => limits.compile_time = bound(value, time)?,
            "compile_memory" => limits.compile_memory = bound(value, size)?,
            "processes" => limits.processes = bound(value, number)?,
            "open_files" => limits.open_files = bound(value, number)?,
            "file_size" => limits.file_size = bound(value, size)?,
            _ => {
                let known = Self::names().collect::<Vec<_>>().join(", ");
                return Err(format!("there is no limit {name:?}; there are: {known}"));
            }
        }
        limits.check(&Place::root().key(name)).map_err(|error| error.message)?;
        Ok(limits)
    }

    /// The limits that are set here.
    fn set(&self) -> impl Iterator<Item = &'static str> {
        macro_rules! is_set {
            ($($name:ident),*) => { [$(self.$name.is_some()),*] };
        }
        let set = with_all_limits!(is_set);
        Self::names().zip(set).filter(|(_, set)| *set).map(|(name, _)| name)
    }

    /// A limit set here that a stage of this kind does not have, and the kinds that have it.
    pub(crate) fn misplaced(&self, kind: &str) -> Option<(&'static str, &'static [&'static str])> {
        let kinds = |name: &str| KINDS.iter().find(|(known, _)| *known == name).map_or(ALL, |(_, kinds)| *kinds);
        self.set().map(|name| (name, kinds(name))).find(|(_, kinds)| !kinds.contains(&kind))
    }

    /// Checks that values are in their ranges, and that what cannot be lifted is not.
    pub(crate) fn check(&self, place: &Place) -> Result<(), SpecError> {
        fn within<T: PartialOrd + Copy>(bound: Option<Bound<T>>, least: T, most: T) -> bool {
            match bound {
                None => true,
                Some(Bound::None) => false,
                Some(Bound::At(value)) => least <= value && value <= most,
            }
        }
        let ranges = [
            ("stack", within(self.stack, Size(64 << 10), Size(8 << 20)), "64KiB to 8MiB"),
            ("handles", within(self.handles, 16, 100_000), "16 to 100000"),
            ("instances", within(self.instances, 1, 1_000), "1 to 1000"),
            ("component_size", within(self.component_size, Size(0), Size(1 << 30)), "at most 1GiB"),
        ];
        match ranges.into_iter().find(|(_, fits, _)| !fits) {
            None => Ok(()),
            Some((name, _, range)) => {
                // A flag's place is the limit itself.
                let place = if place.to_string().ends_with(name) { place.clone() } else { place.key(name) };
                Err(SpecError::new(place, format!("{name} is {range}")).hint("leave it out for the default"))
            }
        }
    }
}
