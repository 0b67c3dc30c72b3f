//! Rows 57 to 68: environments, wrappers, and what stays itself.

use stagehost::{
    Event, Pipeline, Policy, Stage, StageExit,
    spec::{Ignore, Requirement},
};
use stagehost_tests::{guests::probe, leaks::checked};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::{command, copy, fails, host, output, pipeline, run, shell, succeeds};

/// A command that prints these variables, a line each.
fn prints(variables: &str) -> Stage {
    shell(&format!("for name in {variables}; do eval \"echo $name=\\${{$name-unset}}\" >&2; done"))
}

fn printed(outcome: &stagehost::Outcome, stage: usize) -> Vec<String> {
    outcome.stages[stage].stderr.lines().map(str::to_owned).collect()
}

#[test]
fn gp_57_the_pipelines_variables_are_everywhere_a_stages_only_there() {
    checked(|| {
        let stages = pipeline().stdin_null().env("ALL", "1").stage(prints("ALL OWN").name("a").env("OWN", "2"));
        let outcome = run(stages.stage(prints("ALL OWN").name("b")));
        assert_eq!(printed(&outcome, 0), ["ALL=1", "OWN=2"]);
        assert_eq!(printed(&outcome, 1), ["ALL=1", "OWN=unset"]);
    });
}

#[test]
fn gp_58_a_stages_variable_wins() {
    checked(|| {
        let outcome = run(pipeline().stdin_null().env("NAME", "pipeline").stage(prints("NAME").env("NAME", "stage")));
        assert_eq!(printed(&outcome, 0), ["NAME=stage"]);
    });
}

#[test]
fn gp_59_each_stage_sees_the_base_and_its_own() {
    checked(|| {
        let base = pipeline().stdin_null().env("A", "a").env("B", "b").env("C", "c");
        let one = prints("A B C D").name("one").env("A", "one").env("D", "d1");
        let two = prints("A B C D").name("two").env("B", "two").env("D", "d2");
        let outcome = run(base.stage(one).stage(two));
        assert_eq!(printed(&outcome, 0), ["A=one", "B=b", "C=c", "D=d1"]);
        assert_eq!(printed(&outcome, 1), ["A=a", "B=two", "C=c", "D=d2"]);
    });
}

#[test]
fn gp_60_variables_reach_commands_and_sandboxed_stages() {
    checked(|| {
        let outcome = run(pipeline().stdin_null().stage(prints("NAME").env("NAME", "value")));
        assert_eq!(printed(&outcome, 0), ["NAME=value"]);
        // A sandboxed stage sees what the pipeline gives it and nothing of the host's.
        let (outcome, seen) =
            output(pipeline().stdin_null().stage(Stage::wasm(probe()).args(["env"]).env("NAME", "value")));
        succeeds(&outcome);
        assert_eq!(seen, "NAME=value\n");
    });
}

fn wrapped() -> Stage {
    command(&["true"])
        .name("wrapped")
        .requires(Requirement::Forbid, Requirement::PreferFile)
        .env("A", "1")
        .ignore(Ignore::Exit(3))
        .ignore_if(|_| false)
}

#[test]
fn gp_61_wrapping_keeps_the_name() {
    let built = pipeline().stdin_null().stdout_null().stage(wrapped()).build().unwrap();
    assert_eq!(built.plan().summary().stages[0].name, "wrapped");
}

#[test]
fn gp_62_wrapping_keeps_the_requirements() {
    assert!(pipeline().stdin_bytes("x").stdout_null().stage(wrapped()).build().is_err());
    assert!(pipeline().stdin_null().stdout_null().stage(wrapped()).build().is_ok());
}

#[test]
fn gp_63_wrapping_keeps_the_process() {
    checked(|| {
        let host = host();
        let sleeps = command(&["sleep", "100"]).name("wrapped").env("A", "1").ignore(Ignore::Signal(9));
        let mut running = pipeline().stdin_null().stdout_null().stage(sleeps).build().unwrap().start(&host);
        let mut events = running.events();
        let Some(Event::Started { pid: Some(pid), .. }) = events.next_blocking() else { panic!("it was not started") };
        // The event is sent when it runs; the handle is there as soon as the run has it.
        let process = loop {
            if let Some(process) = running.process("wrapped") {
                break process;
            }
            std::thread::yield_now();
        };
        assert_eq!(process.id(), pid);
        process.signal(9);
        let outcome = running.wait();
        succeeds(&outcome);
        assert_eq!(outcome.stages[0].exit, StageExit::Signal { signal: 9 });
        // Nobody's id any more: harmless.
        process.signal(9);
    });
}

/// go-pipe crashes here, by design.
#[test]
fn gp_64_no_trap_or_panic_takes_the_host_down() {
    checked(|| {
        let host = host();
        for stage in [
            Stage::blocking("panics", |_, _| panic!("in a function")),
            Stage::asynchronous("panics", |_, _| async { panic!("in an asynchronous function") }),
            Stage::asynchronous("panics", |_, _| -> std::future::Ready<stagehost::function::Result> {
                panic!("before it began")
            }),
            Stage::wasm(probe()).name("panics").args(["panic", "7"]),
        ] {
            let stages = pipeline().stdin_bytes("x").stdout_null().stage(copy("f")).stage(stage).stage(copy("g"));
            let outcome = stages.build().unwrap().run(&host);
            assert_eq!((outcome.exit_code, outcome.blamed.as_deref()), (134, Some("panics")), "{outcome:?}");
        }
        succeeds(&pipeline().stdin_null().stdout_null().stage(copy("f")).build().unwrap().run(&host));
    });
}

/// A reader that writes down where it was asked to put its bytes.
struct Watched(std::sync::Arc<std::sync::Mutex<Vec<usize>>>, bool);

impl AsyncRead for Watched {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        if !std::mem::replace(&mut self.1, true) {
            self.0.lock().unwrap().push(buffer.initialize_unfilled().as_ptr() as usize);
            buffer.put_slice(b"no copy");
        }
        std::task::Poll::Ready(Ok(()))
    }
}

#[test]
fn gp_65_a_function_gets_the_callers_own_reader() {
    checked(|| {
        let (asked, wanted) = (std::sync::Arc::default(), std::sync::Arc::new(std::sync::Mutex::new(Vec::new())));
        let reader = Watched(std::sync::Arc::clone(&asked), false);
        let mine = wanted.clone();
        let reads = Stage::asynchronous_once("reads", move |mut input, _| async move {
            let mut own = [0; 32];
            mine.lock().unwrap().push(own.as_ptr() as usize);
            let n = input.read(&mut own).await?;
            assert_eq!(&own[..n], b"no copy");
            Ok(())
        });
        succeeds(
            &Pipeline::builder(Policy::allow_all())
                .stdin_reader(reader)
                .stdout_null()
                .stage(reads)
                .build()
                .unwrap()
                .run(&host()),
        );
        // The reader put its bytes into the function's own buffer.
        assert_eq!(*asked.lock().unwrap(), *wanted.lock().unwrap());
    });
}

#[test]
fn gp_66_dropping_what_was_never_started_is_harmless() {
    checked(|| {
        let (writer, fate) = crate::recorder();
        let built = pipeline().stdin_null().stage(command(&["true"])).stage(copy("f")).stdout_writer(writer).build();
        drop(built.unwrap());
        assert_eq!(fate.dropped(), 1);
    });
}

#[test]
fn gp_67_stopping_what_failed_to_start_is_harmless() {
    checked(|| {
        let place = stagehost_tests::Place::new();
        let host = host();
        let stages =
            pipeline().stdin_null().stdout_null().stage(crate::unstartable(&place, "program")).stage(fails("no"));
        let running = stages.build().unwrap().start(&host);
        let control = running.control();
        let outcome = running.wait();
        assert_eq!(outcome.exit_code, 127, "{outcome:?}");
        control.cancel();
        control.kill();
    });
}

#[test]
fn gp_68_environments_are_merged() {
    checked(|| {
        let base = Pipeline::builder(Policy::allow_all()).environment([
            ("PATH".into(), "/usr/local/bin:/usr/bin:/bin".into()),
            (stagehost_tests::leaks::MARK.into(), stagehost_tests::leaks::process_mark().into()),
            ("KEPT".into(), "kept".into()),
            ("OVER".into(), "base".into()),
            ("GONE".into(), "base".into()),
            ("GONE_TOO".into(), "base".into()),
        ]);
        let stage =
            prints("KEPT OVER GONE GONE_TOO EQUALS").env("OVER", "own").env("EQUALS", "a=b=c").env_remove("GONE_TOO");
        let outcome = run(base.stdin_null().env_remove("GONE").stage(stage));
        assert_eq!(printed(&outcome, 0), ["KEPT=kept", "OVER=own", "GONE=unset", "GONE_TOO=unset", "EQUALS=a=b=c"]);
    });
}
