//! What compiling a component would cost, found out by reading it once.
//!
//! A component may instantiate another twice that instantiates another twice, and so on: the compiler walks through all of
//! them, so that two kilobytes cost gigabytes. The same goes for components that carry others along as they are passed on. Here all that
//! is multiplied out with numbers that cannot overflow, in one pass and with a stack of our own. It is an estimate from
//! above of what the file's own text says; what it cannot see is left to the limits that the compiler runs under.

use wasmparser::{
    ComponentAlias, ComponentExternalKind, ComponentInstance, ComponentOuterAliasKind, ComponentTypeRef, Encoding,
    Payload,
};

use super::inspect::parser;

/// The most items that a component may expand into.
const MOST_ITEMS: u64 = 100_000;
/// The most functions. Each costs the compiler some 80 µs and 6 KB, however small it is.
const MOST_FUNCTIONS: u64 = 100_000;
/// The most types, of core modules and of components.
const MOST_TYPES: u64 = 100_000;
/// How deep components may be nested. What tools make is four deep at most.
const MOST_DEPTH: usize = 32;
/// The most bytes of one function. Some of the compiler's work grows faster than the function.
const MOST_BODY: usize = 1 << 20;

/// What a component definition stands for.
#[derive(Clone, Copy, Debug, Default)]
struct Definition {
    /// Items that instantiating it goes through.
    weight: u64,
    /// Items that it carries along from outside.
    closure: u64,
    /// Items that an instance of it exports.
    exports: u64,
}

/// A component that comes from somewhere else: it can be passed on, and what it weighs is not known.
const FOREIGN: Definition = Definition { weight: u64::MAX, closure: 1, exports: u64::MAX };

#[derive(Debug, Default)]
struct Scope {
    me: Definition,
    components: Vec<Definition>,
    /// What passing on each instance costs.
    instances: Vec<u64>,
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

/// Looks whether compiling `bytes` stays within bounds.
///
/// # Errors
///
/// What there is too much of, or that the file is damaged.
pub(crate) fn weigh(bytes: &[u8]) -> Result<(), String> {
    let mut scales = Scales::default();
    for payload in parser().parse_all(bytes) {
        let payload = payload.map_err(|error| error.to_string())?;
        scales.put(&payload)?;
        scales.check()?;
    }
    Ok(())
}

#[derive(Debug, Default)]
struct Scales {
    scopes: Vec<Scope>,
    in_module: bool,
    functions: u64,
    types: u64,
}

impl Scales {
    fn check(&self) -> Result<(), String> {
        let most = self.scopes.iter().map(|scope| scope.me.weight.max(scope.me.closure)).max().unwrap_or(0);
        let over = |what: &str, most: u64| Err(format!("it would expand into more than {most} {what}"));
        if most > MOST_ITEMS {
            return over("items", MOST_ITEMS);
        }
        if self.functions > MOST_FUNCTIONS {
            return over("functions", MOST_FUNCTIONS);
        }
        if self.types > MOST_TYPES {
            return over("types", MOST_TYPES);
        }
        Ok(())
    }

    /// The scope that is being read.
    fn scope(&mut self) -> Result<&mut Scope, String> {
        self.scopes.last_mut().ok_or_else(|| "a component's section stands outside of any".to_owned())
    }

    fn put(&mut self, payload: &Payload<'_>) -> Result<(), String> {
        let text = |error: wasmparser::BinaryReaderError| error.to_string();
        match payload {
            Payload::Version { encoding: Encoding::Module, .. } => self.in_module = true,
            Payload::Version { encoding: Encoding::Component, .. } => {
                if self.scopes.len() == MOST_DEPTH {
                    return Err(format!("it nests components more than {MOST_DEPTH} deep"));
                }
                self.scopes.push(Scope::default());
            }
            Payload::End(_) if self.in_module => self.in_module = false,
            Payload::End(_) => {
                if let Some(ended) = self.scopes.pop()
                    && let Some(around) = self.scopes.last_mut()
                {
                    around.components.push(ended.me);
                    around.add(ended.me.closure.saturating_add(1));
                }
            }
            Payload::TypeSection(types) => self.types += u64::from(types.count()),
            Payload::CodeSectionStart { count, .. } => self.functions += u64::from(*count),
            Payload::CodeSectionEntry(body) if body.range().len() > MOST_BODY => {
                return Err(format!("a function of it has more than {MOST_BODY} bytes"));
            }
            Payload::InstanceSection(instances) => self.scope()?.add(u64::from(instances.count())),
            Payload::CoreTypeSection(types) => self.count_types(types.count())?,
            Payload::ComponentTypeSection(types) => self.count_types(types.count())?,
            // Each makes a trampoline, and some an adapter.
            Payload::ComponentCanonicalSection(functions) => self.scope()?.add(8 * u64::from(functions.count())),
            Payload::ComponentImportSection(imports) => {
                for import in imports.clone() {
                    let scope = self.scope()?;
                    scope.add(1);
                    match import.map_err(text)?.ty {
                        ComponentTypeRef::Component(_) => scope.components.push(FOREIGN),
                        ComponentTypeRef::Instance(_) => scope.instances.push(1),
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
                        _ => {}
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn count_types(&mut self, count: u32) -> Result<(), String> {
        self.types += u64::from(count);
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
                    _ => {}
                }
            }
            ComponentAlias::Outer { kind, count, index } => {
                let here = self.scopes.len().saturating_sub(1);
                let outer = here.checked_sub(count as usize).ok_or("it names a component that is not around it")?;
                let target = match kind {
                    ComponentOuterAliasKind::Component => {
                        let found = self.scopes[outer].components.get(index as usize);
                        Some(*found.ok_or("it names a component that is not there")?)
                    }
                    ComponentOuterAliasKind::CoreModule => Some(Definition::default()),
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
                self.scope()?.add(1);
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
            assert_eq!(weigh(stage.wasm), Ok(()), "{}", stage.name);
        }
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
