//! What a program's file begins with.

use std::{ffi::CStr, os::fd::OwnedFd};

use rustix::fs::{Mode, OFlags};

/// The first bytes of a file, which say what kind of program it is.
pub(super) struct Beginning {
    bytes: [u8; Self::LENGTH],
    /// How many there are; `None`: it cannot be read.
    length: Option<usize>,
}

impl Beginning {
    /// As much as shells look at.
    const LENGTH: usize = 128;

    /// Reads them. Async-signal-safe: system calls only.
    pub(super) fn of(program: &CStr) -> Self {
        let mut bytes = [0; Self::LENGTH];
        // Whatever stands there, opening it waits for nobody.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let read = rustix::fs::open(program, flags, Mode::empty()).and_then(|file| rustix::io::read(file, &mut bytes));
        Self { bytes, length: read.ok() }
    }

    /// The same of a program that is open. Async-signal-safe.
    pub(super) fn of_open(program: &OwnedFd) -> Self {
        let mut bytes = [0; Self::LENGTH];
        let read = rustix::io::pread(program, &mut bytes, 0);
        Self { bytes, length: read.ok() }
    }

    /// Whether the system runs it itself. What cannot be read is no script, which has to be.
    pub(super) fn is_binary(&self) -> bool {
        self.length.is_none() || self.bytes.starts_with(b"\x7fELF")
    }

    pub(super) fn is_webassembly(&self) -> bool {
        self.bytes.starts_with(b"\0asm")
    }

    /// Whether its first line is text, which is what a shell asks of a script without `#!`.
    pub(super) fn is_text(&self) -> bool {
        self.length.is_some_and(|length| {
            let bytes = &self.bytes[..length];
            let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or(bytes);
            // What terminals and editors put there is text all the same; UTF-16 is not.
            let is_text = |byte: &u8| !matches!(byte, 0..=6 | 14..=26 | 28..=31 | 127);
            line.iter().all(is_text) && !matches!(line, [0xff, 0xfe, ..] | [0xfe, 0xff, ..])
        })
    }
}
