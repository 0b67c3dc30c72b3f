//! What a component would cost its host, to compile, to keep and to run, found out by reading it.
//!
//! A component may instantiate another twice that instantiates another twice, and so on: the compiler walks through all of
//! them, so that two kilobytes cost gigabytes. The same goes for components that carry others along as they are passed on, and for
//! what each instance of a module takes of the host's memory. Here all that is multiplied out with numbers that cannot overflow,
//! in one pass and with a stack of our own. It is an estimate from above of what the file's own text says; what it cannot see is left
//! to the limits that the compiler runs under.

use std::ops::Range;

use wasmparser::{
    BinaryReader, ComponentAlias, ComponentExternalKind, ComponentInstance, ComponentOuterAliasKind, ComponentTypeRef,
    CompositeInnerType, ElementItems, ElementKind, Encoding, Instance, Payload, SubType, TypeRef,
};

use super::inspect::{is_reference, parser};

/// The most items that a component may expand into.
const MOST_ITEMS: u64 = 100_000;
/// The most functions. Each costs the compiler some 80 µs and 6 KB, however small it is.
const MOST_FUNCTIONS: u64 = 100_000;
/// How deep components may be nested. What tools make is four deep at most.
const MOST_DEPTH: usize = 32;
/// The most bytes of one function. Some of the compiler's work grows faster than the function.
const MOST_BODY: usize = 1 << 20;
/// The most memory of the host's that one start of it may take besides the guest's own, in bytes.
const MOST_STATE: u64 = 128 << 20;
/// The most that is kept of it besides its code, in bytes.
const MOST_KEPT: u64 = 64 << 20;

/// What a component costs its host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Weight {
    /// Memory that the host needs to run it once, besides the guest's own, in bytes, from above.
    pub(crate) state: u64,
    /// Memory that is kept of it besides its code once it is compiled, in bytes, from above.
    pub(crate) kept: u64,
    /// How many memories its instances have, from above.
    pub(crate) memories: u64,
    /// How many of its component instances have code, from above: each may be in the midst of a call, on a stack of its own.
    pub(crate) stacks: u64,
    /// Whether its functions have variables that refer to something else than functions.
    pub(crate) has_references: bool,
}

/// What instances need of their host.
#[derive(Clone, Copy, Debug, Default)]
struct Need {
    bytes: u64,
    memories: u64,
    stacks: u64,
}

impl Need {
    fn and(self, other: Self) -> Self {
        let Self { bytes, memories, stacks } = other;
        Self {
            bytes: self.bytes.saturating_add(bytes),
            memories: self.memories.saturating_add(memories),
            stacks: self.stacks.saturating_add(stacks),
        }
    }

    fn times(self, count: u64) -> Self {
        let Self { bytes, memories, stacks } = self;
        let times = |each: u64| each.saturating_mul(count);
        Self { bytes: times(bytes), memories: times(memories), stacks: times(stacks) }
    }

    /// As much of each as whoever needs more of it.
    fn max(self, other: Self) -> Self {
        let Self { bytes, memories, stacks } = other;
        Self { bytes: self.bytes.max(bytes), memories: self.memories.max(memories), stacks: self.stacks.max(stacks) }
    }
}

/// What the host needs for an instance of a module, in bytes, from above, as measured with wasmtime 48 (`tests/tests/it/weights.rs`).
mod cost {
    pub(crate) const INSTANCE: u64 = 4096;
    pub(crate) const FUNCTION: u64 = 48;
    pub(crate) const IMPORT: u64 = 64;
    pub(crate) const GLOBAL: u64 = 16;
    pub(crate) const MEMORY: u64 = 4096;
    pub(crate) const TABLE: u64 = 512;
    pub(crate) const TAG: u64 = 64;
    /// A data segment, or one of elements.
    pub(crate) const SEGMENT: u64 = 64;
    /// An element that is kept for later.
    pub(crate) const ELEMENT: u64 = 16;
    /// Anything of a component.
    pub(crate) const ITEM: u64 = 256;
    /// What is kept of a type, and of each thing in it.
    pub(crate) const KEPT_TYPE: u64 = 1024;
    pub(crate) const KEPT_FIELD: u64 = 144;
    /// What is kept of each byte of a component's types.
    pub(crate) const KEPT_TYPE_BYTE: u64 = 48;
    /// What is kept of a module, besides what is in it.
    pub(crate) const KEPT_MODULE: u64 = 2048;
    /// What is kept of a function, of a global, of a segment, of an import or export (besides its name), of anything of a component.
    pub(crate) const KEPT_FUNCTION: u64 = 160;
    pub(crate) const KEPT_GLOBAL: u64 = 160;
    pub(crate) const KEPT_SEGMENT: u64 = 160;
    pub(crate) const KEPT_NAMED: u64 = 384;
    pub(crate) const KEPT_ITEM: u64 = 512;
    /// What is kept of something that a module is given or gives.
    pub(crate) const KEPT_GIVEN: u64 = 64;
    /// What is kept of each byte of a section of constants: a constant may be an expression.
    pub(crate) const KEPT_CONSTANT: u64 = 8;
}

/// What a component definition stands for.
#[derive(Clone, Copy, Debug, Default)]
struct Definition {
    /// Items that instantiating it goes through.
    weight: u64,
    /// Items that it carries along from outside.
    closure: u64,
    /// Items that an instance of it exports.
    exports: u64,
    /// What an instance of it needs.
    state: Need,
    /// Instances of modules that it is given, and what those are is known only later.
    given: u64,
}

/// A component that comes from somewhere else: it can be passed on, and what it weighs is not known.
const FOREIGN: Definition = Definition { weight: u64::MAX, closure: 1, exports: u64::MAX, state: NOTHING, given: 0 };

const NOTHING: Need = Need { bytes: 0, memories: 0, stacks: 0 };

#[derive(Debug, Default)]
struct Scope {
    me: Definition,
    components: Vec<Definition>,
    /// What an instance of each module needs; `None`: it is given from outside.
    modules: Vec<Option<Need>>,
    /// What passing on each instance costs.
    instances: Vec<u64>,
    /// Whether it has instances of modules.
    has_code: bool,
}

impl Scope {
    /// What passing on an item costs.
    fn size(&self, kind: ComponentExternalKind, index: u32) -> Result<u64, String> {
        let index = index as usize;
        let missing = || "it names an item that is not there".to_owned();
        match kind {
            ComponentExternalKind::Component => {
                self.components.get(index).map(|one| one.closure.saturating_add(1)).ok_or_else(missing)
            }
            ComponentExternalKind::Instance => self.instances.get(index).copied().ok_or_else(missing),
            _ => Ok(1),
        }
    }

    fn add(&mut self, items: u64) {
        self.me.weight = self.me.weight.saturating_add(items);
    }
}

/// Weighs a file.
///
/// # Errors
///
/// What there is too much of, or that the file is damaged.
pub(crate) fn weigh(bytes: &[u8]) -> Result<Weight, String> {
    let mut scales = Scales::default();
    for payload in parser().parse_all(bytes) {
        let payload = payload.map_err(|error| error.to_string())?;
        scales.put(bytes, &payload)?;
        scales.check()?;
    }
    scales.weight()
}

const ONE_STACK: Need = Need { bytes: 0, memories: 0, stacks: 1 };

#[derive(Debug, Default)]
struct Scales {
    scopes: Vec<Scope>,
    in_module: bool,
    functions: u64,
    /// What an instance of the module needs that is being read.
    module: Need,
    /// The most that an instance of any of its modules needs.
    heaviest: Need,
    /// What is kept besides the code.
    kept: u64,
    has_references: bool,
    /// What the outermost is.
    outermost: Definition,
}

impl Scales {
    /// What it came to.
    fn weight(&self) -> Result<Weight, String> {
        let Definition { weight, state, given, .. } = self.outermost;
        let items = weight.saturating_mul(cost::ITEM);
        let Need { bytes, memories, stacks } = state.and(self.heaviest.times(given));
        let state = bytes.saturating_add(items);
        let kept = self.kept.saturating_add(weight.saturating_mul(cost::KEPT_ITEM));
        let over = |what: &str, most: u64| Err(format!("{what} would take more than {} MiB of memory", most >> 20));
        if state > MOST_STATE {
            return over("what the host needs for its instances", MOST_STATE);
        }
        if kept > MOST_KEPT {
            return over("what the host keeps of its types, names and constants", MOST_KEPT);
        }
        Ok(Weight { state, kept, memories, stacks, has_references: self.has_references })
    }

    fn keep(&mut self, count: u32, each: u64) {
        self.kept = self.kept.saturating_add(u64::from(count).saturating_mul(each));
    }

    fn need(&mut self, count: u32, each: u64) {
        self.module = self.module.and(Need { bytes: each, ..NOTHING }.times(u64::from(count)));
    }

    fn check(&self) -> Result<(), String> {
        let most = self.scopes.iter().map(|scope| scope.me.weight.max(scope.me.closure)).max().unwrap_or(0);
        let over = |what: &str, most: u64| Err(format!("it would expand into more than {most} {what}"));
        if most > MOST_ITEMS {
            return over("items", MOST_ITEMS);
        }
        if self.functions > MOST_FUNCTIONS {
            return over("functions", MOST_FUNCTIONS);
        }
        if self.kept > MOST_KEPT {
            self.weight()?;
        }
        Ok(())
    }

    /// The scope that is being read.
    fn scope(&mut self) -> Result<&mut Scope, String> {
        self.scopes.last_mut().ok_or_else(|| "a component's section stands outside of any".to_owned())
    }

    fn put(&mut self, bytes: &[u8], payload: &Payload<'_>) -> Result<(), String> {
        let text = |error: wasmparser::BinaryReaderError| error.to_string();
        match payload {
            Payload::Version { encoding: Encoding::Module, .. } => {
                self.in_module = true;
                self.module = Need { bytes: cost::INSTANCE, ..NOTHING };
                self.keep(1, cost::KEPT_MODULE);
            }
            Payload::Version { encoding: Encoding::Component, .. } => {
                if self.scopes.len() == MOST_DEPTH {
                    return Err(format!("it nests components more than {MOST_DEPTH} deep"));
                }
                self.scopes.push(Scope::default());
            }
            Payload::End(_) if self.in_module => {
                self.in_module = false;
                self.heaviest = self.heaviest.max(self.module);
                match self.scopes.last_mut() {
                    Some(around) => around.modules.push(Some(self.module)),
                    None => self.outermost.state = self.module.and(ONE_STACK),
                }
            }
            Payload::End(_) => {
                if let Some(mut ended) = self.scopes.pop() {
                    if ended.has_code {
                        ended.me.state = ended.me.state.and(ONE_STACK);
                    }
                    match self.scopes.last_mut() {
                        Some(around) => {
                            around.components.push(ended.me);
                            around.add(ended.me.closure.saturating_add(1));
                        }
                        None => self.outermost = ended.me,
                    }
                }
            }
            Payload::TypeSection(types) => self.types_of(bytes, types.range())?,
            Payload::ImportSection(imports) => {
                for import in imports.clone().into_imports() {
                    let import = import.map_err(text)?;
                    self.need(1, cost::IMPORT);
                    if matches!(import.ty, TypeRef::Func(_) | TypeRef::FuncExact(_)) {
                        self.need(1, cost::FUNCTION);
                    }
                    self.keep(1, cost::KEPT_NAMED + (import.module.len() + import.name.len()) as u64);
                }
            }
            Payload::FunctionSection(functions) => {
                // Any of them may be one that is referred to.
                self.need(functions.count(), cost::FUNCTION);
                self.keep(functions.count(), cost::KEPT_FUNCTION);
            }
            Payload::GlobalSection(globals) => {
                self.need(globals.count(), cost::GLOBAL);
                self.keep(globals.count(), cost::KEPT_GLOBAL);
                self.keep_constants(globals.range().len());
            }
            Payload::MemorySection(memories) => {
                let one = Need { bytes: cost::MEMORY, memories: 1, stacks: 0 };
                self.module = self.module.and(one.times(u64::from(memories.count())));
            }
            Payload::TableSection(tables) => {
                self.need(tables.count(), cost::TABLE);
                self.keep_constants(tables.range().len());
            }
            Payload::TagSection(tags) => self.need(tags.count(), cost::TAG),
            Payload::ExportSection(exports) => {
                for export in exports.clone() {
                    self.keep(1, cost::KEPT_NAMED + export.map_err(text)?.name.len() as u64);
                }
            }
            Payload::ElementSection(segments) => {
                for segment in segments.clone() {
                    let segment = segment.map_err(text)?;
                    let count = match segment.items {
                        ElementItems::Functions(items) => items.count(),
                        ElementItems::Expressions(_, items) => items.count(),
                    };
                    self.need(1, cost::SEGMENT);
                    if matches!(segment.kind, ElementKind::Passive) {
                        self.need(count, cost::ELEMENT);
                    }
                    self.keep(1, cost::KEPT_SEGMENT);
                }
                self.keep_constants(segments.range().len());
            }
            Payload::DataSection(segments) => {
                self.need(segments.count(), cost::SEGMENT);
                self.keep(segments.count(), cost::KEPT_SEGMENT);
            }
            Payload::CodeSectionStart { count, .. } => self.functions += u64::from(*count),
            Payload::CodeSectionEntry(body) if body.range().len() > MOST_BODY => {
                return Err(format!("a function of it has more than {MOST_BODY} bytes"));
            }
            Payload::CodeSectionEntry(body) if !self.has_references => {
                for local in body.get_locals_reader().map_err(text)? {
                    self.has_references |= is_reference(local.map_err(text)?.1);
                }
            }
            Payload::InstanceSection(instances) => {
                for instance in instances.clone() {
                    let (instance, scope) = (instance.map_err(text)?, self.scope()?);
                    scope.add(1);
                    match instance {
                        Instance::Instantiate { module_index, args } => {
                            let missing = "it instantiates a module that is not there";
                            scope.has_code = true;
                            match scope.modules.get(module_index as usize).ok_or(missing)? {
                                Some(state) => scope.me.state = scope.me.state.and(*state),
                                None => scope.me.given = scope.me.given.saturating_add(1),
                            }
                            self.keep(u32::try_from(args.len()).unwrap_or(u32::MAX), cost::KEPT_GIVEN);
                        }
                        Instance::FromExports(exports) => {
                            self.keep(u32::try_from(exports.len()).unwrap_or(u32::MAX), cost::KEPT_GIVEN);
                        }
                    }
                }
            }
            Payload::CoreTypeSection(types) => self.count_types(types.count(), types.range().len())?,
            Payload::ComponentTypeSection(types) => self.count_types(types.count(), types.range().len())?,
            // Each makes a trampoline, and some an adapter.
            Payload::ComponentCanonicalSection(functions) => self.scope()?.add(8 * u64::from(functions.count())),
            Payload::ComponentImportSection(imports) => {
                for import in imports.clone() {
                    let scope = self.scope()?;
                    scope.add(1);
                    match import.map_err(text)?.ty {
                        ComponentTypeRef::Component(_) => scope.components.push(FOREIGN),
                        ComponentTypeRef::Instance(_) => scope.instances.push(1),
                        ComponentTypeRef::Module(_) => scope.modules.push(None),
                        _ => {}
                    }
                }
            }
            Payload::ComponentAliasSection(aliases) => {
                for alias in aliases.clone() {
                    self.alias(alias.map_err(text)?)?;
                }
            }
            Payload::ComponentInstanceSection(instances) => {
                for instance in instances.clone() {
                    self.instance(instance.map_err(text)?)?;
                }
            }
            Payload::ComponentExportSection(exports) => {
                for export in exports.clone() {
                    let (export, scope) = (export.map_err(text)?, self.scope()?);
                    let size = scope.size(export.kind, export.index)?;
                    scope.add(size);
                    scope.me.exports = scope.me.exports.saturating_add(size);
                    // An export stands for the item from here on.
                    match export.kind {
                        ComponentExternalKind::Component => {
                            scope.components.push(scope.components[export.index as usize]);
                        }
                        ComponentExternalKind::Instance => scope.instances.push(size),
                        ComponentExternalKind::Module => {
                            scope.modules.push(scope.modules.get(export.index as usize).copied().flatten());
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Counts a module's types, one at a time: the reader of whole groups would gather a million of them first.
    fn types_of(&mut self, bytes: &[u8], section: Range<usize>) -> Result<(), String> {
        const GROUP: u8 = 0x4e;
        let text = |error: wasmparser::BinaryReaderError| error.to_string();
        let section = bytes.get(section).ok_or("it ends inside its types")?;
        let mut reader = BinaryReader::new_features(section, 0, super::proposals::features());
        for _ in 0..reader.read_var_u32().map_err(text)? {
            let is_group = section.get(reader.current_position()) == Some(&GROUP);
            let mut count = 1;
            if is_group {
                reader.read_u8().map_err(text)?;
                count = reader.read_var_u32().map_err(text)?;
            }
            for _ in 0..count {
                let one = reader.read::<SubType>().map_err(text)?;
                let fields = match one.composite_type.inner {
                    CompositeInnerType::Func(function) => function.params().len() + function.results().len(),
                    CompositeInnerType::Struct(fields) => fields.fields.len(),
                    CompositeInnerType::Array(_) | CompositeInnerType::Cont(_) => 1,
                };
                self.keep(1, cost::KEPT_TYPE + cost::KEPT_FIELD * fields as u64);
                self.check()?;
            }
        }
        Ok(())
    }

    /// Constants may be expressions, which are kept as they were read.
    fn keep_constants(&mut self, bytes: usize) {
        self.kept = self.kept.saturating_add((bytes as u64).saturating_mul(cost::KEPT_CONSTANT));
    }

    /// Fields, cases, parameters and names are not read one by one: none takes fewer bytes in a file than it is counted for here.
    fn count_types(&mut self, count: u32, bytes: usize) -> Result<(), String> {
        self.keep(count, cost::KEPT_TYPE);
        self.kept = self.kept.saturating_add((bytes as u64).saturating_mul(cost::KEPT_TYPE_BYTE));
        self.scope()?.add(u64::from(count));
        Ok(())
    }

    fn alias(&mut self, alias: ComponentAlias<'_>) -> Result<(), String> {
        match alias {
            ComponentAlias::InstanceExport { kind, instance_index, .. } => {
                let scope = self.scope()?;
                let size = scope.size(ComponentExternalKind::Instance, instance_index)?;
                scope.add(size);
                match kind {
                    // No larger than what it comes out of.
                    ComponentExternalKind::Instance => scope.instances.push(size),
                    ComponentExternalKind::Component => scope.components.push(FOREIGN),
                    ComponentExternalKind::Module => scope.modules.push(None),
                    _ => {}
                }
            }
            ComponentAlias::Outer { kind, count, index } => {
                let here = self.scopes.len().saturating_sub(1);
                let outer = here.checked_sub(count as usize).ok_or("it names a component that is not around it")?;
                let mut module = None;
                let target = match kind {
                    ComponentOuterAliasKind::Component => {
                        let found = self.scopes[outer].components.get(index as usize);
                        Some(*found.ok_or("it names a component that is not there")?)
                    }
                    ComponentOuterAliasKind::CoreModule => {
                        let found = self.scopes[outer].modules.get(index as usize);
                        module = Some(*found.ok_or("it names a module that is not there")?);
                        Some(Definition::default())
                    }
                    _ => None,
                };
                if let Some(target) = target {
                    let carried = target.closure.saturating_add(1);
                    for scope in &mut self.scopes[outer + 1..] {
                        scope.me.closure = scope.me.closure.saturating_add(carried);
                    }
                    let scope = self.scope()?;
                    scope.add(carried);
                    if kind == ComponentOuterAliasKind::Component {
                        scope.components.push(target);
                    }
                }
                let scope = self.scope()?;
                scope.add(1);
                scope.modules.extend(module);
            }
            ComponentAlias::CoreInstanceExport { .. } => self.scope()?.add(1),
        }
        Ok(())
    }

    fn instance(&mut self, instance: ComponentInstance<'_>) -> Result<(), String> {
        let scope = self.scope()?;
        match instance {
            ComponentInstance::Instantiate { component_index, args } => {
                let known = scope.components.get(component_index as usize);
                let component = *known.ok_or("it instantiates a component that is not there")?;
                let mut items = component.weight.saturating_add(component.closure).saturating_add(1);
                for arg in args.iter() {
                    items = items.saturating_add(scope.size(arg.kind, arg.index)?);
                }
                scope.add(items);
                scope.me.state = scope.me.state.and(component.state);
                scope.me.given = scope.me.given.saturating_add(component.given);
                scope.instances.push(component.exports.saturating_add(1));
            }
            ComponentInstance::FromExports(exports) => {
                let mut items = 1_u64;
                for export in exports.iter() {
                    items = items.saturating_add(scope.size(export.kind, export.index)?);
                }
                scope.add(items);
                scope.instances.push(items);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::weigh;

    #[test]
    fn what_the_stock_stages_are_is_light() {
        for stage in crate::stock::STOCK {
            let weight = weigh(stage.wasm).unwrap_or_else(|why| panic!("{}: {why}", stage.name));
            assert!(weight.state < 2 << 20 && weight.kept < 4 << 20, "{}: {weight:?}", stage.name);
        }
    }

    #[test]
    fn what_looks_small_and_is_not_is_heavy() {
        // Empty modules.
        let mut modules = b"\0asm\x0d\0\x01\0".to_vec();
        (0..900).for_each(|_| modules.extend(b"\x01\x08\0asm\x01\0\0\0"));
        // About so much is kept of each, as measured.
        assert!(weigh(&modules).unwrap().kept > 900 * 1024);
    }

    #[test]
    fn no_bytes_make_it_panic() {
        // Every prefix, and every byte turned, of a component with all kinds of sections.
        let whole = crate::stock::STOCK[0].wasm;
        for end in (0..whole.len()).step_by(97) {
            let _ = weigh(&whole[..end]);
        }
        let mut turned = whole.to_vec();
        for at in (0..whole.len().min(8_000)).step_by(3) {
            turned[at] ^= 0xff;
            let _ = weigh(&turned);
            turned[at] ^= 0xff;
        }
    }
}
