;; sleeps for u64::MAX nanoseconds
(component
  (import "wasi:io/poll@0.2.0" (instance $io
    (export "pollable" (type $p (sub resource)))
    (export "[method]pollable.block" (func (param "self" (borrow $p))))))
  (alias export $io "pollable" (type $p))
  (import "wasi:clocks/monotonic-clock@0.2.0" (instance $c
    (export "pollable" (type (eq $p)))
    (export "subscribe-duration" (func (param "when" u64) (result (own $p))))))
  (core func $sub (canon lower (func $c "subscribe-duration")))
  (core func $block (canon lower (func $io "[method]pollable.block")))
  (core module $m
    (import "h" "sub" (func $sub (param i64) (result i32)))
    (import "h" "block" (func $block (param i32)))
    (func (export "run") (result i32) (call $block (call $sub (i64.const -1))) (i32.const 0)))
  (core instance $i (instantiate $m (with "h" (instance (export "sub" (func $sub)) (export "block" (func $block))))))
  (func $run (result (result)) (canon lift (core func $i "run")))
  (instance $r (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $r)))
