//! A terminal with an interactive shell in front of it.

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::OwnedFd,
    path::PathBuf,
    process::Child,
    sync::{Arc, Condvar, Mutex},
    time::{Duration, Instant},
};

use rustix::{
    fs::{Mode, OFlags, open},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};

use crate::{PATIENCE, Place, leaks};

/// What a terminal showed so far, and a word to whoever waits for more.
type Shown = Arc<(Mutex<String>, Condvar)>;

/// A shell in a pseudo-terminal. It ends with the value.
#[derive(Debug)]
pub struct Terminal {
    keys: File,
    shown: Shown,
    /// How much of it was looked at.
    seen: usize,
    shell: Child,
    place: PathBuf,
}

impl Terminal {
    /// Opens a terminal in `place`, where `$STAGEHOST` is the binary.
    pub fn open(place: &Place) -> Self {
        let keys = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a pseudo-terminal");
        grantpt(&keys).expect("it is ours");
        unlockpt(&keys).expect("it is ours");
        // Wide: a line editor redraws parts of a line that is longer than the terminal.
        let wide = Winsize { ws_row: 24, ws_col: 500, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&keys, wide).expect("any size will do");
        let name = ptsname(&keys, Vec::new()).expect("it has a name");
        let other = |flags| -> OwnedFd {
            open(&name, flags | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).expect("its other side")
        };
        // `setsid --ctty` makes its standard input the controlling terminal of a new session. The tests may run where the keys'
        // signals are ignored.
        let run = place.program("env").args(["--default-signal", "setsid", "--ctty", "--wait"]);
        let mut run = run.args(["bash", "--norc", "--noprofile", "-i"]);
        run = run.env("TERM", "xterm").env("PS1", "ready> ").env("HISTFILE", "/dev/null").env("INPUTRC", "/dev/null");
        let mut command =
            run.stdin(other(OFlags::RDWR)).stdout(other(OFlags::RDWR)).stderr(other(OFlags::RDWR)).command;
        let shell = command.spawn().expect("bash is there");
        drop(command);
        let shown: Shown = Arc::default();
        let (mut screen, sink) = (File::from(keys.try_clone().expect("a copy")), shown.clone());
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            // The terminal is gone when its last other side is closed.
            while let Ok(n @ 1..) = screen.read(&mut piece) {
                sink.0.lock().expect("nobody panics with it").push_str(&String::from_utf8_lossy(&piece[..n]));
                sink.1.notify_all();
            }
        });
        let mut terminal = Self { keys: File::from(keys), shown, seen: 0, shell, place: place.path("") };
        terminal.shows("ready> ");
        terminal
    }

    /// Types a text. `\x03` is Ctrl-C, `\x04` Ctrl-D, `\x1a` Ctrl-Z.
    pub fn types(&mut self, text: &str) -> &mut Self {
        self.keys.write_all(text.as_bytes()).expect("the terminal is there");
        self
    }

    /// Waits until it shows a text, behind what was waited for before. Returns what stands between.
    #[track_caller]
    pub fn shows(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut shown = self.shown.0.lock().expect("nobody panics with it");
        loop {
            if let Some(at) = shown[self.seen..].find(text) {
                let between = shown[self.seen..self.seen + at].to_owned();
                self.seen += at + text.len();
                return between;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "not shown: {text:?}\n{}", &shown[self.seen..]);
            shown = self.shown.1.wait_timeout(shown, left).expect("nobody panics with it").0;
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Ends the shell as closing its window does, and what is in front of it.
        let _ = self.keys.write_all(b"\x03\x04exit\n");
        let _ = self.shell.kill();
        let _ = self.shell.wait();
        if std::thread::panicking() {
            return;
        }
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let left = leaks::marked(&self.place);
            if left.is_empty() {
                return;
            }
            // The shell itself may not have come to the end of what was typed.
            for shell in left.iter().filter(|process| process.contains("(bash)")) {
                let id =
                    shell.split(' ').next().and_then(|id| id.parse().ok()).and_then(rustix::process::Pid::from_raw);
                let _ = id.map(|id| rustix::process::kill_process(id, rustix::process::Signal::KILL));
            }
            let shown = self.shown.0.lock().expect("nobody panics with it");
            assert!(Instant::now() < deadline, "processes were left: {left:#?}\n{shown}");
            drop(shown);
            std::thread::yield_now();
        }
    }
}
