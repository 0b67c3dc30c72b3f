;; polls a list that names the same endless timer 1,000,000 times
(component
  (import "wasi:io/poll@0.2.0" (instance $io
    (export "pollable" (type $p (sub resource)))
    (export "poll" (func (param "in" (list (borrow $p))) (result (list u32))))))
  (alias export $io "pollable" (type $p))
  (import "wasi:clocks/monotonic-clock@0.2.0" (instance $c
    (export "pollable" (type (eq $p)))
    (export "subscribe-duration" (func (param "when" u64) (result (own $p))))))
  (core module $mem
    (memory (export "m") 70)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024)))
  (core instance $mem (instantiate $mem))
  (core func $sub (canon lower (func $c "subscribe-duration")))
  (core func $poll (canon lower (func $io "poll") (memory (core memory $mem "m")) (realloc (core func $mem "realloc"))))
  (core module $m
    (import "h" "m" (memory 70))
    (import "h" "sub" (func $sub (param i64) (result i32)))
    (import "h" "poll" (func $poll (param i32 i32 i32)))
    (func (export "run") (result i32) (local $p i32) (local $a i32)
      (local.set $p (call $sub (i64.const -1)))
      (loop $l
        (i32.store (local.get $a) (local.get $p))
        (br_if $l (i32.lt_u (local.tee $a (i32.add (local.get $a) (i32.const 4))) (i32.const 4000000))))
      (call $poll (i32.const 0) (i32.const 1000000) (i32.const 4100000)) (i32.const 0)))
  (core instance $i (instantiate $m (with "h" (instance (export "m" (memory $mem "m")) (export "sub" (func $sub)) (export "poll" (func $poll))))))
  (func $run (result (result)) (canon lift (core func $i "run")))
  (instance $r (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $r)))
