//! What wasmtime says only in words: what its messages mean here, and ours in their place where people need to know more. Nothing else
//! in the sandbox looks into a message of its, and a test brings about each of them.

/// What a message of wasmtime's says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// A memory, table or heap could not be as large as it has to be.
    NoMemory,
    /// The host holds as much for the guest as it may.
    NoKeys,
    /// The guest has as many handles as it may.
    NoHandles,
    /// It has as many memories, tables or instances as it may.
    NoMemories,
    NoTables,
    NoInstances,
    /// More was handed over in one call than may be.
    TooLong,
    /// What is called has another type.
    OtherType,
}

/// The words by which they are known, the more exact ones first.
const SAYINGS: [(&str, Said); 11] = [
    ("exceeds memory limits", Said::NoMemory),
    ("exceeds table limits", Said::NoMemory),
    ("GC heap out of memory", Said::NoMemory),
    ("resource table has no free keys", Said::NoKeys),
    ("store handle limit exceeded", Said::NoHandles),
    ("resource limit exceeded: memory count", Said::NoMemories),
    ("resource limit exceeded: table count", Said::NoTables),
    ("resource limit exceeded: instance count", Said::NoInstances),
    ("fuel allocated for hostcalls has been exhausted", Said::TooLong),
    ("-tuple, found ", Said::OtherType),
    ("type mismatch", Said::OtherType),
];

/// What a message says, if it is known.
pub(super) fn said(message: &str) -> Option<Said> {
    SAYINGS.iter().find(|(words, _)| message.contains(words)).map(|(_, said)| *said)
}

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

#[cfg(test)]
mod tests {
    use wasmtime::{
        Config, Engine, Linker, Module, Result, Store, StoreLimits, StoreLimitsBuilder,
        component::{Component, Linker as ComponentLinker, Resource, ResourceTable, ResourceType},
    };

    use super::*;

    fn engine() -> Engine {
        let mut config = Config::new();
        config.wasm_gc(true).wasm_function_references(true);
        Engine::new(&config).unwrap()
    }

    #[expect(clippy::disallowed_methods, reason = "what wasmtime says by itself is what is tested")]
    fn store(limits: StoreLimits) -> Store<StoreLimits> {
        let mut store = Store::new(&engine(), limits);
        store.limiter(|limits| limits);
        store
    }

    fn says<T>(result: Result<T>) -> Option<Said> {
        let error = result.err().expect("it is refused");
        said(&error.root_cause().to_string())
    }

    /// What is said when a module is made under limits, and its `run` is called.
    fn run(text: &str, limits: StoreLimits) -> Option<Said> {
        let mut store = store(limits);
        let module = Module::new(store.engine(), wat::parse_str(text).unwrap()).unwrap();
        says(wasmtime::Instance::new(&mut store, &module, &[]).and_then(|instance| {
            let run = instance.get_typed_func::<(), ()>(&mut store, "run")?;
            run.call(&mut store, ())
        }))
    }

    #[test]
    fn what_does_not_fit_is_known() {
        let limits = StoreLimitsBuilder::new;
        let memory = "(module (memory 10))";
        assert_eq!(run(memory, limits().memory_size(1 << 16).build()), Some(Said::NoMemory));
        assert_eq!(run(memory, limits().memories(0).build()), Some(Said::NoMemories));
        let table = "(module (table 10 funcref))";
        assert_eq!(run(table, limits().table_elements(1).build()), Some(Said::NoMemory));
        assert_eq!(run(table, limits().tables(0).build()), Some(Said::NoTables));
        assert_eq!(run("(module)", limits().instances(0).build()), Some(Said::NoInstances));
        let heap = r#"(module (type $a (array i8)) (global $kept (mut (ref null $a)) (ref.null $a))
            (func (export "run") (global.set $kept (array.new_default $a (i32.const 100000000)))))"#;
        assert_eq!(run(heap, limits().memory_size(1 << 20).build()), Some(Said::NoMemory));
    }

    struct Thing;

    #[test]
    fn what_a_guest_holds_too_much_of_is_known() {
        let mut table = ResourceTable::new();
        table.set_max_capacity(1);
        let _ = table.push(Thing).unwrap();
        let refused = table.push(Thing).unwrap_err();
        assert_eq!(said(&refused.to_string()), Some(Said::NoKeys));
        let text = r#"(component
            (import "thing" (type $thing (sub resource)))
            (import "make" (func $make (result (own $thing))))
            (core func $make (canon lower (func $make)))
            (core module $m (import "" "make" (func $make (result i32)))
                (func (export "run") (drop (call $make)) (drop (call $make))))
            (core instance $i (instantiate $m (with "" (instance (export "make" (func $make))))))
            (func (export "run") (canon lift (core func $i "run"))))"#;
        let mut store = store(StoreLimits::default());
        store.set_max_component_handles(1);
        let component = Component::new(store.engine(), wat::parse_str(text).unwrap()).unwrap();
        let mut linker = ComponentLinker::new(store.engine());
        let mut root = linker.root();
        root.resource("thing", ResourceType::host::<Thing>(), |_, _| Ok(())).unwrap();
        root.func_wrap("make", |_, (): ()| Ok((Resource::<Thing>::new_own(7),))).unwrap();
        let instance = linker.instantiate(&mut store, &component).unwrap();
        let run = instance.get_typed_func::<(), ()>(&mut store, "run").unwrap();
        assert_eq!(says(run.call(&mut store, ())), Some(Said::NoHandles));
    }

    #[test]
    fn what_is_too_long_or_of_another_type_is_known() {
        let text = r#"(component
            (import "take" (func $take (param "bytes" (list u8))))
            (core module $m (memory (export "memory") 1))
            (core instance $m (instantiate $m))
            (core func $take (canon lower (func $take) (memory (core memory $m "memory"))))
            (core module $n (import "" "take" (func $take (param i32 i32)))
                (func (export "run") (call $take (i32.const 0) (i32.const 1000))))
            (core instance $n (instantiate $n (with "" (instance (export "take" (func $take))))))
            (func (export "run") (canon lift (core func $n "run"))))"#;
        let mut store = store(StoreLimits::default());
        store.set_hostcall_fuel(100);
        let component = Component::new(store.engine(), wat::parse_str(text).unwrap()).unwrap();
        let mut linker = ComponentLinker::new(store.engine());
        linker.root().func_wrap("take", |_, (_,): (Vec<u8>,)| Ok(())).unwrap();
        let instance = linker.instantiate(&mut store, &component).unwrap();
        let run = instance.get_typed_func::<(), ()>(&mut store, "run").unwrap();
        assert_eq!(says(run.call(&mut store, ())), Some(Said::TooLong));
        let other = |result: Result<()>| said(&format!("{:#}", result.expect_err("it has no such type")));
        let more = instance.get_typed_func::<(u32,), ()>(&mut store, "run").map(drop);
        assert_eq!(other(more), Some(Said::OtherType));
        let exports = r#"(component (core module $m (func (export "run") (result i32) (i32.const 0)))
            (core instance $m (instantiate $m))
            (func (export "run") (result u32) (canon lift (core func $m "run"))))"#;
        let component = Component::new(store.engine(), wat::parse_str(exports).unwrap()).unwrap();
        let instance = ComponentLinker::new(store.engine()).instantiate(&mut store, &component).unwrap();
        let text = instance.get_typed_func::<(), (String,)>(&mut store, "run").map(drop);
        assert_eq!(other(text), Some(Said::OtherType));
    }

    #[test]
    fn an_import_that_is_missing_is_named() {
        let engine = engine();
        let module = wat::parse_str(r#"(module (import "env" "tell" (func)))"#).unwrap();
        let module = Module::new(&engine, module).unwrap();
        let refused = Linker::<()>::new(&engine).instantiate_pre(&module).err().unwrap();
        assert_eq!(named_import(&refused.to_string()), "it imports `env::tell`, which this host does not offer");
        let component = wat::parse_str(r#"(component (import "a:b/c" (instance (export "d" (func)))))"#).unwrap();
        let component = Component::new(&engine, component).unwrap();
        let refused = ComponentLinker::<()>::new(&engine).instantiate_pre(&component).err().unwrap();
        let named = named_import(&refused.to_string());
        assert!(named.contains("imports") && named.contains("a:b/c"), "{named}");
        assert_eq!(named_import("something else"), "something else");
    }
}
