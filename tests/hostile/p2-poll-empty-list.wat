;; polls an empty list
(component
  (import "wasi:io/poll@0.2.0" (instance $io
    (export "pollable" (type $p (sub resource)))
    (export "poll" (func (param "in" (list (borrow $p))) (result (list u32))))))
  (core module $mem
    (memory (export "m") 1)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024)))
  (core instance $mem (instantiate $mem))
  (core func $poll (canon lower (func $io "poll") (memory (core memory $mem "m")) (realloc (core func $mem "realloc"))))
  (core module $m
    (import "h" "poll" (func $poll (param i32 i32 i32)))
    (func (export "run") (result i32) (call $poll (i32.const 0) (i32.const 0) (i32.const 64)) (i32.const 0)))
  (core instance $i (instantiate $m (with "h" (instance (export "poll" (func $poll))))))
  (func $run (result (result)) (canon lift (core func $i "run")))
  (instance $r (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $r)))
