//! Rows 69 to 80 and 85: what commands use, and what they may use.

use std::time::Duration;

use stagehost::{
    Ends, Event, Host, HostOptions, LimitKind, RunOptions, StageExit,
    spec::{LimitsSpec, Size},
};
use stagehost_tests::{Place, leaks::checked};

use crate::{command, host, pipeline, run, shell, succeeds};

/// A shell that makes a process hold about this much memory, and then waits.
fn holds(mebibytes: u32, then: &str) -> stagehost::Stage {
    // The text is a variable of the shell: resident, and its own.
    shell(&format!("x=$(head -c {mebibytes}M /dev/zero | tr '\\0' x); {then}"))
}

fn memory(mebibytes: u64) -> LimitsSpec {
    LimitsSpec::of("memory", &format!("{mebibytes}MiB")).unwrap()
}

#[track_caller]
fn is_over_memory(outcome: &stagehost::Outcome, stage: &str, mebibytes: u64) {
    assert_eq!((outcome.exit_code, outcome.blamed.as_deref()), (137, Some(stage)), "{outcome:?}");
    let exit = &outcome.stage(stage).unwrap().exit;
    let StageExit::Limit { which: LimitKind::Memory, limit: Some(limit), used: Some(used), .. } = exit else {
        panic!("{outcome:?}");
    };
    assert!(*limit == mebibytes << 20 && used > limit, "{exit:?}");
}

#[test]
fn gp_69_the_peak_of_the_whole_tree_is_reported() {
    checked(|| {
        // The leader itself holds little; what it starts holds much.
        let outcome = run(pipeline()
            .stdin_null()
            .stage(shell("sh -c 'x=$(head -c 60M /dev/zero | tr \"\\0\" x); sleep 1.5'; :")));
        succeeds(&outcome);
        assert!(outcome.stages[0].peak_memory_bytes.unwrap() > 60 << 20, "{outcome:?}");
    });
}

#[test]
fn gp_70_a_limit_stops_a_command() {
    checked(|| {
        let outcome = run(pipeline().stdin_null().stage(holds(80, "sleep 100").limits(memory(40))));
        is_over_memory(&outcome, "sh", 40);
    });
}

#[test]
fn gp_71_a_limit_stops_the_whole_tree() {
    checked(|| {
        let nested = shell("sh -c 'x=$(head -c 80M /dev/zero | tr \"\\0\" x); sleep 100'; :");
        is_over_memory(&run(pipeline().stdin_null().stage(nested.limits(memory(40)))), "sh", 40);
    });
}

#[test]
fn gp_72_the_limit_is_in_the_message() {
    checked(|| {
        let outcome = run(pipeline().stdin_null().stage(holds(80, "sleep 100").limits(memory(40))));
        assert!(outcome.message.contains(&format!("its memory limit of {}", Size(40 << 20))), "{outcome:?}");
        assert!(outcome.hint.unwrap().contains("stages[0].limits.memory"));
    });
}

#[test]
fn gp_73_many_small_processes_count_together() {
    checked(|| {
        let many =
            shell("for i in 1 2 3 4 5 6; do sh -c 'x=$(head -c 15M /dev/zero | tr \"\\0\" x); sleep 100' & done; wait");
        is_over_memory(&run(pipeline().stdin_null().stage(many.limits(memory(60)))), "sh", 60);
    });
}

#[test]
fn gp_74_below_the_limit_nothing_happens() {
    checked(|| succeeds(&run(pipeline().stdin_null().stage(holds(20, "sleep 0.5").limits(memory(200))))));
}

#[test]
fn gp_75_below_the_limit_the_peak_is_reported() {
    checked(|| {
        let outcome = run(pipeline().stdin_null().stage(holds(20, "sleep 1").limits(memory(200))));
        succeeds(&outcome);
        let peak = outcome.stages[0].peak_memory_bytes.unwrap();
        assert!(peak > 20 << 20 && peak <= 200 << 20, "{peak}");
    });
}

/// Runs a command that goes over its memory limit before an observer.
fn observed(observer: impl Fn(&Event) + Send + Sync + 'static) -> stagehost::Outcome {
    let stage = holds(80, "sleep 100").limits(memory(40));
    let plan = pipeline().stdin_null().stdout_null().stage(stage).build().unwrap().into_plan();

    host().run(&plan, Ends::new(), &RunOptions::new().on_event(observer))
}

#[test]
fn gp_76_an_observer_that_fails_keeps_nothing_alive() {
    checked(|| {
        let outcome =
            observed(|event| assert!(!matches!(event, Event::Started { .. }), "the observer fails at the start"));
        is_over_memory(&outcome, "sh", 40);
    });
}

#[test]
fn gp_77_an_observer_that_fails_at_the_limit_keeps_nothing_alive() {
    checked(|| {
        let outcome =
            observed(|event| assert!(!matches!(event, Event::Limit { .. }), "the observer fails at the limit"));
        is_over_memory(&outcome, "sh", 40);
        // Nor does one that does not look.
        let host = host();
        let stage = holds(80, "sleep 100").limits(memory(40));
        let mut running = pipeline().stdin_null().stdout_null().stage(stage).build().unwrap().start(&host);
        let unread = running.events();
        is_over_memory(&running.wait(), "sh", 40);
        drop(unread);
    });
}

#[test]
fn gp_78_a_limit_in_the_middle_stops_the_rest() {
    checked(|| {
        let stages = pipeline().stdin_null().stage(command(&["yes"])).stage(holds(80, "cat").limits(memory(40)));
        let outcome = run(stages.stage(command(&["cat"])));
        is_over_memory(&outcome, "sh", 40);
        assert_eq!(outcome.stage("cat").unwrap().exit, StageExit::Cancelled);
    });
}

#[test]
fn gp_79_the_limit_is_an_event() {
    checked(|| {
        let host = host();
        let stage = holds(80, "sleep 100").limits(memory(40));
        let mut running = pipeline().stdin_null().stdout_null().stage(stage).build().unwrap().start(&host);
        let mut events = running.events();
        let seen: Vec<_> =
            std::iter::from_fn(|| events.next_blocking()).take_while(|event| *event != Event::Ended).collect();
        is_over_memory(&running.wait(), "sh", 40);
        assert!(seen.iter().any(|event| matches!(event, Event::Limit { which: LimitKind::Memory, .. })), "{seen:?}");
        assert!(matches!(&seen[0], Event::Started { stage, pid: Some(_) } if stage == "sh"), "{seen:?}");
        assert!(seen.iter().any(|event| matches!(event, Event::Stopped { .. })), "{seen:?}");
    });
}

#[test]
fn gp_80_processes_and_processor_time_have_limits_too() {
    checked(|| {
        let limits = LimitsSpec::of("processes", "5").unwrap();
        let many = shell("for i in 1 2 3 4 5 6 7 8; do sleep 100 & done; wait").limits(limits);
        let outcome = run(pipeline().stdin_null().stage(many));
        assert!(
            matches!(outcome.stages[0].exit, StageExit::Limit { which: LimitKind::Processes, limit: Some(5), .. }),
            "{outcome:?}"
        );
        assert_eq!(outcome.exit_code, 137);
        let limits = LimitsSpec::of("cpu_time", "200ms").unwrap();
        let outcome =
            run(pipeline().stdin_null().stage(shell("ulimit -t 60; sh -c 'while :; do :; done'; :").limits(limits)));
        assert!(matches!(outcome.stages[0].exit, StageExit::Limit { which: LimitKind::CpuTime, .. }), "{outcome:?}");
        assert_eq!(outcome.exit_code, 152);
        let limits = LimitsSpec::of("wall_time", "200ms").unwrap();
        let outcome = run(pipeline().stdin_null().stage(command(&["sleep", "100"]).limits(limits)));
        assert!(matches!(outcome.stages[0].exit, StageExit::Limit { which: LimitKind::WallTime, .. }), "{outcome:?}");
        assert_eq!(outcome.exit_code, 124);
        let limits = LimitsSpec::of("open_files", "20").unwrap();
        let (outcome, output) = crate::output(pipeline().stdin_null().stage(shell("ulimit -n").limits(limits)));
        succeeds(&outcome);
        assert_eq!(output, "20\n");
        let place = Place::new();
        let limits = LimitsSpec::of("file_size", "64KiB").unwrap();
        let writes = command(&["head", "-c", "1000000", "/dev/zero"]).limits(limits);
        let outcome =
            pipeline().base(place.path("")).stdin_null().stdout_file("out").stage(writes).build().unwrap().run(&host());
        assert!(matches!(outcome.stages[0].exit, StageExit::Limit { which: LimitKind::FileSize, .. }), "{outcome:?}");
        assert_eq!((outcome.exit_code, place.names().len()), (153, 0));
    });
}

/// A cgroup v2 directory that we may make groups in.
fn delegated() -> Option<std::path::PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mount = mounts.lines().find(|line| line.starts_with("cgroup2 "))?.split(' ').nth(1)?;
    let directory = std::path::Path::new(mount).join(format!("stagehost-test-{}", std::process::id()));
    std::fs::create_dir(&directory).ok()?;
    Some(directory)
}

#[test]
fn gp_85_a_command_starts_inside_a_cgroup() {
    checked(|| {
        let place = Place::new();
        let real = delegated();
        let directory = real.clone().unwrap_or_else(|| {
            // Where the system gives us none, a directory that looks like one is refused.
            place.write("cgroup.procs", "");
            place.path("")
        });
        let options = HostOptions::new().cgroup(directory.clone()).threads(2);
        let shows = shell("cat /proc/self/cgroup >&2; setsid sleep 100 2>/dev/null >/dev/null & sleep 0.2");
        let built =
            pipeline().stdin_null().stdout_null().linger(Duration::from_millis(200)).stage(shows).build().unwrap();
        match (Host::new(&options), &real) {
            (Ok(host), Some(_)) => {
                let outcome = built.run(&host);
                succeeds(&outcome);
                let name = directory.file_name().unwrap().to_string_lossy().into_owned();
                assert!(outcome.stages[0].stderr.contains(&format!("{name}/stagehost-")), "{outcome:?}");
                // What made a session of its own is in the cgroup all the same.
                assert!(outcome.stages[0].notes.iter().any(|note| note.contains("in its cgroup")), "{outcome:?}");
            }
            (Err(error), None) => assert!(error.to_string().contains("is no cgroup"), "{error}"),
            (host, _) => panic!("{host:?}"),
        }
        if let Some(directory) = real {
            std::fs::remove_dir(directory).unwrap();
        }
    });
}
