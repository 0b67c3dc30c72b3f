//! Rows 49 to 56: who owns the ends, and what becomes of them.

use std::time::Duration;

use stagehost::{Event, lend};
use stagehost_tests::{Place, leaks::checked};

use crate::{Fate, NeverEnds, command, copy, host, pipeline, recorder, run, succeeds, unstartable};

fn reader(bytes: &'static [u8]) -> (NeverEnds, Fate) {
    let fate = Fate::default();
    (NeverEnds { bytes, fate: fate.clone() }, fate)
}

#[test]
fn gp_49_a_run_closes_what_it_owns_and_only_that() {
    checked(|| {
        for (owns_reader, owns_writer) in [(true, true), (true, false), (false, true), (false, false)] {
            let ((source, read), (sink, written)) = (reader(b"x"), recorder());
            let (mut lent_reader, mut lent_writer) = (None, None);
            let mut builder = pipeline().stage(command(&["head", "-c", "1"]));
            builder = if owns_reader {
                builder.stdin_reader(source)
            } else {
                let (lent, back) = lend(source);
                lent_reader = Some(back);
                builder.stdin_reader(lent)
            };
            builder = if owns_writer {
                builder.stdout_writer(sink)
            } else {
                let (lent, back) = lend(sink);
                lent_writer = Some(back);
                builder.stdout_writer(lent)
            };
            succeeds(&builder.build().unwrap().run(&host()));
            assert_eq!(written.bytes(), b"x");
            assert_eq!(read.dropped(), u32::from(owns_reader), "{owns_reader} {owns_writer}");
            assert_eq!((written.dropped(), written.shut_down()), (u32::from(owns_writer), u32::from(owns_writer)));
            // What was lent comes back.
            assert!(lent_reader.is_none_or(|back| back.take().is_some()));
            assert!(lent_writer.is_none_or(|back| back.take().is_some()));
        }
    });
}

#[test]
fn gp_50_closing_happens_once() {
    checked(|| {
        let (writer, fate) = recorder();
        let host = host();
        let mut running =
            pipeline().stdin_bytes("x").stage(copy("f")).stdout_writer(writer).build().unwrap().start(&host);
        let mut events = running.events();
        while events.next_blocking().is_some_and(|event| event != Event::Ended) {}
        // Stopping what has ended changes nothing.
        running.cancel();
        running.cancel();
        succeeds(&running.wait());
        assert_eq!((fate.shut_down(), fate.dropped()), (1, 1));
    });
}

#[test]
fn gp_51_a_command_with_an_owned_end_that_is_no_file_closes_it() {
    checked(|| {
        let ((source, read), (sink, written)) = (reader(b"text"), recorder());
        let stage = command(&["head", "-c", "4"]);
        succeeds(&pipeline().stdin_reader(source).stage(stage).stdout_writer(sink).build().unwrap().run(&host()));
        assert_eq!((read.dropped(), written.shut_down(), written.dropped()), (1, 1, 1));
        assert_eq!(written.bytes(), b"text");
    });
}

#[test]
fn gp_52_a_command_with_a_lent_end_that_is_no_file_leaves_it_open() {
    checked(|| {
        let ((source, read), (sink, written)) = (reader(b"text"), recorder());
        let ((source, source_back), (sink, sink_back)) = (lend(source), lend(sink));
        let stage = command(&["head", "-c", "4"]);
        succeeds(&pipeline().stdin_reader(source).stage(stage).stdout_writer(sink).build().unwrap().run(&host()));
        assert_eq!((read.dropped(), written.shut_down(), written.dropped()), (0, 0, 0));
        assert!(source_back.take().is_some() && sink_back.take().is_some());
        assert_eq!(written.bytes(), b"text");
    });
}

#[test]
fn gp_53_fifty_failing_starts_touch_nothing() {
    checked(|| {
        let place = Place::new();
        let host = host();
        for _ in 0..50 {
            let built = pipeline().stdin_null().stage(unstartable(&place, "program")).build().unwrap();
            let (outcome, output) = built.output(&host, 1000).wait();
            assert_eq!((outcome.exit_code, output.len()), (127, 0), "{outcome:?}");
        }
    });
}

#[test]
fn gp_54_a_failing_start_closes_what_the_run_owns() {
    checked(|| {
        let place = Place::new();
        let ((source, read), (sink, written)) = (reader(b""), recorder());
        let built = pipeline().stdin_reader(source).stage(unstartable(&place, "program")).stdout_writer(sink).build();
        assert_eq!(built.unwrap().run(&host()).exit_code, 127);
        assert_eq!((read.dropped(), written.dropped()), (1, 1));
        assert_eq!(written.bytes(), b"");
    });
}

#[test]
fn gp_55_an_output_file_is_the_commands_own_stdout() {
    checked(|| {
        let place = Place::new();
        let out = place.path("out");
        let stage = command(&["sh", "-c", "exec 3>&1; readlink /proc/self/fd/3 >&2; echo written"]);
        place.write(
            "p.json",
            r#"{"version": 1, "stdin": "null", "stdout": {"file": "out", "atomic": false},
                "stages": [{"command": ["sh", "-c", "exec 3>&1; readlink /proc/self/fd/3 >&2; echo written"]}]}"#,
        );
        let said = place.stagehost(["run", "p.json"]).done().code(0);
        assert_eq!(said.error_text().trim(), std::fs::canonicalize(&out).unwrap().display().to_string());
        assert_eq!(place.read("out"), "written\n");
        // An atomic output has no name yet, but it is a file in that very directory.
        let atomic = pipeline().base(place.path("")).stdin_null().stdout_file("whole").stage(stage).build().unwrap();
        let outcome = atomic.run(&host());
        succeeds(&outcome);
        let directory = std::fs::canonicalize(place.path("")).unwrap().display().to_string();
        assert!(outcome.stages[0].stderr.starts_with(&directory), "{outcome:?}");
        assert_eq!(place.read("whole"), "written\n");
    });
}

#[test]
fn gp_56_so_is_it_through_a_pipeline() {
    checked(|| {
        let place = Place::new();
        let shows = command(&["sh", "-c", "cat; exec 3>&1; readlink /proc/self/fd/3 >&2"]);
        let built = pipeline().base(place.path("")).stdin_bytes("x").stage(copy("f")).stage(shows).stdout_file("out");
        let outcome = built.build().unwrap().run(&host());
        succeeds(&outcome);
        let directory = std::fs::canonicalize(place.path("")).unwrap().display().to_string();
        assert!(outcome.stages[1].stderr.starts_with(&directory), "{outcome:?}");
        assert_eq!(place.read("out"), "x");
    });
}

/// Captured output has a bound.
#[test]
fn more_output_than_was_asked_for_is_refused() {
    checked(|| {
        for stage in [command(&["seq", "100000"]), crate::count_to(100_000)] {
            let (outcome, output) = pipeline().stdin_null().stage(stage).build().unwrap().output(&host(), 1000).wait();
            assert!(!outcome.success && outcome.message.contains("more output than the 1000 bytes"), "{outcome:?}");
            assert_eq!(output.len(), 1000);
        }
        let outcome = run(pipeline().stdin_null().stage(command(&["true"])).timeout(Duration::from_secs(60)));
        succeeds(&outcome);
    });
}
