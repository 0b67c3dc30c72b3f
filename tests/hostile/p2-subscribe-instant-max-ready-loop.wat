;; asks without end whether the end of time has come
(component
  (import "wasi:io/poll@0.2.0" (instance $io
    (export "pollable" (type $p (sub resource)))
    (export "[method]pollable.ready" (func (param "self" (borrow $p)) (result bool)))))
  (alias export $io "pollable" (type $p))
  (import "wasi:clocks/monotonic-clock@0.2.0" (instance $c
    (export "pollable" (type (eq $p)))
    (export "subscribe-instant" (func (param "when" u64) (result (own $p))))))
  (core func $sub (canon lower (func $c "subscribe-instant")))
  (core func $ready (canon lower (func $io "[method]pollable.ready")))
  (core module $m
    (import "h" "sub" (func $sub (param i64) (result i32)))
    (import "h" "ready" (func $ready (param i32) (result i32)))
    (func (export "run") (result i32) (local $p i32)
      (local.set $p (call $sub (i64.const -1)))
      (loop $l (br_if $l (i32.eqz (call $ready (local.get $p)))))
      (i32.const 0)))
  (core instance $i (instantiate $m (with "h" (instance (export "sub" (func $sub)) (export "ready" (func $ready))))))
  (func $run (result (result)) (canon lift (core func $i "run")))
  (instance $r (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $r)))
