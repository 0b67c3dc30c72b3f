//! Compiling strangers' code under limits, and keeping what was compiled.

use std::fs;

use stagehost_tests::{Place, binary, guests::text, hostile};

#[test]
fn compiling_has_limits_of_its_own() {
    let place = Place::new();
    let of = |name: &str| {
        let guests = hostile::all();
        let guest = guests.iter().find(|guest| guest.name == name).expect("it is there");
        hostile::write(&place, guest)
    };
    // Refused before anything is compiled, in little time and memory.
    for (name, why) in [
        ("p2-doubling-24", "would expand into more than 100000 items"),
        ("p2-carrying-30", "would expand into more than 100000 items"),
        ("p2-nested-5000", "nests components more than 32 deep"),
        ("functions-200000", "would expand into more than 100000 functions"),
    ] {
        // Address space is more than memory.
        let script = "ulimit -v 102400; exec \"$0\" run -c \"$1\" --stdin null";
        let run = place.program("sh").args(["-c", script, &binary().display().to_string(), &of(name)]);
        run.done().code(126).says(&["too costly to compile", why]);
    }
    // What the plan cannot foresee ends with the compiler's process.
    let functions = of("functions-10000");
    let run = |limit: &str| {
        place.shorthand(&functions).args(["--stdin", "null", "--limit", limit]).env("STAGEHOST_CACHE_DIR", "").done()
    };
    run("compile_memory=20MiB").code(137).says(&["compile_memory limit of 20 MiB", "stages[0].limits.compile_memory"]);
    run("compile_memory=2GiB").code(0);
    let blocks = of("blocks-10000-deep");
    place.shorthand(&blocks).args(["--stdin", "null"]).done().code(0);
    // One that another stage has had read.
    let stages =
        format!(r#"[{{"wasm": "{functions}"}}, {{"wasm": "{functions}", "limits": {{"component_size": "1KiB"}}}}]"#);
    place.write("p.json", format!(r#"{{"version": 1, "stdin": "null", "stages": {stages}}}"#));
    place.stagehost(["run", "p.json"]).done().code(126).says(&["stages[1].limits.component_size"]);
    run("component_size=1KiB").code(126).says(&["stages[0].limits.component_size", "over the limit"]);
}

/// A module that compiles to thousands of times its size: each call hands over a thousand values.
fn expanding(place: &Place, calls: usize) -> String {
    let values = "i64 ".repeat(1000);
    let pairs = "call $give call $take ".repeat(100);
    let module = format!(
        r#"(module
            (func $give (result {values}) {})
            (func $take (param {values}))
            {}
            (func (export "_start")))"#,
        "i64.const 1 ".repeat(1000),
        format!("(func {pairs})").repeat(calls / 100)
    );
    text(place, "expanding.wasm", &module).display().to_string()
}

#[test]
fn what_compiling_takes_is_bounded_whatever_nobody_foresaw() {
    let place = Place::new();
    let expanding = expanding(&place, 1_000);
    let run = |file: &str, limit: &str| {
        place.shorthand(file).args(["--stdin", "null", "--limit", limit]).env("STAGEHOST_CACHE_DIR", "").done()
    };
    run(&expanding, "compile_time=1m").code(126).says(&["compiles to more than", "bytes"]);
    run(&expanding, "compile_time=1s").code(152).says(&["compile_time limit of 1s", "stages[0].limits.compile_time"]);
    // Nanoseconds of as many seconds begin at nothing again.
    let guests = hostile::all();
    let guest = guests.iter().find(|guest| guest.name == "functions-10000").expect("it is there");
    run(&hostile::write(&place, guest), "compile_time=18446744074s").code(0);
}

#[test]
fn compiled_code_is_kept_and_not_taken_from_others() {
    let place = Place::new();
    let module = text(&place, "a.wasm", r#"(module (memory (export "memory") 1) (func (export "_start")))"#);
    let run = || {
        let run = place.shorthand(&module.display().to_string()).args(["--stdin", "null", "-v"]);
        run.env("STAGEHOST_CACHE_DIR", place.path("cache")).done().code(0)
    };
    run();
    let code = place.path("cache/stagehost-code");
    let kept = fs::read_dir(&code).expect("it was made").flatten().map(|entry| entry.path());
    let kept: Vec<_> = kept.filter(|path| !path.ends_with("CACHEDIR.TAG")).collect();
    assert_eq!(kept.len(), 1, "{kept:?}");
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&kept[0]).expect("it is there").permissions());
    assert_eq!(mode & 0o777, 0o600);
    // Damaged code is compiled anew, and so is code that others could have written.
    fs::write(&kept[0], b"not code at all").expect("it is ours");
    run();
    assert!(fs::metadata(&kept[0]).expect("it is there").len() > 100);
    fs::set_permissions(&kept[0], std::os::unix::fs::PermissionsExt::from_mode(0o666)).expect("it is ours");
    run();
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&kept[0]).expect("it is there").permissions());
    assert_eq!(mode & 0o777, 0o600);
    fs::set_permissions(&code, std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("it is ours");
    run().says(&["is not used: others can write to it"]);
}

#[test]
fn nobody_in_a_sandbox_writes_to_the_code_cache() {
    let place = Place::new();
    fs::create_dir_all(place.path("home/data")).unwrap();
    let wasm = |more: &str| {
        let body =
            format!(r#"(module (memory (export "memory") 1) (data (i32.const 0) "{more}") (func (export "_start")))"#);
        text(&place, &format!("{more}.wasm"), &body).display().to_string()
    };
    let module = wasm("first");
    let pipeline = |stage: &str, more: &str| {
        let text = format!(r#"{{"version": 1, "stdin": "null", {more} "stages": [{stage}]}}"#);
        place.write("p.json", text);
        place.stagehost(["run", "p.json"]).env("STAGEHOST_CACHE_DIR", place.path("home/cache"))
    };
    let grant =
        |host: &str, access: &str| format!(r#""grants": {{"dirs": [{{"host": "{host}", "access": "{access}"}}]}}"#);
    let granted = |host: &str, access: &str| {
        [
            format!(r#"{{"wasm": "{module}", {}}}"#, grant(host, access)),
            format!(r#"{{"command": ["true"], "sandbox": "best-effort", {}}}"#, grant(host, access)),
        ]
    };
    let says = ["stages[0].grants.dirs[0].host", "could change the compiled code"];
    // Be it made by now or not: around it, itself, or below.
    for stage in granted("home", "write") {
        pipeline(&stage, "").done().code(126).says(&says);
    }
    assert!(!place.path("home/cache").exists());
    pipeline(&format!(r#"{{"wasm": "{module}"}}"#), "").done().code(0);
    assert!(place.path("home/cache/stagehost-code").is_dir());
    for host in ["home", "home/cache", "home/cache/stagehost-code", "."] {
        for stage in granted(host, "write") {
            pipeline(&stage, "").done().code(126).says(&says);
        }
    }
    for (host, access) in [("home", "read"), ("home/data", "write")] {
        for stage in granted(host, access) {
            pipeline(&stage, "").done().code(0);
        }
    }
    // Nor does an output or a log end there.
    let entry = fs::read_dir(place.path("home/cache/stagehost-code")).unwrap().flatten();
    let entry = entry.map(|entry| entry.file_name().into_string().unwrap()).find(|name| name.len() > 64).unwrap();
    let before = fs::read(place.path("home/cache/stagehost-code").join(&entry)).unwrap();
    for (more, place_of) in [
        (format!(r#""stdout": {{"file": "home/cache/stagehost-code/{entry}"}},"#), "stdout:"),
        (format!(r#""stdout": {{"file": "home/cache/stagehost-code/{entry}", "append": true}},"#), "stdout:"),
    ] {
        pipeline(r#"{"wasm": "builtin:cat"}"#, &more).done().code(126).says(&[place_of]);
    }
    let log = format!(r#"{{"wasm": "builtin:cat", "stderr": {{"file": "home/cache/stagehost-code/{entry}"}}}}"#);
    pipeline(&log, "").done().code(126).says(&["stages[0].stderr:"]);
    assert!(fs::read(place.path("home/cache/stagehost-code").join(&entry)).unwrap() == before);
    // Where a policy lets guests write around it, it is not used, and nothing is made where they lead its name.
    fs::create_dir(place.path("outside")).unwrap();
    std::os::unix::fs::symlink("../outside", place.path("home/data/led")).unwrap();
    place.write("policy.json", r#"{"dirs": [{"path": "home/data", "access": "write"}]}"#);
    for cache in ["home/data/led/x", "home/data", "home/data/x"] {
        let run = place.stagehost(["run", "-c", &module, "--stdin", "null", "--policy", "policy.json"]);
        run.env("STAGEHOST_CACHE_DIR", place.path(cache)).done().code(0).says(&["is not used: the policy's `dirs`"]);
    }
    assert_eq!(fs::read_dir(place.path("outside")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(place.path("home/data")).unwrap().count(), 1);
    // Others will use it, if this run does not: because of a policy, or because it is told to keep code elsewhere or nowhere.
    place.write("policy.json", r#"{"dirs": [{"path": "home", "access": "write"}]}"#);
    let [stage, _] = granted("home", "write");
    place.write("p.json", format!(r#"{{"version": 1, "stdin": "null", "stages": [{stage}]}}"#));
    for cache in ["home/cache", "elsewhere", ""] {
        let run =
            place.stagehost(["run", "p.json", "--policy", "policy.json"]).env("XDG_CACHE_HOME", place.path("home"));
        let cache = if cache.is_empty() { cache.into() } else { place.path(cache) };
        run.env("STAGEHOST_CACHE_DIR", cache).done().code(126).says(&says);
    }
}

#[test]
fn the_code_cache_touches_nothing_but_its_own() {
    use std::{
        fs::FileTimes,
        os::unix::fs::symlink,
        time::{Duration, SystemTime},
    };
    let place = Place::new();
    let run = |more: &str| {
        let name = format!("{more}.wasm");
        let body =
            format!(r#"(module (memory (export "memory") 1) (data (i32.const 0) "{more}") (func (export "_start")))"#);
        let wasm = text(&place, &name, &body).display().to_string();
        place.shorthand(&wasm).args(["--stdin", "null"]).env("STAGEHOST_CACHE_DIR", place.path("home")).done().code(0)
    };
    // A home with things of the user's, one of which has the name that the cache once had.
    let old = SystemTime::now() - Duration::from_secs(1_000_000);
    let ours = |index: u32| format!("{:064x}-{:016x}", index, 7);
    let strangers = [
        "home/notes".to_owned(),
        "home/.1-2".into(),
        "home/code/thesis".into(),
        "home/code/.1-2".into(),
        format!("home/code/{}", ours(1)),
        format!("home/{}", ours(1)),
    ];
    let inside = [
        "notes".to_owned(),
        ".hidden".into(),
        ".1-x".into(),
        ".-2".into(),
        format!("{}.bak", ours(1)),
        ours(0xabc).to_uppercase(),
        format!("{}0", ours(1)),
    ];
    // Large and long unused, so that whatever is looked at would go.
    let large = |path: &str| {
        let file = fs::File::create(place.path(path)).unwrap();
        file.set_len(600 << 20).unwrap();
        file.set_times(FileTimes::new().set_modified(old)).unwrap();
    };
    fs::create_dir_all(place.path("home/code")).unwrap();
    place.shell("chmod 755 home home/code").done().code(0);
    strangers.iter().for_each(|path| large(path));
    run("one").is_quiet();
    let code = "home/stagehost-code";
    inside.iter().for_each(|name| large(&format!("{code}/{name}")));
    // Ours, by its name: over the bound together, so that the oldest go.
    for index in [1, 2, 3] {
        large(&format!("{code}/{}", ours(index)));
    }
    large(&format!("{code}/.1-2"));
    // A name of ours that leads elsewhere, and one that is a directory.
    symlink(place.path("home/notes"), place.path(format!("{code}/{}", ours(8)))).unwrap();
    fs::create_dir(place.path(format!("{code}/{}", ours(9)))).unwrap();
    run("two").is_quiet();
    for path in strangers.iter().cloned().chain(inside.iter().map(|name| format!("{code}/{name}"))) {
        assert_eq!(fs::metadata(place.path(&path)).unwrap_or_else(|error| panic!("{path}: {error}")).len(), 600 << 20);
    }
    assert!(
        place.path(format!("{code}/{}", ours(8))).is_symlink() && place.path(format!("{code}/{}", ours(9))).is_dir()
    );
    let left = [1, 2, 3].iter().filter(|index| place.path(format!("{code}/{}", ours(**index))).exists()).count();
    assert!(left == 1 && !place.path(format!("{code}/.1-2")).exists(), "{left} of three are left, which is what fits");
    // A directory of that name which it did not make is none of its own.
    fs::remove_file(place.path(format!("{code}/CACHEDIR.TAG"))).unwrap();
    large(&format!("{code}/{}", ours(4)));
    let run = place.shorthand(":cat").args(["--stdin", "null", "-v"]).env("STAGEHOST_CACHE_DIR", place.path("home"));
    run.done().code(0).says(&["is not used", "was not made by stagehost"]);
    assert!(place.path(format!("{code}/{}", ours(4))).exists());
}

#[test]
fn an_untrusted_code_cache_is_not_used() {
    let place = Place::new();
    fs::create_dir(place.path("open")).unwrap();
    let everyone = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o777);
    fs::set_permissions(place.path("open"), everyone).unwrap();
    let run = place.shorthand(":cat").input("x").arg("-v").env("STAGEHOST_CACHE_DIR", place.path("open"));
    run.done().code(0).prints("x").says(&["is not used: others can write to it"]);
    assert_eq!(fs::read_dir(place.path("open")).unwrap().count(), 0);
    let run = place.shorthand(":cat").input("x").env("STAGEHOST_CACHE_DIR", place.path("own"));
    run.done().code(0).prints("x").is_quiet();
    let mode = fs::metadata(place.path("own")).unwrap().permissions();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o700);
}

#[test]
fn another_owners_code_cache_is_not_used() {
    let place = Place::new();
    let directory = match rustix::process::geteuid().is_root() {
        true => {
            fs::create_dir(place.path("theirs")).unwrap();
            std::os::unix::fs::chown(place.path("theirs"), Some(65534), None).unwrap();
            place.path("theirs")
        }
        // Whoever is not root is not its owner.
        false => "/".into(),
    };
    let run = place.shorthand(":cat").input("x").arg("-v").env("STAGEHOST_CACHE_DIR", directory);
    run.done().code(0).prints("x").says(&["is not used: it belongs to another user"]);
    // Nor is one file of theirs.
    let guest = stagehost_tests::guests::preview1(&place, "guest.wasm", "").display().to_string();
    let run = || place.shorthand(&guest).args(["--stdin", "null"]).env("STAGEHOST_CACHE_DIR", place.path("own"));
    run().done().code(0);
    let code = || {
        let files = fs::read_dir(place.path("own/stagehost-code")).unwrap().map(|file| file.unwrap().path());
        files.filter(|file| file.file_name().unwrap() != "CACHEDIR.TAG").collect::<Vec<_>>()
    };
    let [kept] = &code()[..] else { panic!("one file is kept") };
    let inode = |file: &std::path::Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(file).unwrap());
    let first = inode(kept);
    run().done().code(0);
    assert_eq!(inode(kept), first, "it is used again");
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(kept, Some(65534), None).unwrap();
        run().done().code(0);
        assert_ne!(inode(kept), first, "it is compiled again");
    }
}

/// A module that is small for its work: each function's branch has so many targets, and each of those takes a thousand values.
fn branching(place: &Place, functions: usize, targets: usize) -> String {
    let function = format!("(func (type $t) unreachable br_table {})", "0 ".repeat(targets));
    let module = format!(
        "(module (type $t (func (result {}))) {} (func (export \"_start\")))",
        "i64 ".repeat(1000),
        function.repeat(functions)
    );
    text(place, &format!("branching{functions}.wasm"), &module).display().to_string()
}

#[test]
fn checking_a_component_is_in_its_time_and_in_turn() {
    let place = Place::new();
    let long = branching(&place, 8, 900_000);
    let run = place.shorthand(&long).args(["--stdin", "null", "--limit", "compile_time=1s"]);
    run.env("STAGEHOST_CACHE_DIR", "").done().code(152).says(&["compile_time limit of 1s"]);
    place
        .stagehost(["check", "-c", &long, "--limit", "compile_time=1s"])
        .done()
        .code(126)
        .says(&["checking it takes longer than 1s"]);
    // What looks quick and is not is given its whole time all the same, beside others that are not.
    let looks_quick = branching(&place, 8, 30_000);
    place.shorthand(&looks_quick).args(["--stdin", "null"]).env("STAGEHOST_CACHE_DIR", "").done().code(0);
}
