//! What a run must not leave behind.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use crate::{Output, PATIENCE};

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
    let list = |directory: &str| fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let threads = list("/proc/self/task").map(|path| format!("thread {}", path.display()));
    let files = list("/proc/self/fd").filter_map(|path| {
        let target = fs::read_link(&path).ok()?.display().to_string();
        // The descriptor of this very listing.
        (!target.ends_with("/fd")).then(|| format!("{} -> {target}", path.display()))
    });
    let children = list("/proc/self/task").flat_map(|path| {
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
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left: Vec<_> = held().difference(&before).cloned().collect();
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
