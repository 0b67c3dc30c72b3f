//! Where paths may lead under a policy, whose they are, and what is told of them.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
};

use stagehost_tests::Place;

fn pipeline(place: &Place, stage: &str) {
    place.write("p.json", format!(r#"{{"version": 1, "stdin": "null", "stages": [{stage}]}}"#));
}

#[test]
fn what_guests_may_write_to_decides_nothing_that_a_policy_allows() {
    let place = Place::new();
    fs::create_dir_all(place.path("open/in")).unwrap();
    place.write("open/in/file", "x");
    symlink("open/in", place.path("way")).unwrap();
    let run = |policy: &str| {
        place.write("policy.json", policy);
        place.write(
            "p.json",
            r#"{"version": 1, "stages": [{"wasm": "builtin:cat"}], "stdin": {"file": "open/in/file"}}"#,
        );
        place.stagehost(["run", "p.json", "--policy", "policy.json"]).done()
    };
    let open = r#""dirs": [{"path": "open", "access": "write"}"#;
    for more in [
        r#"], "files": ["open/in"]}"#,
        r#"], "files": ["way"]}"#,
        r#"], "files": ["open"], "plugins": ["open/in"]}"#,
        r#", {"path": "open/in"}], "files": ["open"]}"#,
    ] {
        run(&format!("{{{open}{more}")).code(126).says(&[
            "is found by way of",
            "lets guests write to",
            "hint: guests may write to",
        ]);
    }
    run(&format!(r#"{{{open}], "files": ["open"]}}"#)).code(0).prints("x");
    run(r#"{"dirs": [{"path": "open"}, {"path": "open/in"}], "files": ["open/in"]}"#).code(0).prints("x");
    // Be it there or not, and whatever a guest has put there: they find out nothing by that.
    symlink("../p.json", place.path("open/there")).unwrap();
    symlink("../nowhere", place.path("open/lost")).unwrap();
    for root in ["none", "none/none", "there", "lost", "there/x", "lost/x"] {
        run(&format!(r#"{{{open}], "files": ["open", "open/{root}"]}}"#)).code(126).says(&["is found by way of"]);
    }
}

#[test]
fn under_a_policy_no_answer_tells_what_is_outside() {
    let place = Place::new();
    for directory in ["roots", "outside"] {
        fs::create_dir(place.path(directory)).unwrap();
    }
    place.write("outside/there", "x");
    place.write(
        "policy.json",
        r#"{"files": ["roots"], "plugins": ["roots"], "dirs": [{"path": "roots", "access": "write"}]}"#,
    );
    let asks = |name: &str| {
        [
            format!(r#"[{{"wasm": "builtin:cat"}}], "stdin": {{"file": "{name}"}}"#),
            format!(r#"[{{"wasm": "builtin:cat"}}], "stdout": {{"file": "{name}"}}"#),
            format!(r#"[{{"wasm": "builtin:cat", "stderr": {{"file": "{name}"}}}}]"#),
            format!(r#"[{{"wasm": "{name}"}}]"#),
            format!(r#"[{{"pipeline": "{name}"}}]"#),
            format!(r#"[{{"wasm": "builtin:cat", "grants": {{"dirs": [{{"host": "{name}"}}]}}}}]"#),
            format!(r#"[{{"command": ["./{name}"]}}]"#),
            format!(r#"[{{"command": ["cat"], "dir": "{name}"}}]"#),
            format!(r#"[{{"command": ["there"], "env": {{"PATH": "{name}"}}}}]"#),
            format!(
                r#"[{{"command": ["cat"], "sandbox": "best-effort", "grants": {{"dirs": [{{"host": "{name}"}}]}}}}]"#
            ),
        ]
    };
    let answers = |name: &str| {
        asks(name).map(|asked| {
            place.write("p.json", format!(r#"{{"version": 1, "stages": {asked}}}"#));
            let output = place.stagehost(["check", "p.json", "--policy", "policy.json"]).done().code(126);
            output.error_text().replace(name, "NAME")
        })
    };
    let there = answers("outside/there");
    for name in ["outside/none", "outside/none/none", "outside", "none", "roots/../outside/there"] {
        assert_eq!(answers(name), there, "{name}");
    }
    // Nor does one that would lead out and back in again, over what may be there.
    fs::create_dir(place.path("outside/in")).unwrap();
    place.write("roots/file", "x");
    let absolute = place.path("").display().to_string();
    for (link, way) in [("over", "../outside/in/../../roots"), ("lost", "../outside/no/../../roots")] {
        symlink(way, place.path("roots").join(link)).unwrap();
        symlink(place.path(way.trim_start_matches("../")), place.path("roots").join(format!("{link}-all"))).unwrap();
    }
    for name in [
        "roots/../outside/in/../../roots/file".to_owned(),
        "roots/../outside/no/../../roots/file".to_owned(),
        "outside/in/../../roots/file".to_owned(),
        "outside/no/../../roots/file".to_owned(),
        format!("{absolute}/outside/in/../../roots/file"),
        format!("{absolute}/outside/no/../../roots/file"),
        "roots/over/file".to_owned(),
        "roots/lost/file".to_owned(),
        "roots/over-all/file".to_owned(),
        "roots/lost-all/file".to_owned(),
    ] {
        // Where the program is named by a path, it begins with one.
        let answers = answers(&name).map(|answer| answer.replace(&absolute, ""));
        assert_eq!(answers, there.clone().map(|answer| answer.replace(&absolute, "")), "{name}");
    }
}

#[test]
fn a_nested_pipeline_is_where_its_path_was_given_with_a_policy_and_without() {
    let place = Place::new();
    fs::create_dir_all(place.path("plugins/sub")).unwrap();
    place.write("plugins/beside", "beside\n");
    place.write(
        "plugins/sub/real.json",
        r#"{"version": 1, "stages": [{"command": ["cat", "beside"]}, {"command": ["./tool"]}]}"#,
    );
    place.write("plugins/tool", "#!/bin/sh\ncat; echo tool\n");
    fs::set_permissions(place.path("plugins/tool"), PermissionsExt::from_mode(0o755)).unwrap();
    symlink("sub/real.json", place.path("plugins/way.json")).unwrap();
    place.write("policy.json", r#"{"plugins": ["plugins"]}"#);
    place.write("p.json", r#"{"version": 1, "stdin": "null", "stages": [{"pipeline": "plugins/way.json"}]}"#);
    place.stagehost(["run", "p.json"]).done().code(0).prints("beside\ntool\n");
    place.stagehost(["run", "p.json", "--policy", "policy.json"]).done().code(0).prints("beside\ntool\n");
    // Behind a wall a script is read all the same.
    let walled = r#"{"command": ["plugins/tool"], "sandbox": "best-effort"}"#;
    place.write("p.json", format!(r#"{{"version": 1, "stdin": "null", "stages": [{walled}]}}"#));
    place.stagehost(["run", "p.json", "--policy", "policy.json"]).done().code(0).prints("tool\n");
    place.write("p.json", r#"{"version": 1, "stdin": "null", "stages": [{"pipeline": "plugins/none.json"}]}"#);
    place.stagehost(["run", "p.json", "--policy", "policy.json"]).done().code(127);
}

#[test]
fn the_kernels_own_directories_are_no_grants_whatever_a_policy_says() {
    let place = Place::new();
    for directory in ["/", "/proc", "/proc/self", "/sys", "/sys/fs/cgroup", "/sys/kernel", "/dev", "/dev/pts"] {
        if !Path::new(directory).exists() {
            continue;
        }
        // Below what guests may write to no policy could stand.
        let access = if directory == "/" { "read" } else { "write" };
        place.write("policy.json", format!(r#"{{"dirs": [{{"path": "{directory}", "access": "{access}"}}]}}"#));
        let grant = format!(r#"{{"wasm": "builtin:cat", "grants": {{"dirs": [{{"host": "{directory}"}}]}}}}"#);
        pipeline(&place, &grant);
        for policy in [&["check", "p.json"][..], &["check", "p.json", "--policy", "policy.json"]] {
            place.stagehost(policy).done().code(126).says(&["holds the kernel's own files"]);
        }
        // Nor for commands: without a policy they may see it, if whoever writes the file says so.
        let refused = |access: &str, args: &[&str]| {
            pipeline(
                &place,
                &format!(
                    r#"{{"command": ["true"], "sandbox": "best-effort", "grants": {{"dirs": [{{"host": "{directory}", "access": "{access}"}}]}}}}"#
                ),
            );
            place.stagehost(args).done().status.code() == Some(126)
        };
        let with_policy = ["check", "p.json", "--policy", "policy.json"];
        assert!(refused("read", &with_policy) && refused("write", &with_policy), "{directory}");
        assert!(!refused("read", &["check", "p.json"]), "{directory}");
        assert_eq!(refused("write", &["check", "p.json"]), directory != "/", "{directory}");
    }
}

#[test]
fn the_directory_of_a_pipeline_is_where_its_operator_says() {
    let place = Place::new();
    fs::create_dir_all(place.path("data/v1")).unwrap();
    fs::create_dir_all(place.path("jobs")).unwrap();
    place.write("data/v1/in", "inside");
    for (link, target) in
        [("data/current", "v1"), ("data/out", "../jobs"), ("data/lost", "../nowhere"), ("other", "data")]
    {
        symlink(target, place.path(link)).unwrap();
    }
    place.write("p.json", r#"{"version": 1, "stages": [{"wasm": "builtin:cat"}], "stdin": {"file": "in"}}"#);
    let run = |policy: &str, cwd: &str| {
        place.write("policy.json", policy);
        place.stagehost(["run", "p.json", "--policy", "policy.json", "--cwd", cwd]).done()
    };
    let absolute = place.path("data/current").display().to_string();
    for cwd in ["data/current", "data/v1", "other/current", "jobs/../data/current", &absolute] {
        run(r#"{"files": ["data"]}"#, cwd).code(0).prints("inside");
    }
    // Where guests may put a link on the way, it has to stay there.
    for cwd in ["data/current", "data/v1", "other/v1", "other/current", &absolute] {
        run(r#"{"files": ["data"], "dirs": [{"path": "data", "access": "write"}]}"#, cwd).code(0).prints("inside");
    }
    for cwd in ["data/out", "data/lost", "other/out", "other/lost"] {
        run(r#"{"files": ["data"], "dirs": [{"path": "data", "access": "write"}]}"#, cwd)
            .code(126)
            .says(&["is found by way of", "leads out of there, or nowhere"]);
    }
    // A directory is known by the name that the policy gives it, whatever that leads over.
    place.write(
        "p.json",
        r#"{"version": 1, "stages": [{"wasm": "builtin:cat"}], "stdin": {"file": "jobs/../other/v1/in"}}"#,
    );
    run(r#"{"files": ["jobs/../other"]}"#, ".").code(0).prints("inside");
    run(r#"{"files": ["jobs/../data"]}"#, ".").code(126);
    for name in ["data/v1/in/", "data/v1/in/."] {
        let stdin =
            format!(r#"{{"version": 1, "stages": [{{"wasm": "builtin:cat"}}], "stdin": {{"file": "{name}"}}}}"#);
        place.write("p.json", stdin);
        run(r#"{"files": ["data"]}"#, ".").code(126);
    }
}

#[test]
fn what_an_operator_names_leads_out_of_no_directory_of_guests() {
    let place = Place::new();
    fs::create_dir(place.path("work")).unwrap();
    let good = r#"{"version": 1, "stages": [{"wasm": "builtin:cat"}], "stdin": "null"}"#;
    place.write("work/p.json", good);
    place.write("policy.json", r#"{"dirs": [{"path": "work", "access": "write"}]}"#);
    place.write("words", "these are secret");
    place.stagehost(["lock", "work/p.json"]).done().code(0);
    let run = |args: &[&str]| {
        let args = ["check", "work/p.json", "--policy", "policy.json"].iter().chain(args).copied();
        place.stagehost(args.collect::<Vec<_>>()).done()
    };
    run(&["--locked"]).code(0);
    // What a guest puts in their places.
    let answers = |name: &str, args: &[&str]| {
        ["../words", "../policy.json", "../nowhere", "/proc/version", "."].map(|target| {
            let _ = fs::remove_file(place.path(name));
            symlink(target, place.path(name)).unwrap();
            let output = run(args);
            assert!(!output.status.success(), "{target}: {output}");
            (output.status.code(), output.error_text())
        })
    };
    for (name, args) in [("work/stagehost.lock", &["--locked"][..]), ("work/p.json", &[])] {
        let answers = answers(name, args);
        for answer in &answers[..4] {
            assert_eq!(answer, &answers[0], "it tells what is outside");
        }
        fs::remove_file(place.path(name)).unwrap();
        // And nobody is waited for.
        place.shell(&format!("mkfifo {name}")).done().code(0);
        run(args).says(&["it is no regular file"]);
        fs::remove_file(place.path(name)).unwrap();
        place.write("work/p.json", good);
    }
    // Nor is anything written there.
    fs::create_dir(place.path("outside")).unwrap();
    symlink("../outside", place.path("work/out")).unwrap();
    symlink("../outside/x", place.path("work/report")).unwrap();
    for report in ["work/out/report", "work/report"] {
        let args = ["run", "work/p.json", "--policy", "policy.json", "--report", report];
        place.stagehost(args).done().code(125).says(&["is found by way of"]);
    }
    let dumps = ["run", "work/p.json", "--policy", "policy.json", "--coredump", "work/out"];
    place.stagehost(dumps).done().code(125).says(&["lets guests write there"]);
    symlink("../outside/lock", place.path("work/stagehost.lock")).unwrap();
    place.stagehost(["lock", "work/p.json", "--policy", "policy.json"]).done().code(125);
    assert_eq!(fs::read_dir(place.path("outside")).unwrap().count(), 0);
    fs::remove_file(place.path("work/stagehost.lock")).unwrap();
    place.stagehost(["lock", "work/p.json", "--policy", "policy.json"]).done().code(0);
    place.stagehost(["run", "work/p.json", "--policy", "policy.json", "--report", "work/r"]).done().code(0);
    assert!(place.read("work/r").contains("\"success\": true"));
    // Nor by way of what is open already: a directory is where it is, whatever it is called.
    symlink("../outside", place.path("work/job")).unwrap();
    symlink("../outside/lock", place.path("work/sub-lock")).unwrap();
    let policy = place.path("policy.json").display().to_string();
    for (command, says) in [
        ("run work/p.json --report /proc/self/fd/3/report", "is found by way of"),
        ("run work/p.json --report /dev/fd/3/out/r", "is found by way of"),
        ("run -c ':cat' --stdin null --report /proc/$$/fd/3/report", "is found by way of"),
        ("check /proc/self/fd/3/report", "is found by way of"),
        ("run -c 'pwd' --stdin null --cwd /proc/self/fd/3/job", "is found by way of"),
        ("run work/p.json --coredump /proc/self/fd/3/job", "lets guests write there"),
        ("run work/p.json --coredump /proc/self/fd/3", "lets guests write there"),
        ("run work/p.json --coredump work", "lets guests write there"),
        ("run work/p.json --coredump work/", "lets guests write there"),
        ("run -c 'true' --stdin null --cgroup work/job", "lets guests write there"),
    ] {
        let output = place.shell(&format!("exec 3<work; exec \"$STAGEHOST\" {command} --policy {policy}")).done();
        assert!(!output.status.success(), "{command}");
        output.says(&[says]);
    }
    // What is open itself may be read and written.
    place.write("report-here", "");
    let by_number = "run /dev/fd/4 --report /dev/fd/3 --policy policy.json 3>report-here 4<work/p.json";
    place.shell(&format!("\"$STAGEHOST\" {by_number}")).done().code(0);
    assert!(place.read("report-here").contains("\"success\": true"));
    // A link to what is open is that, be it a pipe or a file.
    symlink("/dev/stdout", place.path("to-stdout")).unwrap();
    symlink("/dev/fd", place.path("open")).unwrap();
    for output in ["to-stdout", "open/1"] {
        for after in ["| cat", "> said; cat said"] {
            let script = format!("printf ab | \"$STAGEHOST\" run -c :cat --stdout {output} {after}");
            place.shell(&script).done().code(0).prints("ab");
        }
    }
    place.shell("\"$STAGEHOST\" run -c :cat --stdin null --report to-stdout > said").done().code(0);
    assert!(place.read("said").contains("\"success\": true"));
    // Not even whether the report would be in the place of another file is told.
    let told = ["../words", "../nowhere", "../outside"].map(|target| {
        for name in ["work/told", "work/in"] {
            let _ = fs::remove_file(place.path(name));
            symlink(target, place.path(name)).unwrap();
        }
        ["--stdin", "--stdout"].map(|flag| {
            let args = ["run", "work/p.json", "--policy", "policy.json", "--report", "work/told", flag, "work/in"];
            let output = place.stagehost(args).done().code(125);
            output.error_text()
        })
    });
    assert!(told[0] == told[1] && told[1] == told[2], "{told:?}");
    for name in ["work/told", "work/in"] {
        fs::remove_file(place.path(name)).unwrap();
    }
    let same = ["run", "work/p.json", "--policy", "policy.json", "--report", "work/../work/./p.json"];
    place.stagehost(same).done().code(125).says(&["is the pipeline file"]);
    // More links than two count alike.
    for index in 0..50 {
        symlink(format!("many-{}", index + 1), place.path(format!("many-{index}"))).unwrap();
    }
    symlink("work/report", place.path("many-50")).unwrap();
    let many = ["run", "work/p.json", "--policy", "policy.json", "--report", "many-0"];
    place.stagehost(many).done().code(125).says(&["cannot be told here"]);
    // A policy is no word of the operator's where guests could change it; a pipe is.
    place.write("p.json", good);
    let policy_of_all = r#"{"dirs": [{"path": "/", "access": "write"}]}"#;
    place.shell(&format!("echo '{policy_of_all}' | \"$STAGEHOST\" check p.json --policy /dev/stdin")).done().code(0);
    place.write("work/policy.json", r#"{"dirs": [{"path": ".", "access": "write"}]}"#);
    place
        .stagehost(["check", "work/p.json", "--policy", "work/policy.json"])
        .done()
        .code(125)
        .says(&["they could change it"]);
    assert_eq!(fs::read_dir(place.path("outside")).unwrap().count(), 0);
    // Where the directory that this runs in is gone, nobody can tell what is where.
    fs::create_dir(place.path("work/gone")).unwrap();
    place.write("outside/p.json", good);
    place
        .shell(&format!("cd work/gone && rmdir ../gone && exec $STAGEHOST run ../out/p.json --policy {policy}"))
        .done()
        .code(78)
        .says(&["that cannot be told here"]);
    place.shell("mkfifo stagehost.lock").done().code(0);
    place.write("p.json", good);
    place.stagehost(["check", "p.json", "--locked"]).done().code(125).says(&["it is no regular file"]);
    place.shell("cat p.json | $STAGEHOST check /dev/stdin").done().code(0);
}
