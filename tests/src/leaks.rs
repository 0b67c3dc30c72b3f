//! What a run must not leave behind.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use crate::Output;

/// Checks that no process of a group is alive. One that is just dying, because its parent died of the same signal a moment
/// earlier, has a little time to finish.
#[track_caller]
pub fn check_group(group: u32, output: &Output) {
    const DYING: Duration = Duration::from_secs(2);
    let deadline = Instant::now() + DYING;
    loop {
        let left = alive(group);
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "processes were left: {left:?}\n{output}");
        thread::yield_now();
    }
}

/// The environment variable that names the place that a process was started from.
pub const MARK: &str = "STAGEHOST_TEST_PLACE";

/// The mark of what this very process starts through the library.
pub fn process_mark() -> String {
    format!("process-{}", std::process::id())
}

/// Checks that no process that was started from a place is alive, whatever group or session it is in.
#[track_caller]
pub fn check_marked(place: &Path, output: &Output) {
    const DYING: Duration = Duration::from_secs(2);
    let deadline = Instant::now() + DYING;
    loop {
        let left = marked(place);
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "processes were left: {left:?}\n{output}");
        thread::yield_now();
    }
}

/// The living processes that were started from a place.
pub fn marked(place: &Path) -> Vec<String> {
    let mark = format!("{MARK}={}", place.display());
    let mark = mark.trim_end_matches('/');
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc is there").flatten() {
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        if environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes()) {
            let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            let command = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
            // A zombie has no environment to be read, but one may have died between the two reads.
            if !stat.is_empty() && !stat.contains(") Z ") {
                found.push(format!("{} {}", stat.trim(), command.replace('\0', " ")));
            }
        }
    }
    found
}

/// The processes of a group that are no zombies.
fn alive(group: u32) -> Vec<String> {
    let mut alive = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc is there").flatten() {
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // The name stands in parentheses and may hold anything; the group is the third field behind it.
        let Some((_, fields)) = stat.rsplit_once(')') else { continue };
        let fields: Vec<_> = fields.split_whitespace().collect();
        if fields.get(2).is_some_and(|field| *field == group.to_string()) && fields.first() != Some(&"Z") {
            alive.push(stat);
        }
    }
    alive
}

/// Checks that a directory holds no temporary file of ours.
#[track_caller]
pub fn check_files(directory: &Path, output: &Output) {
    for entry in fs::read_dir(directory).expect("the place is there").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        assert!(!name.contains(".stagehost-"), "a temporary file was left: {name}\n{output}");
    }
}

/// What a process holds: threads and descriptors, by number and by what they are.
fn held() -> BTreeSet<String> {
    // Each is read to its end at once, so that its own descriptor is not in the next.
    let list = |directory: &str| -> Vec<PathBuf> {
        fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
    };
    let threads = list("/proc/self/task").into_iter().map(|path| format!("thread {}", path.display()));
    let files = list("/proc/self/fd").into_iter().filter_map(|path| {
        let target = fs::read_link(&path).ok()?.display().to_string();
        // The descriptor of this very listing.
        (!target.ends_with("/fd")).then(|| format!("{} -> {target}", path.display()))
    });
    let children = list("/proc/self/task").into_iter().flat_map(|path| {
        let children = fs::read_to_string(path.join("children")).unwrap_or_default();
        children.split_whitespace().map(|child| format!("child {child}")).collect::<Vec<_>>()
    });
    threads.chain(files).chain(children).collect()
}

/// Runs `test` and checks that this process holds nothing afterwards that it did not hold before: no thread, descriptor or
/// child. For tests that use the library in this process; they run one at a time, in a test binary of their own.
#[track_caller]
pub fn checked<T>(test: impl FnOnce() -> T) -> T {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let before = held();
    let result = test();
    const ENDING: Duration = Duration::from_secs(10);
    let deadline = Instant::now() + ENDING;
    loop {
        let mut left: Vec<_> = held().difference(&before).cloned().collect();
        // Whatever the test's commands started has the mark, in whatever group or session it is.
        left.extend(marked(Path::new(&process_mark())).into_iter().map(|process| format!("process {process}")));
        // A thread that was joined may still be listed for a moment; the test harness itself may start one.
        let ours: Vec<_> = left.into_iter().filter(|thing| !is_test_thread(thing)).collect();
        if ours.is_empty() {
            return result;
        }
        assert!(Instant::now() < deadline, "left behind: {ours:#?}");
        thread::yield_now();
    }
}

/// Whether a listed thread is one of the test harness's, by its name.
fn is_test_thread(thing: &str) -> bool {
    let Some(path) = thing.strip_prefix("thread ") else { return false };
    let name = fs::read_to_string(Path::new(path).join("comm")).unwrap_or_default();
    !name.starts_with("stagehost") && !name.starts_with("tokio")
}
