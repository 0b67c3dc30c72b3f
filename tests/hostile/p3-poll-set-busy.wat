;; polls an empty waitable set without end
(component
  (core module $mem (memory (export "m") 1))
  (core instance $mem (instantiate $mem))
  (core func $set-new (canon waitable-set.new))
  (core func $set-poll (canon waitable-set.poll (memory (core memory $mem "m"))))
  (core module $m
    (import "h" "m" (memory 1))
    (import "h" "set-new" (func $set-new (result i32)))
    (import "h" "set-poll" (func $set-poll (param i32 i32) (result i32)))
    (func (export "run") (result i32) (local $set i32)
      (local.set $set (call $set-new))
      (loop $l (br_if $l (i32.eqz (call $set-poll (local.get $set) (i32.const 0)))))
      unreachable))
  (core instance $i (instantiate $m (with "h" (instance (export "m" (memory $mem "m")) (export "set-new" (func $set-new)) (export "set-poll" (func $set-poll))))))
  (func $run async (result (result)) (canon lift (core func $i "run")))
  (instance $r (export "run" (func $run)))
  (export "wasi:cli/run@0.3.0" (instance $r)))
