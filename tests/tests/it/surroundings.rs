//! What the host makes of odd surroundings: denied system calls, few rights, few descriptors, being the first process.

use std::{collections::BTreeMap, path::PathBuf};

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};
use stagehost_tests::{Place, guests::probe};

/// Starts `run` under a filter that denies what containers deny: newer system calls.
fn under_filter(run: stagehost_tests::Run<'_>) -> stagehost_tests::Running {
    // pidfd_send_signal, pidfd_open, clone3, close_range, pidfd_getfd, preadv2: the numbers are the same on all
    // architectures but the last.
    let preadv2 = if cfg!(target_arch = "x86_64") { 327 } else { 286 };
    let denied: BTreeMap<i64, Vec<seccompiler::SeccompRule>> =
        [424, 434, 435, 436, 438, preadv2].into_iter().map(|call| (call, Vec::new())).collect();
    // What a kernel that does not know them says; also for clone3, where programs then take clone.
    let filter = SeccompFilter::new(
        denied,
        SeccompAction::Allow,
        SeccompAction::Errno(38),
        TargetArch::try_from(std::env::consts::ARCH).unwrap(),
    );
    let filter: BpfProgram = filter.unwrap().try_into().unwrap();
    // The filter holds for this thread and what it starts.
    std::thread::scope(|scope| {
        let starting = scope.spawn(move || {
            seccompiler::apply_filter(&filter).unwrap();
            run.start()
        });
        starting.join().unwrap()
    })
}

#[test]
fn denied_system_calls_have_fallbacks() {
    let place = Place::new();
    place.write("in", "b\na\n");
    let run = place.shorthand(":cat | sort | :cat").args(["--stdin", "in", "--stdout", "out"]);
    under_filter(run).done().code(0).is_quiet();
    assert_eq!(place.read("out"), "a\nb\n");
    let run = place.shorthand("sh -c 'sleep 1000 & sleep 1000' | cat").args(["--timeout", "300ms"]);
    under_filter(run).done().code(124);
    let run = place.shorthand("sh -c 'sleep 1000 & echo now'");
    under_filter(run).done().code(0).says(&["left behind, killed"]).prints("now\n");
    let run = place.shorthand("sh -c 'ls /proc/self/fd | wc -l'");
    under_filter(run).done().code(0).prints("4\n");
    let run = place.shell("$STAGEHOST run -c 'echo through' --stdout /dev/fd/7 7> seven; cat seven; rm seven");
    under_filter(run).done().code(0).prints("through\n");
    // Whatever number a descriptor has, and however few the stage may have.
    let run =
        place.shell("exec 90< /dev/null; $STAGEHOST run -c 'sh -c \"ls /proc/self/fd | wc -l\"' --limit open_files=10");
    under_filter(run).done().code(0).prints("4\n");
    let run = place.shorthand(&format!("{} copy-exit 3 | sh -c 'cat; touch saw-eof'", probe())).input("x");
    under_filter(run).done().code(3);
    assert_eq!(place.names(), ["in", "out"]);
}

/// Lets the user nobody into the place, with a copy of a program. Another process makes the copy: a descriptor of ours,
/// open for writing, could be inherited by what other tests start, and then the copy could not be run.
fn as_nobody<'a>(place: &'a Place, program: &std::path::Path) -> stagehost_tests::Run<'a> {
    let everybody = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
    std::fs::set_permissions(place.path(""), everybody).unwrap();
    let script = format!("cp '{}' program && chmod 755 program", program.display());
    place.shell(&script).done().code(0).is_quiet();
    let program = place.path("program").display().to_string();
    let limited = format!("ulimit -n 1024; exec '{program}'");
    if rustix::process::geteuid().is_root() {
        let run = place.program("setpriv").args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
        run.args(["bash", "-c", &limited])
    } else {
        place.program("bash").args(["-c", &limited])
    }
}

#[test]
fn a_thousand_mixed_runs_at_once_in_a_process_of_few_descriptors() {
    let place = Place::new();
    let crowd = PathBuf::from(env!("CARGO_BIN_EXE_crowd"));
    as_nobody(&place, &crowd).done().code(0).prints("right: 1000\n");
}

#[test]
fn as_the_first_process_it_ends_with_a_code() {
    let place = Place::new();
    let can = place.program("unshare").args(["-rpf", "--mount-proc", "true"]).done().status.success();
    if !can {
        return;
    }
    let inside = |script: &str| {
        let run =
            place.program("unshare").args(["-rpf", "--mount-proc", "--kill-child"]).arg(stagehost_tests::binary());
        run.args(["run", "-c", script])
    };
    inside("sh -c 'exit 3'").done().code(3);
    inside("yes | head -n 1").done().code(0).prints("y\n");
    // It reaps what is left to it: of ten orphans that ended early, none is there as a zombie when the run ends.
    let orphans = "sh -c 'for i in 1 2 3 4 5 6 7 8 9 10; do (sleep 0.1 &); done; sleep 3; grep -l \"^State:.Z\" /proc/[0-9]*/status 2>/dev/null | wc -l'";
    inside(orphans).done().code(0).prints("0\n");
    // Stopped by a signal, the first process cannot die of it.
    inside("sh -c 'kill -TERM 1; sleep 1000'").done().code(143);
}
