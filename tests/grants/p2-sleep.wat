;; sleeps for an hour; 0: its clock agrees, 1: it does not
(component
  (import "wasi:io/poll@0.2.0" (instance $io
    (export "pollable" (type $p (sub resource)))
    (export "[method]pollable.block" (func (param "self" (borrow $p))))))
  (alias export $io "pollable" (type $p))
  (import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock
    (export "pollable" (type (eq $p)))
    (export "now" (func (result u64)))
    (export "subscribe-duration" (func (param "when" u64) (result (own $p))))))
  (import "wasi:cli/exit@0.2.0" (instance $exit (export "exit-with-code" (func (param "status-code" u8)))))
  (core func $now (canon lower (func $clock "now")))
  (core func $subscribe (canon lower (func $clock "subscribe-duration")))
  (core func $block (canon lower (func $io "[method]pollable.block")))
  (core func $exit (canon lower (func $exit "exit-with-code")))
  (core module $m
    (import "h" "now" (func $now (result i64)))
    (import "h" "subscribe" (func $subscribe (param i64) (result i32)))
    (import "h" "block" (func $block (param i32)))
    (import "h" "exit" (func $exit (param i32)))
    (func (export "run") (result i32) (local $before i64)
      (local.set $before (call $now))
      (call $block (call $subscribe (i64.const 3600000000000)))
      (if (i64.lt_u (i64.sub (call $now) (local.get $before)) (i64.const 3600000000000)) (then (call $exit (i32.const 1))))
      (i32.const 0)))
  (core instance $i (instantiate $m (with "h" (instance
    (export "now" (func $now))
    (export "subscribe" (func $subscribe))
    (export "block" (func $block))
    (export "exit" (func $exit))))))
  (func $run (result (result)) (canon lift (core func $i "run")))
  (instance $r (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $r)))
