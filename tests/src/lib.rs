//! The test harness: a hermetic place to run `stagehost` in, guests, hard timeouts, and leak checks.
//!
//! Every [`Place`] is a temporary directory of its own with an environment of its own. A run that takes longer than
//! [`PATIENCE`] is killed and fails its test. After every run nothing of it may be left: no process of its group and no
//! temporary file.

pub mod file_calls;
pub mod guests;
pub mod hostile;
pub mod leaks;
pub mod terminal;

use std::{
    ffi::OsStr,
    fmt, fs,
    io::{Read, Write},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, sync_channel},
    thread,
    time::{Duration, Instant},
};

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

/// How long any one run may take. Generous: tests run beside each other on two busy cores, and a cold cache compiles.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The `stagehost` binary beside the running test.
pub fn binary() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows where it is");
    let directory = test.ancestors().nth(2).expect("tests lie in deps/ of the profile's directory");
    let binary = directory.join("stagehost");
    assert!(binary.exists(), "{} is not built; run the tests with `--workspace`", binary.display());
    binary
}

/// The repository's root.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository")
}

/// A directory and environment of one test's own.
#[derive(Debug)]
pub struct Place {
    directory: tempfile::TempDir,
}

impl Default for Place {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !thread::panicking() {
            for name in self.names() {
                assert!(!name.contains(".stagehost-"), "a temporary file was left: {name}");
            }
        }
    }
}

impl Place {
    /// Makes an empty place.
    pub fn new() -> Self {
        Self { directory: tempfile::Builder::new().prefix("stagehost-test-").tempdir().expect("a temporary directory") }
    }

    /// The path of `name` in this place.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).expect("the place is writable");
        path
    }

    /// Reads a file.
    pub fn read(&self, name: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}")))
            .into_owned()
    }

    /// The names of all files here, hidden ones too, sorted.
    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.directory.path()).expect("the place is readable");
        let mut names: Vec<_> =
            entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// A program in this place, with an empty environment but for what every run needs.
    pub fn program(&self, program: impl AsRef<OsStr>) -> Run<'_> {
        #[expect(clippy::disallowed_methods, reason = "the harness starts the program under test")]
        let mut command = Command::new(program);
        command
            .current_dir(self.directory.path())
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", self.directory.path())
            .env("LC_ALL", "C")
            .env("STAGEHOST", binary())
            // What a run leaves behind is known by it, whatever group or session it is in.
            .env(leaks::MARK, self.directory.path())
            // Shared, so that each guest is compiled once for all tests.
            .env("STAGEHOST_CACHE_DIR", cache())
            // Where one would be otherwise: not in what tests grant.
            .env("XDG_CACHE_HOME", cache())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        Run { place: self, command, stdin: Vec::new() }
    }

    /// `stagehost` with arguments.
    pub fn stagehost<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Run<'_> {
        let mut run = self.program(binary());
        run.command.args(args);
        run
    }

    /// `stagehost run -c SHORTHAND`.
    pub fn shorthand(&self, shorthand: &str) -> Run<'_> {
        self.stagehost(["run", "-c", shorthand])
    }

    /// A shell script, where `$STAGEHOST` is the binary.
    pub fn shell(&self, script: &str) -> Run<'_> {
        let mut run = self.program("/bin/bash");
        run.command.args(["-c", script]);
        run
    }
}

/// A code cache that all tests share, so that each guest is compiled once.
pub fn cache() -> PathBuf {
    let cache = binary().with_file_name("test-code-cache");
    fs::create_dir_all(&cache).expect("the target directory is writable");
    let private = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o700);
    fs::set_permissions(&cache, private).expect("the target directory is ours");
    cache
}

/// A run that is being prepared.
#[derive(Debug)]
pub struct Run<'a> {
    place: &'a Place,
    command: Command,
    stdin: Vec<u8>,
}

impl Run<'_> {
    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.command.args(args);
        self
    }

    /// Feeds these bytes through a pipe.
    #[must_use]
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self.command.stdin(Stdio::piped());
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    /// Gives it this standard input.
    #[must_use]
    pub fn stdin(mut self, stdin: impl Into<Stdio>) -> Self {
        self.command.stdin(stdin);
        self
    }

    /// Gives it this standard output.
    #[must_use]
    pub fn stdout(mut self, stdout: impl Into<Stdio>) -> Self {
        self.command.stdout(stdout);
        self
    }

    /// Gives it this standard error.
    #[must_use]
    pub fn stderr(mut self, stderr: impl Into<Stdio>) -> Self {
        self.command.stderr(stderr);
        self
    }

    /// Starts it. The caller talks to it and waits for it.
    pub fn start(mut self) -> Running {
        let mut child = self.command.spawn().expect("the program starts");
        let stdin = child.stdin.take();
        let input = std::mem::take(&mut self.stdin);
        let feeding = stdin.map(|mut stdin| {
            thread::spawn(move || {
                // The program may leave early.
                let _ = stdin.write_all(&input);
            })
        });
        let stdout = child.stdout.take().map(|mut pipe| collect(move |buffer| pipe.read(buffer)));
        let stderr = child.stderr.take().map(|mut pipe| collect(move |buffer| pipe.read(buffer)));
        Running { child, feeding, stdout, stderr, place: self.place.path("") }
    }

    /// Starts it where these system calls are answered with an error number, for it and for all that it starts.
    pub fn start_without(self, calls: &[i64], error: u32) -> Running {
        let refused = calls.iter().map(|call| (*call, Vec::new())).collect();
        let arch = TargetArch::try_from(std::env::consts::ARCH).expect("there are filters for this processor");
        let filter = SeccompFilter::new(refused, SeccompAction::Allow, SeccompAction::Errno(error), arch);
        let filter: BpfProgram = filter.and_then(TryInto::try_into).expect("the filter is right");
        // The filter holds for this thread and what it starts.
        thread::scope(|scope| {
            let starting = scope.spawn(move || {
                seccompiler::apply_filter(&filter).expect("the kernel knows filters");
                self.start()
            });
            starting.join().expect("it was started")
        })
    }

    /// Runs it to its end.
    #[must_use = "what it did is to be checked"]
    pub fn done(self) -> Output {
        self.start().done()
    }
}

/// Reads a pipe to its end on a thread.
fn collect(mut read: impl FnMut(&mut [u8]) -> std::io::Result<usize> + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = sync_channel(1);
    thread::spawn(move || {
        let mut all = Vec::new();
        let mut piece = vec![0; 64 << 10];
        while let Ok(n @ 1..) = read(&mut piece) {
            all.extend_from_slice(&piece[..n]);
        }
        let _ = sender.send(all);
    });
    receiver
}

/// A program that runs.
#[derive(Debug)]
pub struct Running {
    child: Child,
    feeding: Option<thread::JoinHandle<()>>,
    stdout: Option<Receiver<Vec<u8>>>,
    stderr: Option<Receiver<Vec<u8>>>,
    place: PathBuf,
}

impl Drop for Running {
    fn drop(&mut self) {
        if thread::panicking() {
            // A test that failed leaves nothing behind. An error means that it is gone already.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Running {
    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let id = i32::try_from(self.child.id()).expect("process ids are small");
        let pid = rustix::process::Pid::from_raw(id).expect("process ids are positive");
        rustix::process::kill_process(pid, signal).expect("the program still runs");
    }

    /// Waits until `condition` holds, or fails the test.
    pub fn until(&mut self, what: &str, mut condition: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition() {
            assert!(Instant::now() < deadline, "waited too long until {what}");
            if self.child.try_wait().expect("a child").is_some() {
                // It may have been the last that it did.
                assert!(condition(), "the program ended before {what}");
                return;
            }
            thread::yield_now();
        }
    }

    /// Waits for the end of a program that was killed. What it left is the caller's to check.
    pub fn killed(mut self) {
        wait(&mut self.child, PATIENCE).expect("a killed program ends");
    }

    /// Waits for its end, kills it after [`PATIENCE`], and checks that nothing is left of it.
    #[must_use = "what it did is to be checked"]
    pub fn done(mut self) -> Output {
        let started = Instant::now();
        let group = self.child.id();
        let Some(status) = wait(&mut self.child, PATIENCE) else {
            self.child.kill().expect("we may kill our child");
            self.child.wait().expect("a killed child ends");
            panic!("the program did not end within {PATIENCE:?}");
        };
        let took = started.elapsed();
        if let Some(feeding) = self.feeding.take() {
            feeding.join().expect("the feeder does not panic");
        }
        // A pipe that stays open is held by a process that was left behind.
        let text = |pipe: Option<Receiver<Vec<u8>>>| match pipe {
            Some(pipe) => pipe.recv_timeout(PATIENCE).expect("nobody holds the program's output open"),
            None => Vec::new(),
        };
        let output = Output { status, stdout: text(self.stdout.take()), stderr: text(self.stderr.take()), took };
        leaks::check_group(group, &output);
        leaks::check_marked(&self.place, &output);
        leaks::check_files(&self.place, &output);
        output
    }
}

fn wait(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    // Somebody may have seen its end before.
    if let Some(status) = child.try_wait().expect("a child") {
        return Some(status);
    }
    let id = i32::try_from(child.id()).ok()?;
    let pidfd = rustix::process::pidfd_open(rustix::process::Pid::from_raw(id)?, rustix::process::PidfdFlags::empty());
    let pidfd = pidfd.expect("pidfd_open works here");
    let timeout = rustix::event::Timespec::try_from(patience).expect("a short time");
    let mut events = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
    match rustix::event::poll(&mut events, Some(&timeout)) {
        Ok(0) => None,
        _ => Some(child.wait().expect("the child has ended")),
    }
}

/// What a program did. Its `Display` shows everything, for assertions.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote on standard output.
    pub stdout: Vec<u8>,
    /// What it wrote on standard error.
    pub stderr: Vec<u8>,
    /// How long it was waited for.
    pub took: Duration,
}

impl Output {
    /// Checks the exit code.
    #[track_caller]
    pub fn code(self, code: i32) -> Self {
        assert_eq!(self.status.code(), Some(code), "{self}");
        self
    }

    /// Checks that it died of a signal.
    #[track_caller]
    pub fn died_of(self, signal: rustix::process::Signal) -> Self {
        assert_eq!(self.status.signal(), Some(signal.as_raw()), "{self}");
        self
    }

    /// Checks standard output.
    #[track_caller]
    pub fn prints(self, expected: impl AsRef<[u8]>) -> Self {
        let expected = expected.as_ref();
        assert!(
            self.stdout == expected,
            "expected {} bytes {:?}\n{self}",
            expected.len(),
            String::from_utf8_lossy(&expected[..expected.len().min(200)])
        );
        self
    }

    /// Checks that texts stand in its output.
    #[track_caller]
    pub fn shows(self, texts: &[&str]) -> Self {
        for text in texts {
            assert!(self.stdout_text().contains(text), "not shown: {text}\n{self}");
        }
        self
    }

    /// Its output as text.
    pub fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Checks that standard error says all of these.
    #[track_caller]
    pub fn says(self, texts: &[&str]) -> Self {
        for text in texts {
            assert!(self.error_text().contains(text), "not said: {text}\n{self}");
        }
        self
    }

    /// Checks that standard error is empty.
    #[track_caller]
    pub fn is_quiet(self) -> Self {
        assert!(self.stderr.is_empty(), "{self}");
        self
    }

    /// Standard error as text.
    pub fn error_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(4000)]).into_owned();
        writeln!(f, "{} after {:?}", self.status, self.took)?;
        writeln!(f, "--- stdout ({} bytes)\n{}", self.stdout.len(), shown(&self.stdout))?;
        write!(f, "--- stderr\n{}", shown(&self.stderr))
    }
}
