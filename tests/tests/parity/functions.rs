//! What functions do beyond go-pipe's rows: they are released when the run stops, and end within its time.

use std::{
    io::{Read, Write},
    time::Duration,
};

use stagehost::{Stage, StageExit, function};
use stagehost_tests::leaks::checked;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{NeverEnds, check, copy, count_to, host, pipeline, read_all, run, succeeds};

#[test]
fn a_blocked_read_is_released_at_the_deadline() {
    checked(|| {
        let reader = NeverEnds { bytes: b"some", fate: crate::Fate::default() };
        let outcome = run(pipeline()
            .stdin_reader(reader)
            .stage(read_all())
            .timeout(Duration::from_millis(200))
            .kill_after(Duration::from_secs(60)));
        assert!(outcome.timed_out && outcome.stages[0].exit == StageExit::Cancelled, "{outcome:?}");
        assert!(outcome.duration_ms < 30_000, "{outcome:?}");
        assert!(outcome.stages[0].notes.is_empty(), "{outcome:?}");
    });
}

#[test]
fn a_blocked_write_is_released_at_the_deadline() {
    checked(|| {
        let never_reads = Stage::asynchronous("never-reads", |input, _| async move {
            std::future::pending::<()>().await;
            drop(input);
            Ok(())
        });
        let outcome = run(pipeline()
            .stdin_null()
            .stage(count_to(10_000_000))
            .stage(never_reads)
            .timeout(Duration::from_millis(200))
            .kill_after(Duration::from_secs(60)));
        assert!(outcome.timed_out, "{outcome:?}");
        // The reader may be gone a moment before the writer hears of the stop.
        let released = |exit: &StageExit| matches!(exit, StageExit::Cancelled | StageExit::BrokenPipe);
        assert!(outcome.stages.iter().all(|stage| released(&stage.exit)), "{outcome:?}");
        assert!(outcome.duration_ms < 30_000, "{outcome:?}");
    });
}

#[test]
fn a_function_that_does_not_come_back_is_given_up() {
    checked(|| {
        let (give, take) = std::sync::mpsc::sync_channel::<()>(0);
        let stubborn = Stage::blocking_once("stubborn", move |_, _| {
            // Not one of our reads: nobody can release it.
            let _ = take.recv();
            Ok(())
        });
        let limited = pipeline().stdin_null().stage(stubborn).timeout(Duration::from_millis(100));
        let outcome = run(limited.kill_after(Duration::from_millis(100)));
        assert!(outcome.timed_out, "{outcome:?}");
        assert!(outcome.stages[0].notes[0].contains("did not return"), "{outcome:?}");
        drop(give);
    });
}

#[test]
fn an_asynchronous_function_is_a_stage() {
    checked(|| {
        let upper = Stage::asynchronous("upper", |mut input, mut output| async move {
            let mut buffer = vec![0; 1000];
            loop {
                let n = input.read(&mut buffer).await?;
                if n == 0 {
                    return Ok(());
                }
                buffer[..n].make_ascii_uppercase();
                output.write_all(&buffer[..n]).await?;
            }
        });
        check(
            pipeline().stdin_bytes("hello").stage(copy("before")).stage(upper).stage(Stage::wasm("builtin:cat")),
            "HELLO",
        );
    });
}

#[test]
fn a_wall_time_ends_a_function() {
    checked(|| {
        let limits = stagehost::spec::LimitsSpec::of("wall_time", "100ms").unwrap();
        let reader = NeverEnds { bytes: b"", fate: crate::Fate::default() };
        let outcome = run(pipeline().stdin_reader(reader).stage(read_all().limits(limits)));
        assert_eq!((outcome.exit_code, outcome.blamed.as_deref()), (124, Some("read")), "{outcome:?}");
    });
}

#[test]
fn tokenizers_see_every_byte_once() {
    checked(|| {
        let text = "  one two\n\nthree ".repeat(20_000);
        let words = Stage::blocking(
            "words",
            function::tokens(function::words(), |word, output| {
                output.write_all(word)?;
                Ok(output.write_all(b"\n")?)
            }),
        );
        let expected: String = text.split_whitespace().map(|word| format!("{word}\n")).collect();
        check(pipeline().stdin_bytes(text.clone()).stage(words), &expected);
        let lines = Stage::blocking(
            "lines",
            function::lines(|line, output| {
                output.write_all(line)?;
                Ok(output.write_all(b"|")?)
            }),
        );
        let mut expected: String = text.lines().map(|line| format!("{line}|")).collect();
        if text.ends_with('\n') {
            expected.push('|');
        }
        check(pipeline().stdin_bytes(text).stage(lines), &expected);
        let stuck = Stage::blocking("stuck", function::tokens(|_, _| function::Split::Skip(0), |_, _| Ok(())));
        let outcome = run(pipeline().stdin_bytes("x").stage(stuck));
        assert!(outcome.message.contains("must move on"), "{outcome:?}");
    });
}

#[test]
fn dropping_a_run_kills_it() {
    checked(|| {
        let host = host();
        let reader = NeverEnds { bytes: b"", fate: crate::Fate::default() };
        let stages = pipeline().stdin_reader(reader).stage(read_all()).stage(crate::shell("sleep 1000 & sleep 1000"));
        let mut running = stages.stdout_null().build().unwrap().start(&host);
        let mut events = running.events();
        while !matches!(events.next_blocking(), Some(stagehost::Event::Started { pid: Some(_), .. })) {}
        drop(running);
        drop(host);
        // The leak check sees what is left.
    });
}

#[test]
fn many_runs_share_a_host() {
    checked(|| {
        let host = host();
        let running: Vec<_> = (0..50)
            .map(|number| {
                let adds = Stage::blocking("adds", move |input, output| {
                    let mut text = String::new();
                    input.read_to_string(&mut text)?;
                    Ok(write!(output, "{}", text.trim().parse::<u32>()? + number)?)
                });
                let (writer, fate) = crate::recorder();
                let stages = pipeline().stdin_bytes("1000").stage(crate::command(&["cat"])).stage(adds);
                (stages.stdout_writer(writer).build().unwrap().start(&host), fate)
            })
            .collect();
        for (number, (running, fate)) in running.into_iter().enumerate() {
            succeeds(&running.wait());
            assert_eq!(fate.bytes(), format!("{}", 1000 + number).as_bytes());
        }
    });
}
