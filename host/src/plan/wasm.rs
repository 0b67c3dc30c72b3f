//! Planning a sandboxed stage: finding its component and looking at it.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    path::Path,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use serde::Deserialize;

use super::{
    error::{ErrorCode, PlanError, PlanErrorKind},
    known::{Found, Identity},
    layers::Layers,
    planner::Planner,
    work::WasmWork,
};
use crate::digest::hex;
use crate::{
    joint::{Base, Named},
    process::Planned,
    sandbox::{
        DirRight, HOSTCALL_COPY, LONGEST_LIST, Limits, MEMORIES, Ready, Rights, Sandbox, TABLES, advice_on_imports,
        compile_time, inspect, weigh,
    },
    spec::{
        Bound, ClockSpec, GrantsSpec, LimitsSpec, Place, RandomSpec, Size, Span, StageSpec, nearest, to_os, to_path,
    },
    stock,
};

/// The largest component file that is loaded, in bytes.
const MAX_COMPONENT_BYTES: u64 = 1 << 30;

impl Planner<'_> {
    pub(super) fn wasm(
        &mut self,
        stage: &StageSpec,
        wasm: &str,
        name: &str,
        place: &Place,
        layers: &Layers<'_>,
    ) -> Result<WasmWork, PlanError> {
        let path = layers.base.join(to_path(wasm));
        let is_stock = wasm.starts_with("builtin:");
        let policy = &self.options.policy;
        if !is_stock {
            policy.check_digest(stage.sha256.is_some(), place)?;
        }
        let key = if wasm.starts_with("builtin:") { wasm.into() } else { path.clone() };
        let most = limits(layers).component_size;
        let (bytes, digest, inspection, weight) = match self.files.get(&key) {
            Some(found) => found.clone(),
            None => {
                let found = self.find(wasm, &path, layers.base, most, place)?;
                // One file of several names is kept once.
                let found = self.files.values().find(|known| known.1 == found.1).cloned().unwrap_or(found);
                self.files.insert(key, found.clone());
                // Of many files, no more are read than may be kept.
                let kept: HashMap<_, _> = self.files.values().map(|known| (known.1, known.0.len() as u64)).collect();
                policy.check_total_memory(Some(kept.into_values().fold(0, u64::saturating_add)))?;
                found
            }
        };
        if let Some(expected) = &stage.sha256
            && !expected.eq_ignore_ascii_case(&hex(&digest))
        {
            let message = format!("{wasm} has the digest {}", hex(&digest));
            return Err(PlanError::new(PlanErrorKind::Refused, place.key("sha256"), message)
                .code(ErrorCode::DigestMismatch)
                .hint("it is not the file this pipeline was written for; if it should be, change the digest"));
        }
        if !inspection.not_offered.is_empty() {
            let missing = &inspection.not_offered;
            let more = if missing.len() > 1 { format!(" and {} more", missing.len() - 1) } else { String::new() };
            let message = format!("{wasm} imports {}{more}, which this host does not offer", missing[0].import);
            return Err(PlanError::new(PlanErrorKind::Refused, place.key("wasm"), message)
                .code(ErrorCode::ImportNotOffered)
                .hint(advice_on_imports(missing)));
        }
        // As a shell would have it: programs of many names look at it.
        let file_name = || path.file_name().map_or_else(|| name.to_owned(), |name| name.to_string_lossy().into_owned());
        let stock_name = wasm.strip_prefix("builtin:").map(str::to_owned);
        let mut args = vec![stage.argv0.clone().or(stock_name).unwrap_or_else(file_name)];
        args.extend(stage.args.iter().flatten().cloned());
        let args = args.iter().map(|arg| told(arg, &place.key("args"))).collect::<Result<Vec<_>, _>>()?;
        let mut limits = limits(layers);
        let suggested = LimitsSpec::deserialize(serde_json::Value::Object(inspection.section.limits.clone()))
            .map_err(|error| PlanError::new(PlanErrorKind::Refused, place.key("wasm"), error.to_string()))?;
        let beyond = suggest(&mut limits, &suggested, layers);
        limits.memories = inspection.memories.clamp(MEMORIES.0, MEMORIES.1);
        limits.tables = inspection.tables.clamp(TABLES.0, TABLES.1);
        (limits.state, limits.kept) = (weight.state, weight.kept);
        limits.stacks = usize::try_from(weight.stacks).unwrap_or(usize::MAX).max(1);
        limits.list_bytes = if inspection.is_plain { LONGEST_LIST } else { HOSTCALL_COPY };
        if layers.limit(|limits| limits.compile_time).is_none() {
            let most = policy.limits.as_ref().and_then(|most| most.compile_time).and_then(Bound::value);
            let usual = compile_time(bytes.len() as u64);
            limits.compile_time = Some(most.map_or(usual, |most| most.0.min(usual)));
        }
        if bytes.len() as u64 > most {
            return Err(too_large(wasm, bytes.len() as u64, most, place));
        }
        let grants = stage.grants.clone().unwrap_or_default();
        let rights = rights(self, &grants, layers, &place.key("grants"))?;
        let mut env = BTreeMap::new();
        for name in grants.env.iter().flatten() {
            let given = self.options.environment.iter().find(|(key, _)| key.to_str() == Some(name));
            // What is no text cannot be told to a sandboxed stage.
            if let Some(value) = given.and_then(|(_, value)| value.to_str()) {
                env.insert(name.clone(), value.to_owned());
            }
        }
        // What is no text is for the commands beside it.
        let mut untold = Vec::new();
        for (key, value) in layers.variables() {
            match (to_os(&key).to_str(), to_os(&value).to_str()) {
                (Some(key), Some(value)) => _ = env.insert(key.to_owned(), value.to_owned()),
                _ => untold.push(key),
            }
        }
        let env = env.into_iter().collect();
        let (granted, asked) = (grants.lines(), inspection.section.grants.beyond(&grants));
        Ok(WasmWork {
            source: wasm.to_owned(),
            bytes,
            digest,
            inspection: crate::sandbox::Inspection {
                fits_slots: inspection.fits_slots && !weight.has_references,
                ..inspection
            },
            memories: weight.memories,
            args,
            env,
            limits,
            rights,
            granted,
            asked,
            untold,
            suggested: beyond,
            terminal: stage.terminal.unwrap_or_default(),
            path: (!is_stock).then_some(path),
            ready: Ready::default(),
        })
    }
}

/// The rights that a stage is granted. Nothing is opened.
fn rights(planner: &Planner<'_>, grants: &GrantsSpec, layers: &Layers<'_>, place: &Place) -> Result<Rights, PlanError> {
    let policy = &planner.options.policy;
    /// The instant of a run that has to be the same every time.
    const FIXED: ClockSpec = ClockSpec::Virtual { start: SystemTime::UNIX_EPOCH, step: Duration::ZERO };
    let deterministic = layers.overrides.deterministic;
    let refused = |place: &Place, code: ErrorCode, message: &str| {
        Err(PlanError::new(PlanErrorKind::Refused, place, message).code(code))
    };
    use ErrorCode::{NotADirectory, NotDeterministic, NotGrantable};
    if deterministic {
        let hint = "a run with --deterministic has only standard streams, arguments, a virtual clock and seeded random numbers";
        if grants.dirs.iter().flatten().next().is_some() {
            return refused(
                &place.key("dirs"),
                NotDeterministic,
                "what is in a directory is not the same on every run",
            )
            .map_err(|error| error.hint(hint));
        }
        if grants.net.iter().flatten().next().is_some() {
            return refused(&place.key("net"), NotDeterministic, "what is on the network is not the same on every run")
                .map_err(|error| error.hint(hint));
        }
        if grants.clock == Some(ClockSpec::Real) || grants.random == Some(RandomSpec::Real) {
            return refused(
                place,
                NotDeterministic,
                "the real clock and real random numbers are not the same on every run",
            )
            .map_err(|error| error.hint(hint));
        }
    }
    if deterministic && grants.env.iter().flatten().next().is_some() {
        return refused(&place.key("env"), NotDeterministic, "the environment is not the same on every run");
    }
    let has_others = grants.dirs.iter().flatten().next().is_some() || grants.net.iter().flatten().next().is_some();
    if has_others && matches!(grants.clock, Some(ClockSpec::Virtual { .. })) {
        return refused(&place.key("clock"), NotGrantable, "such a clock does not wait for directories or the network")
            .map_err(|error| error.hint("grant one or the other"));
    }
    let mut dirs = Vec::new();
    for (index, dir) in grants.dirs.iter().flatten().enumerate() {
        let place = place.key("dirs").index(index).key("host");
        let host = layers.base.join(to_path(&dir.host));
        planner.check_time(&place)?;
        // First: under a policy no answer tells what is outside.
        let named = policy.check_dir(&host, layers.base, dir.access, &place)?;
        let planned =
            Planned::now(named).map_err(|error| PlanError::system(PlanErrorKind::Refused, &place, &host, &error))?;
        if !planned.is_dir() {
            return refused(&place, NotADirectory, "is no directory").map_err(|error| error.about(host));
        }
        if planned.is_the_systems() {
            return Err(PlanError::of_the_systems(&place, &host));
        }
        let guest = dir.guest.clone().unwrap_or_else(|| dir.host.clone());
        let guest = told(&guest, &place)?;
        dirs.push(DirRight { host: planned, guest, access: dir.access });
    }
    for (index, name) in grants.env.iter().flatten().enumerate() {
        policy.check_env(name, &place.key("env").index(index))?;
    }
    for (index, address) in grants.net.iter().flatten().enumerate() {
        policy.check_net(address, &place.key("net").index(index))?;
    }
    Ok(Rights {
        dirs,
        net: grants.net.clone().unwrap_or_default(),
        clock: grants.clock.unwrap_or(if deterministic { FIXED } else { ClockSpec::Real }),
        random: grants.random.unwrap_or(if deterministic { RandomSpec::Seed(0) } else { RandomSpec::Real }),
    })
}

/// What a sandboxed stage is told: text.
///
/// # Errors
///
/// What is no UTF-8 cannot be told.
fn told(text: &str, place: &Place) -> Result<String, PlanError> {
    to_os(text).to_str().map(str::to_owned).ok_or_else(|| {
        let message = format!("`{text}` is not UTF-8, and a sandboxed stage can be told only what is");
        PlanError::new(PlanErrorKind::Refused, place, message).code(ErrorCode::NotGrantable)
    })
}

/// The error for a component of more bytes than it may have.
fn too_large(wasm: &str, bytes: u64, most: u64, stage: &Place) -> PlanError {
    let place = stage.key("limits").key("component_size");
    PlanError::new(PlanErrorKind::Refused, &place, format!("{wasm} has {bytes} bytes, over the limit of {most}"))
        .code(ErrorCode::TooLarge)
        .hint(format!("if you trust it: raise `{place}`, or --limit component_size=…"))
}

/// The limits that count for a stage.
fn limits(layers: &Layers<'_>) -> Limits {
    /// The word on a limit, or the default.
    fn word<T>(said: Option<Bound<T>>, default: Option<T>) -> Option<T> {
        said.map_or(default, Bound::value)
    }
    let default = Limits::default();
    let size = |pick: fn(&LimitsSpec) -> Option<Bound<Size>>, default: Option<u64>| {
        word(layers.limit(pick), default.map(Size)).map(|size| size.0)
    };
    let time = |pick: fn(&LimitsSpec) -> Option<Bound<Span>>, default: Option<Duration>| {
        word(layers.limit(pick), default.map(Span)).map(|span| span.0)
    };
    let count = |pick: fn(&LimitsSpec) -> Option<Bound<u64>>, default: usize| {
        word(layers.limit(pick), None).and_then(|count| usize::try_from(count).ok()).unwrap_or(default)
    };
    let stack = size(|limits| limits.stack, None).and_then(|stack| usize::try_from(stack).ok());
    Limits {
        memory: size(|limits| limits.memory, default.memory),
        stack: stack.map_or(default.stack, usize::next_power_of_two),
        cpu_time: time(|limits| limits.cpu_time, default.cpu_time),
        stall_time: time(|limits| limits.stall_time, default.stall_time),
        fuel: word(layers.limit(|limits| limits.fuel), default.fuel),
        input_bytes: size(|limits| limits.input_bytes, default.input_bytes),
        output_bytes: size(|limits| limits.output_bytes, default.output_bytes),
        stderr_bytes: size(|limits| limits.stderr_bytes, default.stderr_bytes),
        handles: count(|limits| limits.handles, default.handles),
        open_files: count(|limits| limits.open_files, default.open_files).min(10_000),
        instances: count(|limits| limits.instances, default.instances),
        component_size: size(|limits| limits.component_size, Some(default.component_size))
            .unwrap_or(default.component_size),
        compile_time: time(|limits| limits.compile_time, default.compile_time),
        compile_memory: size(|limits| limits.compile_memory, default.compile_memory),
        ..default
    }
}

/// Takes over what a component suggests for limits that nobody has said anything of, where that is less than the default: a stranger
/// may hold itself to less, and only the file's author to more. Returns what it suggests beyond.
fn suggest(limits: &mut Limits, suggested: &LimitsSpec, layers: &Layers<'_>) -> Vec<String> {
    /// The suggestion, if nobody has said anything.
    fn unsaid<T>(
        layers: &Layers<'_>,
        suggested: &LimitsSpec,
        pick: fn(&LimitsSpec) -> Option<Bound<T>>,
    ) -> Option<Option<T>> {
        if layers.limit(pick).is_some() {
            return None;
        }
        pick(suggested).map(Bound::value)
    }
    /// Takes it if it is less. Says whether it is more.
    fn lower<T: PartialOrd>(limit: &mut Option<T>, suggestion: Option<Option<T>>) -> bool {
        match (suggestion, &limit) {
            (None, _) | (Some(None), None) => false,
            (Some(None), Some(_)) => true,
            (Some(Some(suggested)), Some(known)) if suggested > *known => true,
            (Some(suggested), _) => {
                *limit = suggested;
                false
            }
        }
    }
    fn lower_count(limit: &mut usize, suggestion: Option<Option<u64>>) -> bool {
        let mut known = Some(*limit as u64);
        let is_more = lower(&mut known, suggestion);
        *limit = known.and_then(|known| usize::try_from(known).ok()).unwrap_or(*limit);
        is_more
    }
    let mut beyond = Vec::new();
    let mut note = |name: &'static str, is_more: bool| {
        if is_more {
            beyond.push(name);
        }
    };
    macro_rules! sizes {
        ($($name:ident),*) => { $({
            let suggestion = unsaid(layers, suggested, |limits| limits.$name).map(|size| size.map(|size| size.0));
            note(stringify!($name), lower(&mut limits.$name, suggestion));
        })* };
    }
    sizes!(memory, input_bytes, output_bytes, stderr_bytes, compile_memory);
    macro_rules! times {
        ($($name:ident),*) => { $({
            let suggestion = unsaid(layers, suggested, |limits| limits.$name).map(|span| span.map(|span| span.0));
            note(stringify!($name), lower(&mut limits.$name, suggestion));
        })* };
    }
    times!(cpu_time, stall_time);
    note("fuel", lower(&mut limits.fuel, unsaid(layers, suggested, |limits| limits.fuel)));
    note("handles", lower_count(&mut limits.handles, unsaid(layers, suggested, |limits| limits.handles)));
    note("open_files", lower_count(&mut limits.open_files, unsaid(layers, suggested, |limits| limits.open_files)));
    note("instances", lower_count(&mut limits.instances, unsaid(layers, suggested, |limits| limits.instances)));
    let stack =
        unsaid(layers, suggested, |limits| limits.stack).map(|size| size.map(|Size(bytes)| bytes.next_power_of_two()));
    note("stack", lower_count(&mut limits.stack, stack));
    let all = serde_json::to_value(suggested.names_and_values()).unwrap_or_default();
    let value = |name: &str| all.get(name).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
    beyond.into_iter().map(|name| format!("{name}: {}", value(name))).collect()
}

impl Planner<'_> {
    /// Reads a component of at most that many bytes, and looks at it. `stage` is its place.
    fn find(&self, wasm: &str, path: &Path, base: &Base, most: u64, stage: &Place) -> Result<Found, PlanError> {
        let place = &stage.key("wasm");
        let (bytes, identity) = match wasm.strip_prefix("builtin:") {
            Some(name) => (Bytes::from_static(self.find_stock(name, place)?.wasm), None),
            None => match self.read_stage(wasm, path, base, most, stage)? {
                Read::Known(found) => return Ok(*found),
                Read::New(bytes, identity) => (bytes.into(), identity),
            },
        };
        let inspection = inspect(&bytes).map_err(|refused| PlanError {
            hint: refused.hint,
            ..PlanError::new(PlanErrorKind::Refused, place, format!("{wasm}: {}", refused.message))
        })?;
        let weight = weigh(&bytes).map_err(|why| {
            PlanError::new(PlanErrorKind::Refused, place, format!("{wasm} is too costly to compile: {why}"))
        })?;
        let digest = Sandbox::digest(&bytes);
        let found = (bytes, digest, inspection, weight);
        if let (Some(known), Some(identity)) = (&self.options.known, identity) {
            known.keep(identity, &found);
        }
        Ok(found)
    }

    /// A stock stage's name as the pipeline's author types it.
    fn typed(&self, name: &str) -> String {
        if self.is_shorthand { format!(":{name}") } else { format!("builtin:{name}") }
    }

    fn find_stock(&self, name: &str, place: &Place) -> Result<&'static stock::StockStage, PlanError> {
        stock::find(name).ok_or_else(|| {
            let known = || stock::STOCK.iter().map(|stage| stage.name);
            let path = self.options.environment.iter().find(|(key, _)| key == "PATH").map(|(_, path)| path.as_os_str());
            let hint = if self.options.policy.has_commands() && super::command::is_program(name, path) {
                match self.is_shorthand {
                    true => format!("`{name}` is a program here: drop the colon"),
                    false => format!("`{name}` is a program here: \"command\": [{name:?}]"),
                }
            } else {
                let list = known().map(|name| self.typed(name)).collect::<Vec<_>>().join(", ");
                let guess = nearest(name, known()).map(|name| format!("did you mean {}? ", self.typed(name)));
                format!("{}there are: {list}", guess.unwrap_or_default())
            };
            PlanError::new(PlanErrorKind::NotFound, place, format!("there is no stock stage {name:?}")).hint(hint)
        })
    }

    fn read_stage(&self, wasm: &str, path: &Path, base: &Base, most: u64, stage: &Place) -> Result<Read, PlanError> {
        let place = &stage.key("wasm");
        let policy = &self.options.policy;
        let named = policy.check_plugin(path, base, place)?;
        let known = self.options.known.as_ref().filter(|_| policy.recheck != Some(true));
        let read = || {
            let file = named.open_regular()?;
            // Before it is read: what it is called by then is never what it becomes meanwhile.
            let identity = if known.is_some() { Identity::of(&file)? } else { None };
            if let (Some(known), Some(identity)) = (known, &identity)
                && let Some(found) = known.get(identity)
                && found.0.len() as u64 <= most
            {
                return Ok(Read::Known(Box::new(found)));
            }
            // Its size is asked before it is read.
            Named::read_from(&file, most.min(MAX_COMPONENT_BYTES)).map(|bytes| Read::New(bytes, identity))
        };
        read().map_err(|error: io::Error| {
            if error.kind() == io::ErrorKind::FileTooLarge {
                let size = named.size().unwrap_or(most.saturating_add(1));
                return too_large(wasm, size, most.min(MAX_COMPONENT_BYTES), stage);
            }
            if error.kind() != io::ErrorKind::NotFound {
                return PlanError::new(PlanErrorKind::Refused, place, format!("{wasm} cannot be read: {error}"))
                    .code(ErrorCode::Inaccessible);
            }
            let stock = stock::find(wasm).map(|stage| format!("the stock stage is {}", self.typed(stage.name)));
            PlanError::new(PlanErrorKind::NotFound, place, format!("{wasm} does not exist"))
                .hint(stock.unwrap_or_else(|| format!("looked for {}", path.display())))
        })
    }
}

/// A component's file.
enum Read {
    /// What an earlier plan found in it.
    Known(Box<Found>),
    /// What it holds, and what it is known by.
    New(Vec<u8>, Option<Identity>),
}

/// Reads a component's file: a regular file of bounded size.
///
/// # Errors
///
/// What the system says, or what the file is instead.
pub fn read_component(path: &Path) -> io::Result<Vec<u8>> {
    Named::anywhere(path).read(MAX_COMPONENT_BYTES)
}
