//! The blame rule: which stage a failed run is down to.

use super::{StageExit, Tolerance, Verdict};
use crate::spec::BrokenPipe;

/// Finds the stage to blame: its index, or `None` if the stages did well.
///
/// From the last stage to the first, with a mark "its reader had what it wanted", which stands from the start if
/// standard output's own reader left (`satisfied`): an exit that is good sets the mark; a broken pipe is excused while the
/// mark stands (under its own `"broken_pipe": "error"` only if its reader ended early), and otherwise counts only if nothing counts
/// yet; any other failure clears the mark and replaces what counted. So a real failure beats a broken pipe, and among
/// real failures the earliest stage wins.
pub(crate) fn blame(stages: &[(&StageExit, &Tolerance)], satisfied: bool) -> Option<usize> {
    let mut mark = satisfied;
    // Whether the mark stands because a reader said that it had enough, which excuses even under `error`.
    let mut had_enough = satisfied;
    let mut counted = None;
    for (index, (exit, tolerance)) in stages.iter().enumerate().rev() {
        match tolerance.judge(exit) {
            Verdict::Good => {
                mark = true;
                had_enough = **exit == StageExit::FinishedEarly;
            }
            Verdict::Cancelled => {}
            Verdict::BrokenPipe if mark && (had_enough || tolerance.broken_pipe != BrokenPipe::Error) => {}
            Verdict::BrokenPipe => counted = counted.or(Some(index)),
            Verdict::Bad => {
                mark = false;
                counted = Some(index);
            }
        }
    }
    counted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Ignore;

    const OK: StageExit = StageExit::Ok;
    const PIPE: StageExit = StageExit::BrokenPipe;
    const STOPPED: StageExit = StageExit::Cancelled;
    const FAIL: StageExit = StageExit::Exit { code: 1 };

    fn check(exits: &[StageExit], expected: Option<usize>) {
        check_with(exits, BrokenPipe::Excuse, false, expected);
    }

    fn check_with(exits: &[StageExit], broken_pipe: BrokenPipe, satisfied: bool, expected: Option<usize>) {
        let tolerance = Tolerance { broken_pipe, ..Tolerance::default() };
        let stages: Vec<_> = exits.iter().map(|exit| (exit, &tolerance)).collect();
        assert_eq!(blame(&stages, satisfied), expected, "{exits:?}");
    }

    #[test]
    fn all_well_blames_nobody() {
        check(&[], None);
        check(&[OK, OK, OK], None);
    }

    #[test]
    fn a_broken_pipe_is_excused_when_the_reader_had_what_it_wanted() {
        check(&[PIPE, PIPE, OK], None);
        check(&[PIPE, OK], None);
        check(&[PIPE, StageExit::FinishedEarly], None);
    }

    #[test]
    fn a_real_failure_beats_a_broken_pipe() {
        check(&[PIPE, FAIL], Some(1));
        check(&[FAIL, PIPE], Some(0));
        check(&[PIPE, FAIL, OK], Some(1));
    }

    #[test]
    fn the_earliest_real_failure_wins() {
        check(&[FAIL, FAIL, OK], Some(0));
        check(&[OK, FAIL, FAIL], Some(1));
    }

    #[test]
    fn a_broken_pipe_alone_counts_without_a_satisfied_reader() {
        check(&[PIPE], Some(0));
        check(&[OK, PIPE, PIPE], Some(2));
        check_with(&[PIPE, PIPE], BrokenPipe::Excuse, true, None);
    }

    #[test]
    fn stopped_stages_are_never_to_blame() {
        check(&[STOPPED, FAIL, STOPPED], Some(1));
        check(&[STOPPED], None);
    }

    #[test]
    fn under_error_a_good_reader_excuses_nothing() {
        check_with(&[PIPE, OK], BrokenPipe::Error, false, Some(0));
        check_with(&[PIPE, StageExit::FinishedEarly], BrokenPipe::Error, false, None);
    }

    #[test]
    fn a_failure_after_the_reader_left_is_excused_only_when_asked() {
        let excused = |broken_pipe, reader_left| {
            Tolerance { broken_pipe, ..Tolerance::default() }.excuse(FAIL, reader_left) == StageExit::BrokenPipe
        };
        assert!(excused(BrokenPipe::ExcuseAny, true));
        assert!(!excused(BrokenPipe::ExcuseAny, false));
        assert!(!excused(BrokenPipe::Excuse, true));
        assert!(!excused(BrokenPipe::Error, true));
    }

    #[test]
    fn accepted_codes_are_good() {
        let tolerance = Tolerance { ok_exit: vec![1], ignore: vec![Ignore::Exit(7)], ..Tolerance::default() };
        assert_eq!(tolerance.judge(&FAIL), Verdict::Good);
        assert_eq!(tolerance.judge(&StageExit::Exit { code: 7 }), Verdict::Good);
        assert_eq!(tolerance.judge(&StageExit::Exit { code: 2 }), Verdict::Bad);
    }

    /// The seventeen rows of go-pipe's own table, its answer and ours.
    #[test]
    fn gp_47_the_blame_table() {
        let failure = |code| StageExit::Exit { code };
        let table = [
            ("ok,ok,ok", "ok", "ok"),
            ("e1", "e1", "e1"),
            ("ok,e1,ok", "e1", "e1"),
            ("ok,e1,e2,ok", "e1", "e1"),
            ("ok,P,e1,ok", "e1", "e1"),
            ("ok,e1,P,ok", "e1", "e1"),
            ("ok,e1,ok,e2,ok", "e1", "e1"),
            ("ok,FE,ok,FE,ok", "ok", "ok"),
            ("e1,FE", "e1", "e1"),
            ("FE,e1", "e1", "e1"),
            ("P,FE", "ok", "ok"),
            ("P,FE,FE", "ok", "ok"),
            ("P,P,FE", "ok", "ok"),
            // By our rule a good reader excuses.
            ("P,ok,FE", "P", "ok"),
            ("FE,P", "P", "P"),
            ("e1,P,FE", "e1", "e1"),
            ("P,e1,FE", "e1", "e1"),
            ("P,P,ok", "P", "ok"),
            ("P,P,P,ok", "P", "ok"),
        ];
        for (row, theirs, ours) in table {
            let words: Vec<&str> = row.split(',').collect();
            let exits: Vec<_> = words
                .iter()
                .map(|word| match *word {
                    "ok" => OK,
                    "P" => PIPE,
                    "FE" => StageExit::FinishedEarly,
                    "e1" => failure(1),
                    _ => failure(2),
                })
                .collect();
            for (broken_pipe, expected) in [(BrokenPipe::Error, theirs), (BrokenPipe::Excuse, ours)] {
                let tolerance = Tolerance { broken_pipe, ..Tolerance::default() };
                let stages: Vec<_> = exits.iter().map(|exit| (exit, &tolerance)).collect();
                let blamed = blame(&stages, false).map_or("ok", |index| words[index]);
                assert_eq!(blamed, expected, "{row} under {broken_pipe:?}");
            }
        }
    }
}
