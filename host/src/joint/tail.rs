//! What is kept of a stage's standard error.

use std::collections::VecDeque;

/// The start and the end of a text, in bounded space.
#[derive(Debug, Default)]
pub(super) struct Tail {
    start: Vec<u8>,
    end: VecDeque<u8>,
    left_out: u64,
}

impl Tail {
    /// Half of what is kept, in bytes.
    const HALF: usize = 32 << 10;

    pub(super) fn push(&mut self, mut bytes: &[u8]) {
        let to_start = bytes.len().min(Self::HALF - self.start.len());
        self.start.extend_from_slice(&bytes[..to_start]);
        bytes = &bytes[to_start..];
        if bytes.len() > Self::HALF {
            self.left_out += (bytes.len() - Self::HALF) as u64;
            bytes = &bytes[bytes.len() - Self::HALF..];
        }
        let over = (self.end.len() + bytes.len()).saturating_sub(Self::HALF);
        self.end.drain(..over);
        self.left_out += over as u64;
        self.end.extend(bytes);
    }

    pub(super) fn text(&self) -> String {
        if self.start.is_empty() {
            // Most stages print nothing.
            return String::new();
        }
        let start = String::from_utf8_lossy(&self.start);
        let end: Vec<u8> = self.end.iter().copied().collect();
        let end = String::from_utf8_lossy(&end);
        if self.left_out == 0 {
            format!("{start}{end}")
        } else {
            format!("{start}\n… {} bytes left out …\n{end}", self.left_out)
        }
    }
}
