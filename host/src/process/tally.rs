//! Processor time of a process tree over many looks at it.
//!
//! The kernel adds what a process used to its parent when that waits for it, and to nobody if the parent said that it does not care
//! (`SIGCHLD` ignored). So what a process had used when it was last seen is held against what its parent was given for it.

use std::{collections::HashMap, time::Duration};

use super::tree::{Member, Seen, TreeUsage};

/// What is known of a process besides.
#[derive(Clone, Copy, Debug, Default)]
struct Account {
    /// What those that are gone had used, and it was not given.
    owed: Duration,
    /// What it was given at the last look beyond what those that are gone were known to have used.
    ahead: Duration,
}

/// Counts a tree's processor time. What lives for less than the time between two looks, under a parent that waits for nobody, is not
/// seen.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    last: Vec<Seen>,
    accounts: HashMap<Member, Account>,
    /// Of processes that are gone and had nobody in the tree.
    lost: Duration,
}

impl Tally {
    /// Takes a look, and says what the tree has used so far. One that may have missed some tells nothing of who is gone.
    pub(crate) fn add(&mut self, usage: &TreeUsage) -> Duration {
        if usage.is_partial {
            return usage.cpu.saturating_add(self.hidden());
        }
        let now: HashMap<Member, &Seen> = usage.seen.iter().map(|seen| (seen.member, seen)).collect();
        let before: HashMap<i32, Seen> = self.last.iter().map(|seen| (seen.member.id(), *seen)).collect();
        let mut due: HashMap<Member, Duration> = HashMap::new();
        for gone in self.last.iter().filter(|seen| !now.contains_key(&seen.member)) {
            let owed = self.accounts.remove(&gone.member).unwrap_or_default().owed;
            let used = gone.cpu.saturating_add(owed);
            // Its nearest ancestor that is still there. A tree is no deeper than it has processes.
            let mut heir = before.get(&gone.parent);
            for _ in 0..self.last.len() {
                match heir {
                    Some(parent) if !now.contains_key(&parent.member) => heir = before.get(&parent.parent),
                    _ => break,
                }
            }
            match heir.filter(|heir| now.contains_key(&heir.member)) {
                Some(heir) => *due.entry(heir.member).or_default() += used,
                None => self.lost += used,
            }
        }
        for seen in &usage.seen {
            let waited =
                before.get(&seen.member.id()).filter(|last| last.member == seen.member).map(|last| last.waited);
            let given = seen.waited.saturating_sub(waited.unwrap_or(seen.waited));
            let due = due.remove(&seen.member).unwrap_or_default();
            let account = self.accounts.entry(seen.member).or_default();
            // One may have been waited for between being seen itself and its parent's being seen.
            // And one whose parent was seen before that: what it is given at the next look pays for it.
            account.owed = account.owed.saturating_add(due).saturating_sub(given.saturating_add(account.ahead));
            account.ahead = given.saturating_sub(due);
        }
        self.last.clone_from(&usage.seen);
        usage.cpu.saturating_add(self.hidden())
    }

    /// What no process that is still there was given.
    pub(crate) fn hidden(&self) -> Duration {
        self.accounts.values().fold(self.lost, |sum, account| sum.saturating_add(account.owed))
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::Pid;

    use super::*;

    fn look(tally: &mut Tally, processes: &[(i32, i32, u64, u64)]) -> u64 {
        let mut usage = TreeUsage::default();
        for &(pid, parent, own, waited) in processes {
            let member = Member::from_parts(Pid::from_raw(pid).unwrap(), 1);
            let (own, waited) = (Duration::from_millis(own), Duration::from_millis(waited));
            usage.seen.push(Seen { member, parent, cpu: own + waited, waited });
            usage.cpu += own + waited;
        }
        u64::try_from(tally.add(&usage).as_millis()).unwrap()
    }

    #[test]
    fn what_a_parent_waits_for_counts_once() {
        let mut tally = Tally::default();
        assert_eq!(look(&mut tally, &[(1, 0, 10, 0), (2, 1, 30, 0), (3, 2, 50, 0)]), 90);
        // The innermost ends, then both, each waited for.
        assert_eq!(look(&mut tally, &[(1, 0, 10, 0), (2, 1, 30, 60)]), 100);
        assert_eq!(look(&mut tally, &[(1, 0, 10, 100)]), 110);
        assert_eq!(look(&mut tally, &[(1, 0, 20, 100)]), 120);
        // Two at once, of which one had waited for the other.
        assert_eq!(look(&mut tally, &[(1, 0, 20, 100), (4, 1, 5, 0), (5, 4, 5, 0)]), 130);
        assert_eq!(look(&mut tally, &[(1, 0, 20, 110)]), 130);
        // One that was waited for between its own being seen and its parent's.
        assert_eq!(look(&mut tally, &[(6, 1, 40, 0), (1, 0, 20, 110)]), 170);
        look(&mut tally, &[(6, 1, 40, 0), (1, 0, 20, 150)]);
        assert_eq!(look(&mut tally, &[(1, 0, 20, 150)]), 170);
        // And the other way round: its parent was seen first.
        look(&mut tally, &[(1, 0, 20, 150), (7, 1, 40, 0)]);
        look(&mut tally, &[(1, 0, 20, 150)]);
        assert_eq!(look(&mut tally, &[(1, 0, 20, 190)]), 210);
    }

    #[test]
    fn whoever_is_missed_in_one_look_counts_once() {
        let mut tally = Tally::default();
        assert_eq!(look(&mut tally, &[(1, 0, 10, 0), (2, 1, 30, 0)]), 40);
        assert_eq!(tally.add(&TreeUsage { is_partial: true, ..TreeUsage::default() }), Duration::ZERO);
        assert_eq!(look(&mut tally, &[(1, 0, 10, 0), (2, 1, 30, 0)]), 40);
    }

    #[test]
    fn what_nobody_waits_for_counts_too() {
        let mut tally = Tally::default();
        let mut expected = 10;
        for child in 2..12 {
            assert_eq!(look(&mut tally, &[(1, 0, 10, 0), (child, 1, 40, 0)]), expected + 40);
            expected += 40;
            assert_eq!(look(&mut tally, &[(1, 0, 10, 0)]), expected);
        }
        // A whole branch of which nobody was waited for, and an orphan.
        look(&mut tally, &[(1, 0, 10, 0), (20, 1, 5, 0), (21, 20, 7, 0), (22, 999, 3, 0)]);
        assert_eq!(look(&mut tally, &[(1, 0, 10, 0)]), expected + 15);
        // The root itself.
        assert_eq!(look(&mut tally, &[]), expected + 15);
    }
}
