//! How long a stage waits at an end.

use std::time::{Duration, Instant};

use super::passing::Moved;

/// How long a stage has waited for what another one does.
#[derive(Debug, Default)]
pub(super) struct Waits {
    since: Option<Instant>,
    before: Duration,
}

impl Waits {
    /// Says whether it waits now.
    pub(super) fn set(&mut self, are_on: bool) {
        match (are_on, self.since) {
            (true, None) => self.since = Some(Instant::now()),
            (false, Some(since)) => {
                self.before += since.elapsed();
                self.since = None;
            }
            (true, Some(_)) | (false, None) => {}
        }
    }

    pub(super) fn are_on(&self) -> bool {
        self.since.is_some()
    }

    pub(super) fn moved(&self, bytes: u64) -> Moved {
        let now = self.since.map_or(Duration::ZERO, |since| since.elapsed());
        Moved { bytes, waited: self.before + now, waits: self.are_on() }
    }
}
