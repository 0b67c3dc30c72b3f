//! Rows N1 to N8 and 38 to 48: requirements, joints, and what each side sees.

use stagehost::{
    BuildError, JointKind, Pipeline, PipelineBuilder, Stage,
    spec::{Requirement, Requirement::Any, Requirement::Forbid, Requirement::PreferFile},
};
use stagehost_tests::{Place, leaks::checked};

use crate::{NeverEnds, command, copy, host, output, pipeline, read_all, recorder, run, shell, succeeds};

fn joints(built: &Pipeline) -> Vec<JointKind> {
    built.plan().summary().stages.iter().filter_map(|stage| stage.joint.map(|joint| joint.kind)).collect()
}

fn refusal(builder: PipelineBuilder) -> (String, String) {
    match builder.build() {
        Err(BuildError::Plan(error)) => (error.place, error.message),
        other => panic!("{other:?}"),
    }
}

#[test]
fn n1_the_matrix_has_nine_cells() {
    checked(|| {
        let cells = [
            (Any, Any, Ok(JointKind::Ring)),
            (Any, PreferFile, Ok(JointKind::Pipe)),
            (Any, Forbid, Err("stage `b` forbids a connected stdin, and stage `a` writes to it")),
            (PreferFile, Any, Ok(JointKind::Pipe)),
            (PreferFile, PreferFile, Ok(JointKind::Pipe)),
            (PreferFile, Forbid, Err("stage `b` forbids a connected stdin, and stage `a` writes to it")),
            (Forbid, Any, Err("stage `a` forbids a connected stdout, and stage `b` reads from it")),
            (Forbid, PreferFile, Err("stage `a` forbids a connected stdout, and stage `b` reads from it")),
            (Forbid, Forbid, Err("stage `a` forbids a connected stdout, and stage `b` reads from it")),
        ];
        for (up, down, expected) in cells {
            // Functions, sandboxed stages and a mixture; what crosses the joint arrives.
            for (first, second) in [
                (crate::count_to(10).name("a"), copy("b")),
                (Stage::wasm("builtin:cat").name("a"), Stage::wasm("builtin:cat").name("b")),
            ] {
                let builder = pipeline().stage(first.requires(Any, up)).stage(second.requires(down, Any));
                match expected {
                    Ok(kind) => {
                        let built = builder.stdin_bytes("x").build().unwrap();
                        assert_eq!(joints(&built), [kind], "{up:?} | {down:?}");
                        let (outcome, output) = built.output(&host(), 1000).wait();
                        succeeds(&outcome);
                        assert!(!output.is_empty());
                        assert_eq!(outcome.joints[0].kind, kind);
                    }
                    Err(message) => assert_eq!(refusal(builder.stdin_null()).1, message),
                }
            }
        }
    });
}

#[test]
fn n2_forbid_with_nothing_connected_is_fine() {
    checked(|| {
        let alone = command(&["true"]).requires(Forbid, Forbid);
        succeeds(&run(pipeline().stdin_null().stage(alone)));
    });
}

/// A command that says on standard error what its stdin and stdout are.
fn says_its_ends() -> Stage {
    shell("readlink /proc/self/fd/0 >&2; exec 3>&1; readlink /proc/self/fd/3 >&2; exec 3>&-")
}

#[test]
fn n3_ends_reach_a_command_as_they_are() {
    checked(|| {
        let place = Place::new();
        place.write("in", "text\n");
        let input = std::fs::canonicalize(place.path("in")).unwrap();
        let built = pipeline()
            .base(place.path(""))
            .stdin_file("in")
            .stage(shell("readlink /proc/self/fd/0"))
            .stage(says_its_ends())
            .stage(command(&["cat"]))
            .build()
            .unwrap();
        let (outcome, _) = built.output(&host(), 1000).wait();
        succeeds(&outcome);
        assert!(outcome.stages[1].stderr.contains("pipe:["), "{outcome:?}");
        // Only a single command between two files: nothing of the host's is in between.
        place.write(
            "p.json",
            r#"{"version": 1, "stages": [{"command": ["sh", "-c",
            "readlink /proc/self/fd/0 >&2; exec 3>&1; readlink /proc/self/fd/3 >&2; cat"]}],
            "stdin": {"file": "in"}, "stdout": {"file": "out", "atomic": false}}"#,
        );
        let out = place.path("out");
        let said = place.stagehost(["run", "p.json"]).done().code(0);
        let said = said.error_text();
        let lines: Vec<_> = said.lines().collect();
        assert_eq!(lines, [input.display().to_string(), out.display().to_string()]);
        assert_eq!(place.read("out"), "text\n");
    });
}

#[test]
fn n4_an_invalid_requirement_names_stage_and_side() {
    for (side, other) in [("stdin", "stdout"), ("stdout", "stdin")] {
        let file = format!(
            r#"{{"version": 1, "stages": [{{"wasm": "builtin:cat"}}, {{"command": ["cat"], "requires": {{"{side}": "maybe", "{other}": "any"}}}}]}}"#
        );
        let refused = stagehost::spec::parse(file.as_bytes()).unwrap_err();
        assert_eq!(refused.place, format!("stages[1].requires.{side}"));
        assert!(refused.hint.unwrap().contains("prefer-file"));
    }
}

#[test]
fn n5_all_checks_come_before_the_first_start() {
    checked(|| {
        let place = Place::new();
        let marker = place.path("started");
        let builder = pipeline()
            .stdin_null()
            .stage(shell(&format!("touch {}", marker.display())))
            .stage(copy("middle").requires(Forbid, Any))
            .stage(command(&["cat"]));
        assert_eq!(refusal(builder).0, "stages[1].requires.stdin");
        assert!(!marker.exists());
    });
}

#[test]
fn n6_prefer_is_not_require() {
    checked(|| {
        let (outcome, output) = output(pipeline().stdin_bytes("from memory").stage(command(&["cat"])));
        succeeds(&outcome);
        assert_eq!(output, "from memory");
    });
}

#[test]
fn n7_the_joints_are_in_the_plan_and_in_the_report() {
    checked(|| {
        let stages = pipeline().stdin_bytes("a b\n").stage(copy("f")).stage(Stage::wasm("builtin:words"));
        let built = stages.stage(command(&["sort"])).build().unwrap();
        assert_eq!(joints(&built), [JointKind::Ring, JointKind::Pipe]);
        let (outcome, _) = built.output(&host(), 1000).wait();
        let reported: Vec<_> = outcome
            .joints
            .iter()
            .map(|joint| (joint.from.as_str(), joint.to.as_str(), joint.kind, joint.bytes))
            .collect();
        assert_eq!(
            reported,
            [("f", "words", JointKind::Ring, Some(4)), ("words", "sort", JointKind::Pipe, Some(4))],
            "{outcome:?}"
        );
    });
}

#[test]
fn n8_and_mixed_requirements_choose_ring_then_pipe() {
    checked(|| {
        let plan = |stages: [(Requirement, Requirement); 3]| {
            let mut builder = pipeline().stdin_null().stdout_null();
            for (index, (stdin, stdout)) in stages.into_iter().enumerate() {
                builder = builder.stage(copy(&format!("{index}")).requires(stdin, stdout));
            }
            joints(&builder.build().unwrap())
        };
        assert_eq!(plan([(Any, Any), (Any, PreferFile), (Any, Any)]), [JointKind::Ring, JointKind::Pipe]);
        assert_eq!(plan([(Any, Any), (PreferFile, Any), (Any, Any)]), [JointKind::Pipe, JointKind::Ring]);
    });
}

#[test]
fn gp_38_a_forbidden_stdin_that_is_connected_is_refused() {
    let builder = pipeline().stdin_bytes("x").stage(copy("f").requires(Forbid, Any));
    let (place, message) = refusal(builder);
    assert_eq!(place, "stages[0].requires.stdin");
    assert!(message.contains("stage `f` forbids a connected stdin"), "{message}");
}

#[test]
fn gp_39_a_forbidden_stdin_without_any_is_fine() {
    checked(|| succeeds(&run(pipeline().stdin_null().stage(copy("f").requires(Forbid, Any)))));
}

#[test]
fn gp_40_a_forbidden_stdout_that_is_connected_is_refused() {
    let (place, message) = refusal(pipeline().stdin_null().stage(copy("f").requires(Any, Forbid)));
    assert_eq!(place, "stages[0].requires.stdout");
    assert!(message.contains("stage `f` forbids a connected stdout"), "{message}");
}

#[test]
fn gp_41_a_forbidden_stdout_without_any_is_fine() {
    checked(|| succeeds(&run(pipeline().stdin_null().stage(copy("f").requires(Any, Forbid)))));
}

#[test]
fn gp_42_forbid_between_stages_is_refused() {
    let builder = pipeline().stdin_null().stage(copy("a").requires(Any, Forbid)).stage(copy("b"));
    assert_eq!(refusal(builder).1, "stage `a` forbids a connected stdout, and stage `b` reads from it");
}

#[test]
fn gp_43_an_invalid_stdin_requirement_is_refused() {
    let file = br#"{"version": 1, "stages": [{"command": ["cat"], "requires": {"stdin": 42}}]}"#;
    assert_eq!(stagehost::spec::parse(file).unwrap_err().place, "stages[0].requires.stdin");
}

#[test]
fn gp_44_an_invalid_stdout_requirement_is_refused() {
    let file = br#"{"version": 1, "stages": [{"command": ["cat"], "requires": {"stdout": "file"}}]}"#;
    assert_eq!(stagehost::spec::parse(file).unwrap_err().place, "stages[0].requires.stdout");
}

#[test]
fn gp_45_a_conflict_starts_nothing() {
    checked(|| {
        let place = Place::new();
        let file = r#"{"version": 1, "stages": [{"command": ["touch", "started"]},
            {"wasm": "builtin:cat", "requires": {"stdin": "forbid"}}, {"command": ["cat"]}]}"#;
        place.write("p.json", file);
        place.stagehost(["run", "p.json"]).done().code(78).says(&["stages[1].requires.stdin"]);
        assert_eq!(place.names(), ["p.json"]);
    });
}

#[test]
fn gp_46_a_function_without_stdin_reads_nothing() {
    checked(|| {
        let (outcome, _) = output(pipeline().stdin_null().stage(read_all()));
        succeeds(&outcome);
        assert_eq!(outcome.stages[0].input_bytes, Some(0));
    });
}

#[test]
fn gp_48_what_each_side_sees() {
    checked(|| {
        let place = Place::new();
        place.write("in", "text\n");
        let on = || pipeline().base(place.path(""));
        let summary = |builder: PipelineBuilder| {
            let summary = builder.build().unwrap().plan().summary();
            let joints: Vec<_> =
                summary.stages.iter().filter_map(|stage| stage.joint.map(|joint| joint.kind)).collect();
            (summary.stdin, joints, summary.stdout)
        };
        let file = |name: &str| place.path("").join(name).display().to_string();
        // One function: nothing, files, and the program's own ends, as they are.
        assert_eq!(
            summary(on().stdin_null().stdout_null().stage(copy("f"))),
            ("nothing".into(), vec![], "nothing".into())
        );
        assert_eq!(summary(on().stdin_file("in").stdout_null().stage(copy("f"))).0, file("in"));
        assert_eq!(summary(on().stdin_null().stdout_file("out").stage(copy("f"))).2, file("out"));
        let (writer, _fate) = recorder();
        let reader = NeverEnds { bytes: b"", fate: crate::Fate::default() };
        let ends = summary(on().stdin_reader(reader).stdout_writer(writer).stage(copy("f")));
        assert_eq!((ends.0.as_str(), ends.2.as_str()), ("the program's reader", "the program's writer"));
        // One command: the same, and it sees it itself.
        let sees = |builder: PipelineBuilder| {
            let outcome = builder.stage(says_its_ends()).build().unwrap().run(&host());
            succeeds(&outcome);
            outcome.stages[0].stderr.lines().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(sees(on().stdin_null().stdout_null()), ["/dev/null", "/dev/null"]);
        assert_eq!(
            sees(on().stdin_file("in").stdout_null())[0],
            std::fs::canonicalize(place.path("in")).unwrap().display().to_string()
        );
        let seen = sees(on().stdin_null().stdout_file("out"));
        assert!(seen[1].starts_with(&std::fs::canonicalize(place.path("")).unwrap().display().to_string()), "{seen:?}");
        let (writer, _fate) = recorder();
        let seen = sees(on().stdin_reader(std::io::Cursor::new("x")).stdout_writer(writer));
        assert!(seen.iter().all(|end| end.starts_with("pipe:[")), "{seen:?}");
        // Two stages.
        let (writer, fate) = recorder();
        let built = on().stdin_file("in").stdout_writer(writer).stage(copy("f")).stage(copy("g")).build().unwrap();
        assert_eq!(joints(&built), [JointKind::Ring]);
        succeeds(&built.run(&host()));
        assert_eq!(fate.bytes(), b"text\n");
        // A function sees nothing, or what is there.
        let (outcome, seen) = output(on().stdin_null().stage(copy("f")));
        assert_eq!((outcome.stages[0].input_bytes, seen.as_str()), (Some(0), ""));
        let (outcome, seen) = output(on().stdin_file("in").stage(copy("f")));
        assert_eq!((outcome.stages[0].input_bytes, seen.as_str()), (Some(5), "text\n"));
        succeeds(&on().stdin_bytes("filed").stdout_file("out").stage(copy("f")).build().unwrap().run(&host()));
        assert_eq!(place.read("out"), "filed");
        // A function and a command: nothing, a pipe, a file.
        let stages = on().stdin_null().stdout_file("out").stage(copy("f")).stage(says_its_ends());
        let outcome = stages.build().unwrap().run(&host());
        let seen: Vec<_> = outcome.stages[1].stderr.lines().collect();
        assert!(seen[0].starts_with("pipe:[") && !seen[1].starts_with("pipe:["), "{seen:?}");
        assert_eq!(outcome.joints[0].kind, JointKind::Pipe);
        // A command with a reader, and a function: a pumped pipe, a pipe, nothing.
        let stages = on()
            .stdin_reader(std::io::Cursor::new("pumped"))
            .stdout_null()
            .stage(shell("readlink /proc/self/fd/0 >&2; exec 3>&1; readlink /proc/self/fd/3 >&2; exec 3>&-; cat"));
        let outcome = stages.stage(read_all()).build().unwrap().run(&host());
        succeeds(&outcome);
        assert!(outcome.stages[0].stderr.lines().all(|end| end.starts_with("pipe:[")), "{outcome:?}");
        assert_eq!((outcome.stages[0].input_bytes, outcome.stages[1].input_bytes), (Some(6), Some(6)));
        // Two commands: nothing, one pipe, nothing.
        let stages = on().stdin_null().stdout_null().stage(says_its_ends().name("a")).stage(says_its_ends().name("b"));
        let outcome = stages.build().unwrap().run(&host());
        let ends: Vec<_> = outcome.stages.iter().flat_map(|stage| stage.stderr.lines()).collect();
        assert_eq!((ends[0], ends[3]), ("/dev/null", "/dev/null"), "{ends:?}");
        assert!(ends[1].starts_with("pipe:[") && ends[1] == ends[2], "{ends:?}");
    });
}
