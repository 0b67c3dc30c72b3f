//! What a command's first process leaves behind, and who counts it.

use std::time::Duration;

use rustix::process::Signal;
use stagehost_tests::Place;

fn pipeline(place: &Place, text: &str) {
    place.write("p.json", text);
}

#[test]
fn a_commands_limits_hold_as_long_as_there_is_anything_of_it() {
    let place = Place::new();
    // Its first process is gone, and what that started grows.
    let grows = "(for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 1000 & done; wait) > /dev/null 2>&1 & exit 0";
    let file = |limits: &str| {
        let command = serde_json::to_string(&["sh", "-c", grows]).unwrap();
        format!(
            r#"{{"version": 1, "stdin": "null", "linger": "10m", "stages": [{{"command": {command}, "limits": {limits}}}]}}"#
        )
    };
    pipeline(&place, &file(r#"{"processes": 5}"#));
    place
        .stagehost(["run", "p.json"])
        .done()
        .code(0)
        .says(&["what it left behind reached its limit of 5 processes", "killed"]);
    // A stop is for what lingers, too.
    pipeline(&place, &file("{}"));
    let mut running = place.stagehost(["run", "p.json"]).start();
    let id = running.id();
    // What it started is the host's child then, in a group that another led.
    let is_adopted = |pid: &str| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields: Vec<_> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        stat.contains("(sh)") && fields.get(2).is_some_and(|group| *group != pid)
    };
    running.until("the first process has ended", || {
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        children.split_whitespace().any(is_adopted)
    });
    running.signal(Signal::TERM);
    let output = running.done();
    assert!(output.took < Duration::from_secs(20), "{output}");
    let _ = output.says(&["stopped by signal 15"]);
}

#[test]
fn processor_time_counts_whoever_waits_for_it_or_nobody() {
    let place = Place::new();
    for disposition in ["IGNORE", "DEFAULT"] {
        let program = format!(
            "$SIG{{CHLD}} = '{disposition}'; for (1 .. 60) {{ if (!fork) {{ 1 while (times)[0] < 0.15; exit }} wait }}"
        );
        let command = serde_json::to_string(&["perl", "-e", &program]).unwrap();
        let stage = format!(r#"{{"command": {command}, "limits": {{"cpu_time": "1s"}}}}"#);
        pipeline(&place, &format!(r#"{{"version": 1, "stdin": "null", "stages": [{stage}]}}"#));
        place.stagehost(["run", "p.json"]).done().code(152).says(&["cpu_time limit of 1s"]);
    }
}

/// A program whose first thread ends at once; another holds memory that it has written to, and computes for `seconds`.
fn threads(place: &Place) {
    place.write(
        "threads.c",
        r#"#include <pthread.h>
        #include <stdlib.h>
        #include <string.h>
        #include <time.h>
        #include <unistd.h>
        static char **words;
        static void *other(void *none) {
            size_t bytes = strtoul(words[2], 0, 10) << 20;
            char *held = malloc(bytes + 1);
            memset(held, 1, bytes + 1);
            time_t until = time(0) + atoi(words[1]);
            while (time(0) < until) held[bytes]++;
            exit(7);
        }
        int main(int count, char **given) {
            words = given;
            if (count > 3 && fork()) return 0;
            pthread_t thread;
            pthread_create(&thread, 0, other, 0);
            pthread_exit(0);
        }"#,
    );
    place.program("cc").args(["-O1", "-pthread", "-o", "threads", "threads.c"]).done().code(0);
}

#[test]
fn a_process_whose_first_thread_has_ended_is_there_all_the_same() {
    let place = Place::new();
    threads(&place);
    let run = |words: &str, limits: &str| {
        let words: Vec<_> = words.split(' ').collect();
        let command = serde_json::to_string(&[&["./threads"], &words[..]].concat()).unwrap();
        let stage = format!(r#"{{"command": {command}, "limits": {{{limits}}}}}"#);
        pipeline(&place, &format!(r#"{{"version": 1, "stdin": "null", "linger": "10m", "stages": [{stage}]}}"#));
        place.stagehost(["run", "p.json"]).done()
    };
    run("60 300", r#""memory": "100MiB""#).code(137).says(&["memory limit of 100 MiB"]);
    run("60 1", r#""cpu_time": "200ms""#).code(152).says(&["cpu_time limit of 200ms"]);
    run("1 1", "").code(7);
    // As what a command left behind.
    run("60 300 fork", r#""memory": "100MiB""#)
        .code(0)
        .says(&["what it left behind reached its memory limit", "killed"]);
    run("60 1 fork", r#""cpu_time": "200ms""#)
        .code(0)
        .says(&["what it left behind reached its cpu_time limit", "killed"]);
    pipeline(
        &place,
        r#"{"version": 1, "stdin": "null", "linger": "1ms", "stages": [{"command": ["./threads", "60", "1", "fork"]}]}"#,
    );
    // Whoever is left is found and ended with the run, which the test's own check for leaks sees to.
    place.stagehost(["run", "p.json"]).done().code(0).says(&["left behind, killed: threads"]);
}
