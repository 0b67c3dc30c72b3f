//! What a `.wasm` file is, without compiling it: its kind, imports, exports and `stagehost` section.

use serde::{Deserialize, Serialize};
use wasmparser::{CanonicalFunction, CanonicalOption, Chunk, Parser, Payload};

use super::{
    not_a_stage::NotAStage,
    offers::{self, NotOffered},
};
use crate::{
    shown::is_plain,
    spec::{LimitsSpec, Requests, RequiresSpec},
};

/// The most elements of a table that has room in a slot of a pool.
pub(in crate::sandbox) const SLOT_TABLE_ELEMENTS: usize = 10_000;

/// How the file is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// A component that exports `wasi:cli/run@0.3`: the fast path.
    ComponentP3,
    /// A component that exports `wasi:cli/run@0.2`.
    ComponentP2,
    /// A preview1 core module with `_start`.
    ModuleP1,
}

/// What is known of a `.wasm` file that can be a stage.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// How it is run.
    pub shape: Shape,
    /// The names of its imports.
    pub imports: Vec<String>,
    /// Those of them that this host does not offer: it cannot run.
    pub not_offered: Vec<NotOffered>,
    /// The names of its exports.
    pub exports: Vec<String>,
    /// What its `stagehost` section says.
    pub section: Section,
    /// How many core memories and tables its modules define.
    #[serde(skip)]
    pub(crate) memories: usize,
    #[serde(skip)]
    pub(crate) tables: usize,
    /// Whether it is a component that hands over everything by functions of WASI 0.2 and in UTF-8.
    #[serde(skip)]
    pub(crate) is_plain: bool,
    /// Whether nothing that it is made of can outgrow a slot of a pool: its tables have a maximum that fits, its memories are of 32 bits,
    /// and it has no garbage.
    #[serde(skip)]
    pub(crate) fits_slots: bool,
}

/// The `stagehost` section: what a stage says of itself. It asks; only the pipeline file grants.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Section {
    /// The stage's name.
    pub name: Option<String>,
    /// The stage's version.
    pub version: Option<String>,
    /// What it does, in a line.
    pub summary: Option<String>,
    /// Exit codes that are no failure.
    pub ok_exit: Vec<u8>,
    /// `true`: from a seekable inherited stdin the host hands over a line at a time, so that a stage which stops early
    /// leaves the rest for the next program.
    pub line_at_a_time: bool,
    /// `true`: it reads text, so that compressed input is probably a mistake.
    pub text: bool,
    /// The arguments it understands.
    pub args: Vec<SectionArg>,
    /// What it needs its ends to be.
    pub requires: RequiresSpec,
    /// The limits that it suggests, as a pipeline file has them.
    pub limits: serde_json::Map<String, serde_json::Value>,
    /// The rights that it asks for.
    pub grants: Requests,
}

/// One argument in a `stagehost` section.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SectionArg {
    /// The argument as it is written.
    pub name: String,
    /// What it does.
    pub help: String,
}

fn not_a_stage(message: impl Into<String>, hint: &str) -> NotAStage {
    NotAStage { message: message.into(), hint: (!hint.is_empty()).then(|| hint.to_owned()) }
}

const RUN: &str = "wasi:cli/run@";
const RUST_HINT: &str = "with Rust: `cargo build --target wasm32-wasip2`";

/// Finds out what `bytes` is.
///
/// # Errors
///
/// [`NotAStage`] with what the file is instead, if it is nothing that can be run.
pub fn inspect(bytes: &[u8]) -> Result<Inspection, NotAStage> {
    refuse_strangers(bytes)?;
    let outline = Outline::read(bytes).map_err(|error| {
        not_a_stage(format!("the file is no valid WebAssembly: {error}"), "it may be cut short or damaged")
    })?;
    let exports_run = |version: &str| {
        outline.exports.iter().any(|name| name.strip_prefix(RUN).is_some_and(|rest| rest.starts_with(version)))
    };
    let shape = if !outline.is_component {
        if outline.exports.iter().any(|name| name == "_start") {
            Shape::ModuleP1
        } else {
            return Err(not_a_stage(
                format!("the file is a core module without `_start`; it exports {}", list(&outline.exports)),
                "a stage is a command: build it as a program, not as a library",
            ));
        }
    } else if exports_run("0.3.") {
        Shape::ComponentP3
    } else if exports_run("0.2.") {
        Shape::ComponentP2
    } else {
        return Err(not_a_stage(
            format!("the component exports no `wasi:cli/run`; it exports {}", list(&outline.exports)),
            "a stage is a command: a component that exports `wasi:cli/run`",
        ));
    };
    let section: Section = match &outline.section {
        Some(json) => serde_json::from_slice(json)
            .map_err(|error| not_a_stage(format!("its `stagehost` section is not what it should be: {error}"), ""))?,
        None => Section::default(),
    };
    if serde_json::to_value(&section).is_ok_and(|section| holds_commands(&section)) {
        return Err(not_a_stage(
            "its `stagehost` section holds control characters",
            "it could forge what is shown of it",
        ));
    }
    let limits = serde_json::Value::Object(section.limits.clone());
    if let Err(error) = LimitsSpec::deserialize(limits) {
        let error = error.to_string();
        // Behind this mark are hints for files.
        let error = error.split('\u{1f}').next().unwrap_or_default();
        return Err(not_a_stage(format!("the `limits` of its `stagehost` section: {error}"), ""));
    }
    let is_plain = outline.is_component && outline.is_plain();
    let Outline { imports, exports, not_offered, memories, tables, outgrows_slots, .. } = outline;
    let fits_slots = !outgrows_slots;
    Ok(Inspection { shape, imports, not_offered, exports, section, memories, tables, is_plain, fits_slots })
}

/// Whether any text in a value could forge what is shown of it.
fn holds_commands(value: &serde_json::Value) -> bool {
    match value {
        serde_json::Value::String(text) => !text.chars().all(is_plain),
        serde_json::Value::Array(items) => items.iter().any(holds_commands),
        serde_json::Value::Object(entries) => {
            entries.iter().any(|(name, value)| !name.chars().all(is_plain) || holds_commands(value))
        }
        _ => false,
    }
}

fn list(names: &[String]) -> String {
    const SHOWN: usize = 5;
    if names.is_empty() {
        return "nothing".into();
    }
    let mut text = names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text.push_str(&format!(" and {} more", names.len() - SHOWN));
    }
    text
}

/// Names what people pass by mistake.
fn refuse_strangers(bytes: &[u8]) -> Result<(), NotAStage> {
    if Parser::is_component(bytes) || Parser::is_core_wasm(bytes) {
        return Ok(());
    }
    let starts = |magic: &[u8]| bytes.starts_with(magic);
    Err(if bytes.is_empty() {
        not_a_stage("the file is empty", "")
    } else if starts(b"\0asm") {
        not_a_stage("the file is WebAssembly of an unknown version", "or its first bytes are damaged")
    } else if starts(b"\x7fELF") {
        not_a_stage("the file is a native program (ELF), not WebAssembly", RUST_HINT)
    } else if starts(b"#!") {
        not_a_stage("the file is a script, not WebAssembly", "")
    } else if starts(b"\x1f\x8b") || starts(b"\x28\xb5\x2f\xfd") {
        not_a_stage("the file is compressed, not WebAssembly", "decompress it first")
    } else if starts(b"PK\x03\x04") {
        not_a_stage("the file is a zip archive, not WebAssembly", "")
    } else if starts(b"(module") || starts(b"(component") {
        not_a_stage("the file is WebAssembly text", "turn it into a binary: `wasm-tools parse x.wat -o x.wasm`")
    } else if bytes.iter().take(512).all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace()) {
        not_a_stage("the file is text, not WebAssembly", RUST_HINT)
    } else {
        not_a_stage("the file is not WebAssembly", RUST_HINT)
    })
}

/// The most bytes of a `stagehost` section.
const MOST_SECTION: usize = 1 << 20;

/// The most bytes that the names of imports and exports may have together.
const MOST_NAMES: usize = 4 << 20;

/// A parser that knows what the engine knows: proposals that it does not have may mean anything, such as a name that a hundred
/// thousand imports share.
pub(crate) fn parser() -> Parser {
    let mut parser = Parser::new(0);
    parser.set_features(super::proposals::features());
    parser
}

/// Whether a built-in only calls functions or handles resources, and its strings are UTF-8.
fn is_plain_function(function: &CanonicalFunction) -> bool {
    let options = match function {
        CanonicalFunction::Lift { options, .. } | CanonicalFunction::Lower { options, .. } => options,
        CanonicalFunction::ResourceNew { .. }
        | CanonicalFunction::ResourceDrop { .. }
        | CanonicalFunction::ResourceRep { .. } => return true,
        _ => return false,
    };
    let is_other = |option: &CanonicalOption| {
        matches!(option, CanonicalOption::UTF16 | CanonicalOption::CompactUTF16 | CanonicalOption::Async)
    };
    !options.iter().any(is_other)
}

/// Whether values of this type are references to something else than functions, which live in a heap of their own.
pub(super) fn is_reference(ty: wasmparser::ValType) -> bool {
    matches!(ty, wasmparser::ValType::Ref(ty) if ty != wasmparser::RefType::FUNCREF)
}

/// The outside of a component or module.
#[derive(Default)]
struct Outline {
    is_component: bool,
    imports: Vec<String>,
    not_offered: Vec<NotOffered>,
    exports: Vec<String>,
    memories: usize,
    tables: usize,
    /// Whether it has built-ins of streams, futures or tasks, or strings that are not UTF-8.
    has_more: bool,
    /// See [`Inspection::fits_slots`].
    outgrows_slots: bool,
    section: Option<Vec<u8>>,
    /// How many bytes its names have, with what each takes.
    names: usize,
}

impl Outline {
    /// Counts a name, before it is kept.
    fn count(&mut self, name: &str) -> Result<(), String> {
        const EACH: usize = 64;
        self.names = self.names.saturating_add(name.len() + EACH);
        if self.names > MOST_NAMES {
            return Err(format!("its names have more than {MOST_NAMES} bytes, {EACH} for each counted too"));
        }
        Ok(())
    }

    fn is_plain(&self) -> bool {
        !self.has_more && !self.imports.iter().any(|name| name.contains("@0.3"))
    }

    /// Reads names and sections; bodies are skipped. Only the outermost component's names count; the `stagehost` section
    /// may stand in a module within, where linkers leave it.
    fn read(mut bytes: &[u8]) -> Result<Self, String> {
        let text = |error: wasmparser::BinaryReaderError| error.to_string();
        let mut outline = Self { is_component: Parser::is_component(bytes), ..Self::default() };
        let mut parser = parser();
        let mut around = Vec::new();
        loop {
            let payload = match parser.parse(bytes, true).map_err(text)? {
                Chunk::Parsed { consumed, payload } => {
                    bytes = &bytes[consumed..];
                    payload
                }
                Chunk::NeedMoreData(_) => unreachable!("all bytes are there"),
            };
            let outermost = around.is_empty();
            // A component within has instances of its own, each of which may need a stack of its own.
            outline.outgrows_slots |= !outermost && matches!(payload, Payload::ModuleSection { .. });
            match payload {
                Payload::ModuleSection { parser: inner, .. } | Payload::ComponentSection { parser: inner, .. } => {
                    around.push(parser);
                    parser = inner;
                }
                Payload::ComponentImportSection(imports) if outermost => {
                    for import in imports {
                        let name = import.map_err(text)?.name.name.to_owned();
                        outline.count(&name)?;
                        outline.not_offered.extend(offers::interface(&name));
                        outline.imports.push(name);
                    }
                }
                Payload::ComponentExportSection(exports) if outermost => {
                    for export in exports {
                        let name = export.map_err(text)?.name.name;
                        outline.count(name)?;
                        outline.exports.push(name.to_owned());
                    }
                }
                Payload::ImportSection(imports) if outermost => {
                    for import in imports.into_imports() {
                        let import = import.map_err(text)?;
                        let (module, name) = (import.module.to_owned(), import.name.to_owned());
                        outline.not_offered.extend(offers::function(&module, &name));
                        outline.count(&module)?;
                        outline.count(&name)?;
                        outline.imports.push(format!("{module}::{name}"));
                    }
                }
                Payload::ComponentCanonicalSection(functions) => {
                    for function in functions {
                        outline.has_more |= !is_plain_function(&function.map_err(text)?);
                    }
                }
                Payload::MemorySection(memories) => {
                    outline.memories += memories.count() as usize;
                    // What is wrong with one is for whoever reads it all.
                    outline.outgrows_slots |=
                        memories.into_iter().flatten().any(|memory| memory.memory64 || memory.shared);
                }
                Payload::TableSection(tables) => {
                    outline.tables += tables.count() as usize;
                    let fits = |table: wasmparser::Table<'_>| {
                        let is_small = table.ty.maximum.is_some_and(|most| most <= SLOT_TABLE_ELEMENTS as u64);
                        is_small && table.ty.element_type == wasmparser::RefType::FUNCREF
                    };
                    outline.outgrows_slots |= !tables.into_iter().flatten().all(fits);
                }
                Payload::InstanceSection(_) if !outermost => outline.outgrows_slots = true,
                Payload::GlobalSection(globals) => {
                    outline.outgrows_slots |=
                        globals.into_iter().flatten().any(|global| is_reference(global.ty.content_type));
                }
                // Exceptions are garbage, too.
                Payload::TagSection(_) => outline.outgrows_slots = true,
                Payload::TypeSection(types) => {
                    let is_function = |ty: &wasmparser::SubType| match &ty.composite_type.inner {
                        wasmparser::CompositeInnerType::Func(function) => {
                            !function.params().iter().chain(function.results()).any(|ty| is_reference(*ty))
                        }
                        _ => false,
                    };
                    let groups = types.into_iter().flatten();
                    outline.outgrows_slots |=
                        !groups.flat_map(|group| group.into_types().collect::<Vec<_>>()).all(|ty| is_function(&ty));
                }
                Payload::ExportSection(exports) if outermost => {
                    for export in exports {
                        let name = export.map_err(text)?.name;
                        outline.count(name)?;
                        outline.exports.push(name.to_owned());
                    }
                }
                Payload::CustomSection(custom) if custom.name() == "stagehost" && outline.section.is_none() => {
                    if custom.data().len() > MOST_SECTION {
                        return Err(format!("its `stagehost` section has more than {MOST_SECTION} bytes"));
                    }
                    outline.section = Some(custom.data().to_vec());
                }
                Payload::CodeSectionStart { size, .. } => {
                    bytes = bytes.get(size as usize..).ok_or("it ends inside its code")?;
                    parser.skip_section();
                }
                Payload::End(_) => match around.pop() {
                    Some(outer) => parser = outer,
                    None => return Ok(outline),
                },
                _ => {}
            }
        }
    }
}
