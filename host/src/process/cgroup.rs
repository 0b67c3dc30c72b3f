//! Control groups (version 2), where the system delegates one: they hold what left its process group too.
//!
//! The interface is the kernel's `Documentation/admin-guide/cgroup-v2.rst`.

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Threads that a limit of processes leaves room for: for each of them, and besides.
const TASKS_OF_ONE: u64 = 4;
const TASKS_BESIDES: u64 = 16;

/// A directory in which control groups for commands are made.
#[derive(Clone, Debug)]
pub(crate) struct CgroupParent(PathBuf);

/// The control group of one command. Dropping it kills what is in it and removes it.
#[derive(Debug)]
pub(crate) struct Cgroup(PathBuf);

impl CgroupParent {
    /// Takes a delegated directory.
    ///
    /// # Errors
    ///
    /// When it is none that groups can be made in: what is written here is for the kernel and for no file of that name.
    pub(crate) fn new(directory: &Path) -> io::Result<Self> {
        // Linux: `uapi/linux/magic.h`.
        const CGROUP2_SUPER_MAGIC: rustix::fs::FsWord = 0x6367_7270;
        if rustix::fs::statfs(directory)?.f_type != CGROUP2_SUPER_MAGIC {
            return Err(io::Error::other("it is on no cgroup2 file system"));
        }
        fs::metadata(directory.join("cgroup.procs"))?;
        Ok(Self::at(directory))
    }

    fn at(directory: &Path) -> Self {
        // Without controllers a group still says who is in it and can be killed as one.
        for controller in ["+memory", "+pids"] {
            let _ = fs::write(directory.join("cgroup.subtree_control"), controller);
        }
        Self(directory.to_owned())
    }

    /// Makes a group that holds at most this many bytes and processes, if these can be limited here, and the file that puts a process
    /// into it. The kernel counts threads: there may be some for each process, and what is over the limit is seen by looking.
    pub(crate) fn group(&self, memory: Option<u64>, processes: Option<u64>) -> io::Result<(Cgroup, OwnedFd)> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("stagehost-{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed));
        let path = self.0.join(name);
        fs::create_dir(&path)?;
        let group = Cgroup(path);
        if let Some(bytes) = memory {
            let _ = fs::write(group.0.join("memory.max"), bytes.to_string());
            let _ = fs::write(group.0.join("memory.swap.max"), "0");
            let _ = fs::write(group.0.join("memory.oom.group"), "1");
        }
        if let Some(processes) = processes {
            let tasks = processes.saturating_mul(TASKS_OF_ONE).saturating_add(TASKS_BESIDES);
            let _ = fs::write(group.0.join("pids.max"), tasks.to_string());
        }
        let processes = fs::OpenOptions::new().write(true).open(group.0.join("cgroup.procs"))?;
        Ok((group, processes.into()))
    }
}

impl Cgroup {
    fn number(&self, file: &str, key: Option<&str>) -> Option<u64> {
        let text = fs::read_to_string(self.0.join(file)).ok()?;
        match key {
            None => text.trim().parse().ok(),
            Some(key) => text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok()),
        }
    }

    /// The most memory it held at once, in bytes.
    pub(crate) fn peak(&self) -> Option<u64> {
        self.number("memory.peak", None)
    }

    /// The processor time of everything that ran in it.
    pub(crate) fn cpu(&self) -> Option<Duration> {
        self.number("cpu.stat", Some("usage_usec ")).map(Duration::from_micros)
    }

    /// Whether the kernel killed it for its memory.
    pub(crate) fn was_out_of_memory(&self) -> bool {
        self.number("memory.events", Some("oom_kill ")).is_some_and(|kills| kills > 0)
    }

    /// How many processes are in it.
    pub(crate) fn population(&self) -> usize {
        fs::read_to_string(self.0.join("cgroup.procs")).map_or(0, |text| text.lines().count())
    }

    /// Leaves it to what is in it.
    pub(crate) fn leave(self) {
        // One that is empty can be removed, any other cannot.
        let _ = fs::remove_dir(&self.0);
        std::mem::forget(self);
    }

    /// Kills everything in it, whatever session or group it is in.
    pub(crate) fn kill(&self) {
        let _ = fs::write(self.0.join("cgroup.kill"), "1");
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        self.kill();
        // What was killed needs a moment to leave.
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() || !self.0.exists() {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A plain directory takes what the kernel would be told.
    #[test]
    fn limits_are_the_kernels_to_hold() {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("cgroup.procs"), "").unwrap();
        let what_is_none = CgroupParent::new(place.path()).unwrap_err();
        assert!(what_is_none.to_string().contains("no cgroup2 file system"));
        assert!(!place.path().join("cgroup.subtree_control").exists());
        let parent = CgroupParent::at(place.path());
        // Of a file that the kernel would have made there is none: this group is not to be had.
        assert!(parent.group(Some(5 << 20), Some(10)).is_err());
        let group = fs::read_dir(place.path()).unwrap().flatten().find(|entry| entry.path().is_dir()).unwrap().path();
        let told = |file: &str| fs::read_to_string(group.join(file)).unwrap();
        assert_eq!(told("memory.max"), "5242880");
        assert_eq!((told("memory.swap.max").as_str(), told("memory.oom.group").as_str()), ("0", "1"));
        assert_eq!(told("pids.max"), "56");
        assert_eq!(told("cgroup.kill"), "1", "what is in a group goes with it");
    }
}
