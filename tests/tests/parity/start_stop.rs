//! Rows 1 to 37: starting, stopping, and what is owned meanwhile.

use std::{
    io::{Read, Write},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use stagehost::{
    Event, Stage, StageExit, function,
    spec::{BrokenPipe, Ignore},
};
use stagehost_tests::{Place, guests::probe, leaks::checked};

use crate::{
    NeverEnds, check, command, copy, count_to, fails, host, output, pipeline, recorder, run, shell, succeeds,
    unstartable,
};

#[test]
fn gp_01_no_stages_and_no_ends_succeed() {
    checked(|| succeeds(&run(pipeline().stdin_null())));
}

#[test]
fn gp_02_without_stages_stdin_is_copied_to_stdout() {
    checked(|| {
        let (writer, fate) = recorder();
        let built = pipeline().stdin_bytes("hello world\n").stdout_writer(writer).build().unwrap();
        succeeds(&built.run(&host()));
        assert_eq!(fate.bytes(), b"hello world\n");
    });
}

#[test]
fn gp_03_the_same_is_captured() {
    checked(|| check(pipeline().stdin_bytes("hello world\n"), "hello world\n"));
}

#[test]
fn gp_04_a_closing_writer_is_closed() {
    checked(|| {
        let (writer, fate) = recorder();
        let built = pipeline().stdin_bytes("hello world\n").stdout_writer(writer).build().unwrap();
        succeeds(&built.run(&host()));
        assert_eq!((fate.bytes(), fate.shut_down(), fate.dropped()), (b"hello world\n".to_vec(), 1, 1));
    });
}

#[test]
fn gp_05_the_first_stage_fails_to_start() {
    checked(|| {
        let place = Place::new();
        let (writer, fate) = recorder();
        let marker = place.path("second");
        let built = pipeline()
            .stdin_null()
            .stage(unstartable(&place, "first"))
            .stage(shell(&format!("touch {}", marker.display())))
            .stdout_writer(writer)
            .build()
            .unwrap();
        let outcome = built.run(&host());
        assert_eq!((outcome.blamed.as_deref(), outcome.exit_code), (Some("first"), 127), "{outcome:?}");
        assert!(matches!(outcome.stages[0].exit, StageExit::StartFailed { .. }), "{outcome:?}");
        assert!(!marker.exists());
        assert_eq!(fate.dropped(), 1);
    });
}

#[test]
fn gp_06_the_first_failure_to_start_is_the_runs() {
    checked(|| {
        let place = Place::new();
        let outcome =
            run(pipeline().stdin_null().stage(unstartable(&place, "first")).stage(unstartable(&place, "second")));
        assert_eq!(outcome.blamed.as_deref(), Some("first"), "{outcome:?}");
        assert_eq!(outcome.stage("second").unwrap().exit, StageExit::Cancelled);
    });
}

#[test]
fn gp_07_a_producer_is_unblocked_when_its_reader_fails_to_start() {
    checked(|| {
        let place = Place::new();
        let outcome = run(pipeline().stdin_null().stage(count_to(1_000_000)).stage(unstartable(&place, "second")));
        assert_eq!((outcome.blamed.as_deref(), outcome.exit_code), (Some("second"), 127), "{outcome:?}");
        // More than any pipe holds: it was in the middle of it.
        let exit = &outcome.stages[0].exit;
        assert!(matches!(exit, StageExit::BrokenPipe | StageExit::Cancelled), "{exit:?}");
        assert!(outcome.duration_ms < 20_000, "{outcome:?}");
    });
}

#[test]
fn gp_08_a_failing_middle_stage_closes_all_ends() {
    checked(|| {
        let (writer, fate) = recorder();
        let never = Stage::blocking("never", |input, output| Ok(std::io::copy(input, output).map(|_| ())?));
        let reader = NeverEnds { bytes: b"some bytes", fate: crate::Fate::default() };
        let read_fate = reader.fate.clone();
        let built = pipeline()
            .stdin_reader(reader)
            .stage(copy("first"))
            .stage(fails("the middle failed"))
            .stage(never)
            .stdout_writer(writer)
            .build()
            .unwrap();
        let outcome = built.run(&host());
        assert_eq!(outcome.message, "stage `fails` failed: the middle failed", "{outcome:?}");
        assert_eq!((fate.dropped(), read_fate.dropped()), (1, 1));
    });
}

#[test]
fn gp_09_a_commands_output_is_captured() {
    checked(|| check(pipeline().stdin_null().stage(command(&["echo", "hello", "world"])), "hello world\n"));
}

#[test]
fn gp_10_a_commands_output_goes_to_a_writer() {
    checked(|| {
        let (writer, fate) = recorder();
        let built =
            pipeline().stdin_null().stage(command(&["echo", "hello", "world"])).stdout_writer(writer).build().unwrap();
        succeeds(&built.run(&host()));
        assert_eq!((fate.bytes(), fate.shut_down()), (b"hello world\n".to_vec(), 1));
    });
}

#[test]
fn gp_11_an_input_pipe_that_stays_open_holds_nothing_up() {
    checked(|| {
        let (reader, writer) = std::io::pipe().unwrap();
        let place = Place::new();
        let output = place.shorthand("true").stdin(reader).done().code(0);
        assert!(output.took < Duration::from_secs(5), "{output}");
        drop(writer);
    });
}

/// go-pipe deadlocks here.
#[test]
fn gp_12_a_reader_that_never_ends_holds_nothing_up() {
    checked(|| {
        for bytes in [&b""[..], b"some"] {
            let reader = NeverEnds { bytes, fate: crate::Fate::default() };
            let fate = reader.fate.clone();
            let outcome = run(pipeline().stdin_reader(reader).stage(command(&["true"])));
            succeeds(&outcome);
            assert!(outcome.duration_ms < 5_000, "{outcome:?}");
            assert_eq!(fate.dropped(), 1);
        }
    });
}

#[test]
fn gp_13_one_command_reads_another() {
    checked(|| {
        let stages = pipeline().stdin_null().stage(command(&["echo", "hello world"]));
        check(stages.stage(command(&["sed", "s/hello/goodbye/"])), "goodbye world\n");
    });
}

fn slow_consumer(piece: usize, pause: Duration, stage: Stage) {
    let (mut writer, fate) = recorder();
    writer.pause = Some((piece, pause));
    let built = pipeline().stdin_null().stage(stage).stdout_writer(writer).build().unwrap();
    let outcome = built.run(&host());
    succeeds(&outcome);
    let bytes = fate.bytes();
    assert_eq!((bytes.len(), fate.shut_down()), (292, 1));
    assert!(bytes.ends_with(b"99\n100\n"));
}

#[test]
fn gp_14_a_consumer_that_sleeps_gets_everything() {
    checked(|| slow_consumer(64 << 10, Duration::from_millis(200), command(&["seq", "100"])));
}

#[test]
fn gp_15_a_consumer_of_a_byte_at_a_time_gets_everything() {
    checked(|| slow_consumer(1, Duration::from_millis(1), command(&["seq", "100"])));
}

#[test]
fn gp_16_so_does_one_behind_a_function() {
    checked(|| slow_consumer(1, Duration::from_millis(1), count_to(100)));
}

#[test]
fn gp_17_an_empty_command_is_refused_when_the_file_is_read() {
    let refused = stagehost::spec::parse(br#"{"version": 1, "stages": [{"command": []}]}"#).unwrap_err();
    assert_eq!((refused.place.as_str(), refused.message.as_str()), ("stages[0].command", "the command is empty"));
    assert!(pipeline().stage(command(&[])).build().is_err());
}

#[test]
fn gp_18_dir_is_where_a_command_runs() {
    checked(|| {
        let place = Place::new();
        let directory = std::fs::canonicalize(place.path("")).unwrap().display().to_string();
        check(pipeline().stdin_null().stage(command(&["pwd"]).dir(&directory)), &format!("{directory}\n"));
    });
}

#[test]
fn gp_19_a_failing_first_stage_is_to_blame() {
    checked(|| {
        let outcome = run(pipeline().stdin_null().stage(command(&["false"])).stage(command(&["true"])));
        assert_eq!((outcome.blamed.as_deref(), outcome.exit_code), (Some("false"), 1), "{outcome:?}");
    });
}

#[test]
fn gp_20_the_blamed_stages_stderr_is_in_the_report() {
    checked(|| {
        let outcome = run(pipeline().stdin_null().stage(command(&["ls", "doesnotexist"])));
        assert_eq!((outcome.blamed.as_deref(), outcome.exit_code), (Some("ls"), 2), "{outcome:?}");
        assert!(outcome.stages[0].stderr.contains("doesnotexist"), "{outcome:?}");
    });
}

#[test]
fn gp_21_a_deadline_is_a_time_limit() {
    checked(|| {
        let outcome = run(pipeline().stdin_null().stage(command(&["sleep", "10"])).timeout(Duration::from_millis(20)));
        assert!(outcome.timed_out && outcome.exit_code == 124, "{outcome:?}");
        assert!(outcome.duration_ms < 5_000, "{outcome:?}");
    });
}

#[test]
fn gp_22_a_cancelled_run_is_cancelled() {
    checked(|| {
        let host = host();
        let mut running =
            pipeline().stdin_null().stdout_null().stage(command(&["sleep", "10"])).build().unwrap().start(&host);
        let mut events = running.events();
        assert!(matches!(events.next_blocking(), Some(Event::Started { .. })));
        running.cancel();
        let outcome = running.wait();
        assert_eq!((outcome.success, outcome.message.as_str()), (false, "the run was cancelled"), "{outcome:?}");
        assert_eq!(outcome.stages[0].exit, StageExit::Cancelled);
    });
}

/// A cancelled or timed-out run is never a success, even if a command traps SIGTERM and exits with 0.
#[test]
fn a_command_that_turns_a_stop_into_success_does_not() {
    checked(|| {
        let stubborn = shell("trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done");
        let outcome = run(pipeline().stdin_null().stage(stubborn).timeout(Duration::from_millis(300)));
        assert!(!outcome.success && outcome.timed_out, "{outcome:?}");
    });
}

#[test]
fn gp_23_what_fits_in_a_pipe_needs_no_reader() {
    checked(|| succeeds(&run(pipeline().stdin_null().stage(shell("sleep 1; echo foo")).stage(command(&["true"])))));
}

#[test]
fn gp_24_what_does_not_fit_ends_by_a_broken_pipe() {
    checked(|| {
        let outcome = run(pipeline().stdin_null().stage(command(&["seq", "10000000"])).stage(command(&["true"])));
        succeeds(&outcome);
        assert_eq!(outcome.stages[0].exit, StageExit::BrokenPipe, "{outcome:?}");
        assert!(outcome.duration_ms < 10_000);
        // go-pipe's own rule.
        let strict = command(&["seq", "10000000"]).broken_pipe(BrokenPipe::Error);
        let outcome = run(pipeline().stdin_null().stage(strict).stage(command(&["true"])));
        assert_eq!((outcome.blamed.as_deref(), outcome.exit_code), (Some("seq"), 141), "{outcome:?}");
    });
}

#[test]
fn gp_25_an_ignored_broken_pipe_is_no_failure() {
    checked(|| {
        let ignoring = command(&["seq", "10000000"]).broken_pipe(BrokenPipe::Error).ignore(Ignore::BrokenPipe);
        check(pipeline().stdin_null().stage(ignoring).stage(command(&["echo", "foo"])), "foo\n");
    });
}

#[test]
fn gp_26_a_function_sees_a_broken_pipe() {
    checked(|| {
        let outcome = run(pipeline().stdin_null().stage(count_to(5_000_000)).stage(command(&["true"])));
        succeeds(&outcome);
        assert_eq!(outcome.stages[0].exit, StageExit::BrokenPipe, "{outcome:?}");
        assert!(outcome.duration_ms < 10_000, "{outcome:?}");
        // Sandboxed, the same: an endless writer ends.
        let outcome = run(pipeline()
            .stdin_null()
            .stage(Stage::wasm(probe()).args(["report-broken-pipe"]))
            .stage(command(&["true"])));
        succeeds(&outcome);
        assert_eq!(outcome.stages[0].exit, StageExit::BrokenPipe, "{outcome:?}");
    });
}

/// A broken pipe of the function's own, such as a socket's, is a failure like any other.
#[test]
fn another_broken_pipe_excuses_nothing() {
    checked(|| {
        let place = Place::new();
        let fetches = Stage::blocking("fetches", |_, output| {
            output.write_all(b"half of it\n")?;
            Err(std::io::Error::from(std::io::ErrorKind::BrokenPipe).into())
        });
        let stages = pipeline().base(place.path("")).stdin_null().stage(fetches).stage(command(&["sort"]));
        let outcome = stages.stdout_file("out").build().unwrap().run(&host());
        assert_eq!((outcome.exit_code, outcome.blamed.as_deref()), (1, Some("fetches")), "{outcome:?}");
        assert!(place.names().is_empty());
    });
}

#[test]
fn gp_27_a_function_may_go_on_after_a_broken_pipe() {
    checked(|| {
        let reached = Arc::new(AtomicU32::new(0));
        let counter = reached.clone();
        let counts = Stage::blocking("counts", move |_, output| {
            let mut open = true;
            for number in 1..=100_000_u32 {
                open = open && writeln!(output, "{number} {}", "x".repeat(100)).is_ok();
                counter.store(number, SeqCst);
            }
            assert!(!open);
            Ok(())
        });
        succeeds(&run(pipeline().stdin_null().stage(counts).stage(command(&["true"]))));
        assert_eq!(reached.load(SeqCst), 100_000);
    });
}

#[test]
fn gp_28_a_function_that_reads_all_and_answers() {
    checked(|| {
        let answers = Stage::blocking("answers", |input, output| {
            let mut text = String::new();
            input.read_to_string(&mut text)?;
            assert_eq!(text, "hello world");
            Ok(write!(output, "goodbye, world")?)
        });
        check(pipeline().stdin_bytes("hello world").stage(answers), "goodbye, world");
    });
}

#[test]
fn gp_29_a_panics_message_is_in_the_report() {
    checked(|| {
        let panics = Stage::blocking("panics", |_, _| panic!("this is what went wrong"));
        let outcome = run(pipeline().stdin_null().stage(panics));
        assert_eq!((outcome.exit_code, outcome.blamed.as_deref()), (134, Some("panics")), "{outcome:?}");
        assert_eq!(outcome.message, "stage `panics` panicked: this is what went wrong");
        let number = 7;
        let panics = Stage::asynchronous("panics", move |_, _| async move { panic!("async {number}") });
        assert_eq!(run(pipeline().stdin_null().stage(panics)).message, "stage `panics` panicked: async 7");
    });
}

#[test]
fn gp_30_a_matcher_that_does_not_match_changes_nothing() {
    checked(|| {
        let panics = || Stage::blocking("panics", |_, _| panic!("this is what went wrong"));
        let other = panics().ignore_if(|exit| matches!(exit, StageExit::BrokenPipe));
        let outcome = run(pipeline().stdin_null().stage(other));
        assert_eq!(outcome.message, "stage `panics` panicked: this is what went wrong");
        let same = panics().ignore_if(|exit| matches!(exit, StageExit::Trap { .. }));
        succeeds(&run(pipeline().stdin_null().stage(same)));
    });
}

#[test]
fn gp_31_a_function_between_commands() {
    checked(|| {
        let stages = pipeline().stdin_null().stage(command(&["printf", "hello world"])).stage(copy("f"));
        check(stages.stage(command(&["tr", "a-z", "A-Z"])), "HELLO WORLD");
        // The same with a sandboxed stage.
        let stages =
            pipeline().stdin_null().stage(command(&["printf", "hello world"])).stage(Stage::wasm("builtin:cat"));
        check(stages.stage(command(&["tr", "a-z", "A-Z"])), "HELLO WORLD");
    });
}

#[test]
fn gp_32_lines_and_words() {
    checked(|| {
        let filter = Stage::blocking(
            "filter",
            function::lines(|line, output| {
                if line.ends_with(b"5") || line.ends_with(b"0") {
                    writeln!(output, "{}", String::from_utf8_lossy(line))?;
                }
                Ok(())
            }),
        );
        let squares = Stage::blocking(
            "squares",
            function::tokens(function::words(), |word, output| {
                let number: u64 = std::str::from_utf8(word)?.parse()?;
                Ok(writeln!(output, "{}", number * number)?)
            }),
        );
        check(pipeline().stdin_null().stage(count_to(20)).stage(filter).stage(squares), "25\n100\n225\n400\n");
    });
}

fn up_to_seven(error: fn() -> function::Error) -> Stage {
    Stage::blocking(
        "up-to-seven",
        function::lines(move |line, output| {
            writeln!(output, "{}", String::from_utf8_lossy(line))?;
            if line == b"7" { Err(error()) } else { Ok(()) }
        }),
    )
}

#[test]
fn gp_33_what_a_failing_line_stage_wrote_reached_the_next() {
    checked(|| {
        let ignoring = up_to_seven(|| function::Error::msg("enough"))
            .ignore_if(|exit| matches!(exit, StageExit::Failed { message } if message == "enough"));
        let (outcome, output) = output(pipeline().stdin_null().stage(count_to(20)).stage(ignoring).stage(copy("next")));
        succeeds(&outcome);
        assert_eq!(output, "1\n2\n3\n4\n5\n6\n7\n");
    });
}

#[test]
fn gp_34_the_same_when_it_finished_early() {
    checked(|| {
        let early = up_to_seven(|| function::FinishedEarly.into());
        let (outcome, output) = output(pipeline().stdin_null().stage(count_to(20)).stage(early).stage(copy("next")));
        succeeds(&outcome);
        assert_eq!(output, "1\n2\n3\n4\n5\n6\n7\n");
        assert_eq!(outcome.stages[1].exit, StageExit::FinishedEarly);
    });
}

#[test]
fn gp_35_a_line_as_a_source() {
    checked(|| check(pipeline().stdin_null().stage(Stage::blocking("line", function::text("hello\n"))), "hello\n"));
}

#[test]
fn gp_36_a_formatted_text_as_a_source() {
    checked(|| {
        let text = Stage::blocking("text", function::text(format!("{}-{:03}", "a", 7)));
        check(pipeline().stdin_null().stage(text).stage(command(&["cat"])), "a-007");
    });
}

#[test]
fn gp_37_a_source_without_stdout() {
    checked(|| succeeds(&run(pipeline().stdin_null().stage(Stage::blocking("line", function::text("hello\n"))))));
}
