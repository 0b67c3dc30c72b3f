;; waits for ever on an empty waitable set
(component
  (core module $mem (memory (export "m") 1))
  (core instance $mem (instantiate $mem))
  (core func $set-new (canon waitable-set.new))
  (core func $set-wait (canon waitable-set.wait (memory (core memory $mem "m"))))
  (core module $m
    (import "h" "m" (memory 1))
    (import "h" "set-new" (func $set-new (result i32)))
    (import "h" "set-wait" (func $set-wait (param i32 i32) (result i32)))
    (func (export "run") (result i32)
      (drop (call $set-wait (call $set-new) (i32.const 0)))
      (i32.const 0)))
  (core instance $i (instantiate $m (with "h" (instance (export "m" (memory $mem "m")) (export "set-new" (func $set-new)) (export "set-wait" (func $set-wait))))))
  (func $run async (result (result)) (canon lift (core func $i "run")))
  (instance $r (export "run" (func $run)))
  (export "wasi:cli/run@0.3.0" (instance $r)))
