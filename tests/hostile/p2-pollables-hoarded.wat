;; subscribes to the clock without end and drops nothing
(component
  (import "wasi:io/poll@0.2.0" (instance $io (export "pollable" (type (sub resource)))))
  (alias export $io "pollable" (type $p))
  (import "wasi:clocks/monotonic-clock@0.2.0" (instance $c
    (export "pollable" (type (eq $p)))
    (export "subscribe-duration" (func (param "when" u64) (result (own $p))))))
  (core func $sub (canon lower (func $c "subscribe-duration")))
  (core module $m
    (import "h" "sub" (func $sub (param i64) (result i32)))
    (func (export "run") (result i32) (loop $l (drop (call $sub (i64.const 1000000000000))) (br $l)) unreachable))
  (core instance $i (instantiate $m (with "h" (instance (export "sub" (func $sub))))))
  (func $run (result (result)) (canon lift (core func $i "run")))
  (instance $r (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $r)))
