//! Row 47 end to end: the blame table, under go-pipe's rules and under ours.

use stagehost::{
    Event, Stage, function,
    spec::{BrokenPipe, OnFailure},
};
use stagehost_tests::leaks::checked;
use tokio::sync::oneshot;

use crate::{host, pipeline};

/// How a stage of the table ends.
fn ending(word: &str) -> function::Result {
    match word {
        "ok" => Ok(()),
        "FE" => Err(function::FinishedEarly.into()),
        failure => Err(function::Error::msg(failure.to_owned())),
    }
}

/// Runs stages that end as `row` says, one after the other from the first to the last, and returns the blamed one's word.
fn blamed(row: &str, broken_pipe: BrokenPipe, on_failure: OnFailure) -> String {
    let words: Vec<String> = row.split(',').map(str::to_owned).collect();
    let mut turns = Vec::new();
    let mut builder = pipeline().stdin_null().stdout_null().on_failure(on_failure);
    for (index, word) in words.iter().cloned().enumerate() {
        let (turn, mine) = oneshot::channel::<()>();
        turns.push(turn);
        let stage = Stage::asynchronous_once(format!("{index}"), move |_, _| async move {
            // An error means that nobody gives turns any more.
            let _ = mine.await;
            ending(&word)
        });
        builder = builder.stage(stage.broken_pipe(broken_pipe));
    }
    let host = host();
    let mut running = builder.build().unwrap().start(&host);
    let mut events = running.events();
    let mut exited = Vec::new();
    for (index, turn) in turns.into_iter().enumerate() {
        // It may have been stopped meanwhile.
        let _ = turn.send(());
        // Once one has failed, those behind it are stopped without waiting for their turn.
        while !exited.contains(&index.to_string()) {
            match events.next_blocking() {
                Some(Event::Exited { stage, .. }) => exited.push(stage),
                Some(Event::Ended) | None => break,
                Some(_) => {}
            }
        }
    }
    let outcome = running.wait();
    match outcome.blamed {
        None => "ok".into(),
        Some(name) => words[name.parse::<usize>().unwrap()].clone(),
    }
}

/// The rows of the table that need no broken pipe, end to end; the rule itself is tested with all of them where it stands.
#[test]
fn the_blame_tables_rows_without_broken_pipes() {
    checked(|| {
        for (row, expected) in [
            ("ok,ok,ok", "ok"),
            ("e1", "e1"),
            ("ok,e1,ok", "e1"),
            ("ok,e1,e2,ok", "e1"),
            ("ok,e1,ok,e2,ok", "e1"),
            ("ok,FE,ok,FE,ok", "ok"),
            ("e1,FE", "e1"),
            ("FE,e1", "e1"),
        ] {
            assert_eq!(blamed(row, BrokenPipe::Error, OnFailure::Drain), expected, "{row}, go-pipe's rules");
            assert_eq!(blamed(row, BrokenPipe::Excuse, OnFailure::Cancel), expected, "{row}, our rules");
        }
    });
}

/// Rows with real broken pipes: the last stage ends first, so that the ones before it cannot write.
#[test]
fn the_blame_tables_rows_with_broken_pipes() {
    checked(|| {
        let endless = |broken_pipe| crate::command(&["yes"]).broken_pipe(broken_pipe);
        let passes = |name: &str, broken_pipe| crate::command(&["cat"]).name(name).broken_pipe(broken_pipe);
        let early = || {
            Stage::blocking("early", |input, _| {
                std::io::Read::read_exact(input, &mut [0; 2])?;
                Err(function::FinishedEarly.into())
            })
        };
        for broken_pipe in [BrokenPipe::Excuse, BrokenPipe::Error] {
            // P,FE and P,P,FE.
            crate::succeeds(&crate::run(pipeline().stdin_null().stage(endless(broken_pipe)).stage(early())));
            let chain = pipeline().stdin_null().stage(endless(broken_pipe)).stage(passes("a", broken_pipe));
            crate::succeeds(&crate::run(chain.stage(early())));
            // P,e1: the failure counts.
            let fails = crate::shell("head -n 1; exit 7");
            let outcome = crate::run(pipeline().stdin_null().stage(endless(broken_pipe)).stage(fails));
            assert_eq!((outcome.exit_code, outcome.blamed.as_deref()), (7, Some("sh")), "{outcome:?}");
            // P,P,P,ok: by our rule a good reader excuses, by go-pipe's it does not.
            let chain = pipeline().stdin_null().on_failure(OnFailure::Drain);
            let chain =
                chain.stage(endless(broken_pipe)).stage(passes("a", broken_pipe)).stage(passes("b", broken_pipe));
            let outcome = crate::run(chain.stage(crate::command(&["head", "-n", "1"])));
            assert_eq!(outcome.success, broken_pipe == BrokenPipe::Excuse, "{outcome:?}");
        }
    });
}

/// The first failure stops the rest; `drain` lets it finish.
#[test]
fn a_failure_cancels_or_drains() {
    checked(|| {
        let slow = || crate::shell("sleep 100");
        let outcome = crate::run(pipeline().stdin_null().stage(crate::command(&["false"])).stage(slow()));
        assert_eq!(outcome.stages[1].exit, stagehost::StageExit::Cancelled, "{outcome:?}");
        let drained = pipeline().stdin_null().on_failure(OnFailure::Drain).stage(crate::command(&["false"]));
        let outcome = crate::run(drained.stage(crate::shell("cat; exit 0")));
        assert_eq!(outcome.stages[1].exit, stagehost::StageExit::Ok, "{outcome:?}");
        assert_eq!(outcome.blamed.as_deref(), Some("false"));
    });
}
