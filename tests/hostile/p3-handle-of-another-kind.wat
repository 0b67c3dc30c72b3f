;; uses a waitable set as a stream
(component
  (type $s (stream u8))
  (core module $mem (memory (export "m") 1))
  (core instance $mem (instantiate $mem))
  (core func $set-new (canon waitable-set.new))
  (core func $read (canon stream.read $s async (memory (core memory $mem "m"))))
  (core module $m
    (import "h" "m" (memory 1))
    (import "h" "set-new" (func $set-new (result i32)))
    (import "h" "read" (func $read (param i32 i32 i32) (result i32)))
    (func (export "run") (result i32)
      (drop (call $read (call $set-new) (i32.const 0) (i32.const 1)))
      (i32.const 0)))
  (core instance $i (instantiate $m (with "h" (instance (export "m" (memory $mem "m")) (export "set-new" (func $set-new)) (export "read" (func $read))))))
  (func $run async (result (result)) (canon lift (core func $i "run")))
  (instance $r (export "run" (func $run)))
  (export "wasi:cli/run@0.3.0" (instance $r)))
