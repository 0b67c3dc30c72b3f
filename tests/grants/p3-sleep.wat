;; sleeps for an hour; 0: its clock agrees, 1: it does not
(component
  (import "wasi:clocks/monotonic-clock@0.3.0" (instance $clock
    (export "now" (func (result u64)))
    (export "wait-for" (func async (param "how-long" u64)))))
  (import "wasi:cli/exit@0.3.0" (instance $exit (export "exit-with-code" (func (param "status-code" u8)))))
  (core func $now (canon lower (func $clock "now")))
  (core func $wait-for (canon lower (func $clock "wait-for")))
  (core func $exit (canon lower (func $exit "exit-with-code")))
  (core module $m
    (import "h" "now" (func $now (result i64)))
    (import "h" "wait-for" (func $wait-for (param i64)))
    (import "h" "exit" (func $exit (param i32)))
    (func (export "run") (result i32) (local $before i64)
      (local.set $before (call $now))
      (call $wait-for (i64.const 3600000000000))
      (if (i64.lt_u (i64.sub (call $now) (local.get $before)) (i64.const 3600000000000)) (then (call $exit (i32.const 1))))
      (i32.const 0)))
  (core instance $i (instantiate $m (with "h" (instance
    (export "now" (func $now))
    (export "wait-for" (func $wait-for))
    (export "exit" (func $exit))))))
  (func $run async (result (result)) (canon lift (core func $i "run")))
  (instance $r (export "run" (func $run)))
  (export "wasi:cli/run@0.3.0" (instance $r)))
