//! The wall around commands: what a strict one leaves a program, and what nothing that it starts gets out of.

use std::fs;

use rustix::process::Signal;
use stagehost_tests::{Output, Place, leaks};

fn pipeline(place: &Place, stage: &str) {
    place.write("p.json", format!(r#"{{"version": 1, "stdin": "null", "stages": [{stage}]}}"#));
}

/// Runs a command behind a strict wall; `more`: further keys of its stage.
fn strict(place: &Place, command: &[&str], more: &str) -> Output {
    let command = serde_json::to_string(command).unwrap();
    pipeline(place, &format!(r#"{{"command": {command}, "sandbox": "strict"{more}}}"#));
    let run = place.stagehost(["run", "p.json"]).env("HOME", place.path("write")).env("TMPDIR", place.path("write"));
    // What is git's for all users may have secrets in it.
    run.env("GIT_CONFIG_NOSYSTEM", "1").done()
}

const GRANTS: &str = r#", "grants": {"dirs": [{"host": "read"}, {"host": "write", "access": "write"}]}"#;

/// A place with directories to grant; `None` where this kernel has no walls.
fn walled_place() -> Option<Place> {
    let place = Place::new();
    for directory in ["read", "write"] {
        fs::create_dir(place.path(directory)).unwrap();
    }
    has_landlock(&place).then_some(place)
}

/// Whether this kernel has Landlock: what is strict is refused without it.
fn has_landlock(place: &Place) -> bool {
    pipeline(place, r#"{"command": ["true"], "sandbox": "strict"}"#);
    let output = place.stagehost(["run", "p.json"]).done();
    if output.status.code() == Some(126) {
        output.says(&["stages[0].sandbox", "best-effort"]);
        return false;
    }
    output.code(0);
    true
}

#[test]
fn a_walled_command_has_its_grants_and_the_system() {
    let place = Place::new();
    for directory in ["read", "write", "other"] {
        fs::create_dir(place.path(directory)).expect("a new directory");
    }
    place.write("read/in.txt", "granted\n");
    place.write("other/secret.txt", "secret\n");
    let walled = |mode: &str, script: &str| {
        let script = script.replace('"', "\\\"");
        pipeline(
            &place,
            &format!(
                r#"{{"command": ["sh", "-c", "{script}"], "sandbox": "{mode}",
                     "grants": {{"dirs": [{{"host": "read"}}, {{"host": "write", "access": "write"}}]}}}}"#
            ),
        );
        place.stagehost(["run", "p.json"]).done()
    };
    if !has_landlock(&place) {
        walled("best-effort", "echo ran").code(0).prints("ran\n").says(&["the kernel has no Landlock"]);
        return;
    }
    for mode in ["strict", "best-effort"] {
        walled(mode, "cat read/in.txt; echo out > write/out.txt; cat write/out.txt; echo > /dev/null")
            .code(0)
            .prints("granted\nout\n");
        walled(mode, "cat other/secret.txt").code(1).prints("").says(&["Permission denied"]);
        walled(mode, "echo x > read/new.txt").code(2).prints("");
        walled(mode, "cat /etc/shadow; ls .; ls /proc").code(2).prints("");
        // What it starts is behind the wall too.
        walled(mode, "sh -c 'sh -c \"cat other/secret.txt\"'").code(1).prints("");
    }
    assert!(!place.path("read/new.txt").exists());
    // Signals and processes of others, mounts, namespaces.
    walled("strict", "unshare -U true 2>&1 | head -c 0; unshare -U true").code(1).prints("");
    // The network: ports by grant, and none without.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("its address").port();
    let connect = |grants: &str| {
        let script = format!("exec 3<>/dev/tcp/127.0.0.1/{port} && echo connected");
        pipeline(
            &place,
            &format!(r#"{{"command": ["bash", "-c", "{script}"], "sandbox": "strict", "grants": {grants}}}"#),
        );
        place.stagehost(["run", "p.json"]).done()
    };
    connect(&format!(r#"{{"net": ["tcp:127.0.0.1:{port}"]}}"#)).code(0).prints("connected\n");
    connect("{}").code(1).prints("");
    connect(r#"{"net": ["tcp:127.0.0.1:1"]}"#).code(1).prints("");
}

#[test]
fn a_walled_command_reaches_no_other_process() {
    let place = Place::new();
    if !has_landlock(&place) {
        return;
    }
    let walled = |script: &str| {
        let script = script.replace('"', "\\\"");
        pipeline(&place, &format!(r#"{{"command": ["bash", "-c", "{script}"], "sandbox": "strict"}}"#));
        place.stagehost(["run", "p.json"]).done()
    };
    // The host's own limits, turns and signals.
    walled("prlimit --pid $PPID --cpu=0:0 2>/dev/null; echo still here").code(0).prints("still here\n");
    walled("renice -n 19 -p $PPID > /dev/null 2>&1 || echo refused").code(0).prints("refused\n");
    walled("kill -KILL $PPID 2>/dev/null || echo refused").code(0).prints("refused\n");
    // What Landlock does not look at.
    place.write("file.txt", "x");
    walled("chmod 777 file.txt 2>/dev/null || echo refused").code(0).prints("refused\n");
    walled("touch -d 2001-01-01 file.txt 2>/dev/null || echo refused").code(0).prints("refused\n");
    // Sockets of any kind, by path too.
    let path = place.path("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&path).expect("a new socket");
    let connect = format!(
        "python3 -c 'import socket; socket.socket(socket.AF_UNIX).connect(\"{}\")' 2>/dev/null && echo connected; echo done",
        path.display()
    );
    walled(&connect).code(0).prints("done\n");
}

/// Programs do what they do without it: those of the usual ones that are here.
#[test]
fn the_usual_programs_run_as_they_do_without_a_wall() {
    let Some(place) = walled_place() else { return };
    place.write("read/in.txt", "b\na\n");
    place.write("read/main.c", "int main(void) { return 0; }\n");
    place.write("read/main.go", "package main\nimport \"os\"\nfunc main() { os.Stdout.WriteString(\"go\\n\") }\n");
    let programs: &[(&str, &[&str], &str)] = &[
        (
            "bash",
            &[
                "-c",
                "sort read/in.txt; (echo c) & wait; echo \"$(timeout 9 cat read/in.txt | wc -l)\"; cp -a read/in.txt write/; mv write/in.txt write/x; chmod 640 write/x; sed -i s/a/z/ write/x; cat write/x",
            ],
            "a\nb\nc\n2\nb\nz\n",
        ),
        (
            "python3",
            &[
                "-c",
                "import subprocess as s, multiprocessing as m, threading as t, os\nprint(s.run(['echo', 'x'], capture_output=True).stdout)\np = s.Popen(['sleep', '100'], start_new_session=True)\nos.killpg(os.getpgid(p.pid), 9)\nprint(p.wait())\nm.set_start_method('fork')\nq = m.Process(target=os._exit, args=(3,)); q.start(); q.join(); print(q.exitcode)\nh = t.Thread(target=print, args=('t',)); h.start(); h.join()",
            ],
            "b'x\\n'\n-9\n3\nt\n",
        ),
        (
            "perl",
            &[
                "-e",
                "print `echo x`; my $p = fork; exit 4 unless $p; waitpid $p, 0; print $? >> 8, \"\\n\"; open my $f, '>', 'write/p' or die; flock $f, 2 or die; print $f 1; close $f; rename 'write/p', 'write/q' or die; unlink 'write/q' or die; print scalar(select(undef, undef, undef, 0.01)), \"\\n\"",
            ],
            "x\n4\n0\n",
        ),
        (
            "node",
            &[
                "-e",
                "const c = require('child_process'); process.stdout.write(c.execSync('echo x')); require('fs').writeFileSync('write/n', 'y'); new (require('worker_threads').Worker)(\"console.log('w')\", {eval: true})",
            ],
            "x\nw\n",
        ),
        ("gcc", &["-O1", "-g", "-o", "write/main", "read/main.c"], ""),
        ("git", &["-c", "user.name=a", "-c", "user.email=a@b", "-C", "write", "init", "-q", "repo"], ""),
        (
            "bash",
            &[
                "-c",
                "type git > /dev/null 2>&1 || { echo r; exit; }; cd write/repo && git config user.name a && git config user.email a@b && echo x > f && git add f && git commit -q -m m && git gc -q && git log --format=%s | sed s/m/r/",
            ],
            "r\n",
        ),
        (
            "sqlite3",
            &["write/db", "pragma journal_mode=wal; create table t(a); insert into t values (1); select a from t;"],
            "wal\n1\n",
        ),
        ("busybox", &["sh", "-c", "sort read/in.txt | busybox tail -n 1"], "b\n"),
        (
            "bash",
            &[
                "-c",
                "type go > /dev/null 2>&1 || { echo go; exit; }; export GOCACHE=$PWD/write/go GO111MODULE=off TMPDIR=$PWD/write; go run read/main.go",
            ],
            "go\n",
        ),
    ];
    let mut ran = 0;
    for (program, arguments, printed) in programs {
        // The system's, which a wall lets be read.
        let program = format!("/usr/bin/{program}");
        if !std::path::Path::new(&program).exists() {
            continue;
        }
        let command: Vec<_> = [&*program].into_iter().chain(arguments.iter().copied()).collect();
        let output = strict(&place, &command, GRANTS);
        output.code(0).prints(printed).is_quiet();
        ran += 1;
    }
    assert!(ran >= 3, "a shell is everywhere");
    // What wants semaphores is granted where they are.
    let pool = "import multiprocessing as m\nm.set_start_method('fork')\nprint(m.Pool(2).map(abs, [-1, 2]))";
    let grants = r#", "grants": {"dirs": [{"host": "/dev/shm", "access": "write"}]}"#;
    if std::path::Path::new("/usr/bin/python3").exists() {
        strict(&place, &["/usr/bin/python3", "-c", pool], grants).code(0).prints("[1, 2]\n").is_quiet();
    }
}

#[test]
fn nothing_leaves_what_a_walled_commands_limits_count() {
    let Some(place) = walled_place() else { return };
    // Out of the group, and out of the session, with no parent left.
    let escape =
        "for i in 1 2 3 4 5 6 7 8; do setsid sh -c 'setsid sleep 1000 & exit' > /dev/null 2>&1 & done; wait; sleep 30";
    let output = strict(&place, &["bash", "-c", escape], r#", "limits": {"processes": 5}"#);
    output.code(137).says(&["limit of 5 processes"]);
    let output =
        strict(&place, &["bash", "-mc", "sleep 1000 > /dev/null 2>&1 & exit"], r#", "limits": {"processes": 5}"#);
    output.code(0).says(&["left behind", "sleep"]);
    // The kernel's limits too, by whoever it is run.
    let raise = "ulimit -n 4096 2> /dev/null && echo more files; ulimit -f unlimited 2> /dev/null && echo longer ones; echo done";
    let kernels = r#", "limits": {"open_files": 64, "file_size": "1MiB"}"#;
    strict(&place, &["bash", "-c", raise], kernels).code(0).prints("done\n");
    // No more descriptors than half of the host's, whatever is asked for: all that a user has on its way in sockets counts against each.
    let own: u64 = place.shell("ulimit -Hn").done().code(0).stdout_text().trim().parse().unwrap();
    let most = format!(r#", "limits": {{"open_files": {own}}}"#);
    strict(&place, &["bash", "-c", "ulimit -Hn"], &most).code(0).prints(format!("{}\n", own / 2));
    strict(&place, &["bash", "-c", "ulimit -Hn"], "").code(0).prints(format!("{}\n", own / 2));
    // Nor does it take turns before others, whoever it is run by.
    let own = place.shell("nice").done().code(0).stdout_text();
    strict(&place, &["sh", "-c", "nice -n -5 nice 2> /dev/null"], "").code(0).prints(own);
    // What is left is found, and nothing outlives the run.
    let daemon = "setsid sh -c 'setsid sleep 1000 & sleep 1000' > /dev/null 2>&1 & sleep 0.3; echo end";
    strict(&place, &["sh", "-c", daemon], "").code(0).prints("end\n").says(&["3 processes left behind"]);
    assert_eq!(leaks::marked(&place.path("")), [""; 0]);
    // Sessions come and go, more than are remembered at first; and who only asks for them ends like everybody.
    let many = "for i in $(seq 60); do setsid true; done; echo all";
    strict(&place, &["sh", "-c", many], "").code(0).prints("all\n").is_quiet();
    let storm = "use POSIX; setsid; while (1) { setsid }";
    strict(&place, &["perl", "-e", storm], r#", "limits": {"wall_time": "1s"}"#).code(124).says(&["wall_time"]);
    // A killed host takes them with it.
    let daemon = "setsid sh -c 'setsid sleep 1000 & sleep 1000' > /dev/null 2>&1 & sleep 0.3; > write/begun; wait";
    let command = serde_json::to_string(&["sh", "-c", daemon]).unwrap();
    pipeline(&place, &format!(r#"{{"command": {command}, "sandbox": "strict"{GRANTS}}}"#));
    let begun = place.path("write/begun");
    let mut running = place.stagehost(["run", "p.json"]).start();
    running.until("it has sessions of its own", || begun.exists());
    running.signal(Signal::KILL);
    running.killed();
    let deadline = std::time::Instant::now() + stagehost_tests::PATIENCE;
    while !leaks::marked(&place.path("")).is_empty() {
        assert!(std::time::Instant::now() < deadline, "{:?}", leaks::marked(&place.path("")));
        std::thread::yield_now();
    }
}

#[test]
fn a_walled_command_makes_nothing_privileged_and_changes_no_metadata() {
    let Some(place) = walled_place() else { return };
    place.write("write/f", "x");
    let perl = |script: &str, more: &str| strict(&place, &["perl", "-e", script], more);
    // Neither by descriptor nor by path; the output is a file of the host's.
    let by_descriptor =
        "use Fcntl ':mode'; chmod(04755, *STDOUT) and print 'changed '; chown(0, 0, *STDOUT) and print 'changed ';
        utime(1, 1, *STDOUT) and print 'changed '; print \"done\\n\"";
    perl(by_descriptor, "").code(0).prints("done\n");
    // `strict` has left the pipeline.
    place.stagehost(["run", "p.json", "--stdout", "out"]).done().code(0);
    assert_eq!(place.read("out"), "done\n");
    // With a directory to write to, modes are its own matter, but for those that give rights away.
    let making = "use Fcntl; sysopen(F, 'write/new', O_CREAT|O_RDWR, 04755) and print 'made '; chmod(02755, 'write/f') and print 'set ';
        chmod(0640, 'write/f') or print 'kept '; sysopen(G, 'write/plain', O_CREAT|O_RDWR, 0755) or print 'not made '; print \"done\\n\"";
    perl(making, GRANTS).code(0).prints("done\n");
    assert!(!place.path("write/new").exists());
    // Objects without a path, priorities of all the user's processes, and names that are watched.
    let others = "print 'queue ' if defined msgget(1, 0600 | 01000); print 'memory ' if defined shmget(1, 64, 0600 | 01000);
        print 'semaphore ' if defined semget(1, 1, 0600 | 01000); print 'turns ' if setpriority(2, 0, 19); print 'group ' if setpriority(1, 0, 19);
        print \"done\\n\"";
    perl(others, "").code(0).prints("done\n");
}

#[test]
fn outputs_are_published_without_set_user_bits() {
    let place = Place::new();
    // Whoever is trusted with more may set them on the file that will be the output, or they are there already.
    place.shorthand("perl -e 'chmod(06755, *STDOUT) or die; print 1'").args(["--stdout", "out"]).done().code(0);
    use std::os::unix::fs::PermissionsExt;
    let mode = |name: &str| fs::metadata(place.path(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode("out"), 0o755);
    fs::set_permissions(place.path("out"), fs::Permissions::from_mode(0o6755)).unwrap();
    place.shorthand("echo 2").args(["--stdout", "out"]).done().code(0);
    assert_eq!((mode("out"), place.read("out").as_str()), (0o755, "2\n"));
}

#[test]
fn what_a_policy_lets_nobody_run_is_not_run_from_granted_directories() {
    let Some(place) = walled_place() else { return };
    place.shell("cp /bin/true read/true && mkdir bin && cp read/true bin/true").done().code(0);
    let policy = |plugins: &str| format!(r#"{{"plugins": [{plugins}], "dirs": [{{"path": "."}}]}}"#);
    let run = |plugins: &str, program: &str| {
        place.write("policy.json", policy(plugins));
        pipeline(
            &place,
            &format!(
                r#"{{"command": ["sh", "-c", "{program}"], "sandbox": "strict", "grants": {{"dirs": [{{"host": "read"}}, {{"host": "bin"}}]}}}}"#
            ),
        );
        place.stagehost(["run", "p.json", "--policy", "policy.json"]).done()
    };
    run(r#""bin""#, "bin/true").code(0);
    run(r#""bin""#, "read/true").code(126).says(&["Permission denied"]);
    run("", "bin/true").code(126);
}
