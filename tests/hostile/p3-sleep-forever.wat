;; waits for u64::MAX nanoseconds
(component
  (import "wasi:clocks/monotonic-clock@0.3.0" (instance $c
    (export "wait-for" (func async (param "how-long" u64)))))
  (core module $mem (memory (export "m") 1))
  (core instance $mem (instantiate $mem))
  (core func $wait-for (canon lower (func $c "wait-for") async))
  (core func $set-new (canon waitable-set.new))
  (core func $set-wait (canon waitable-set.wait (memory (core memory $mem "m"))))
  (core func $join (canon waitable.join))
  (core module $m
    (import "h" "m" (memory 1))
    (import "h" "wait-for" (func $wait-for (param i64) (result i32)))
    (import "h" "set-new" (func $set-new (result i32)))
    (import "h" "set-wait" (func $set-wait (param i32 i32) (result i32)))
    (import "h" "join" (func $join (param i32 i32)))
    (func (export "run") (result i32) (local $set i32)
      (call $join (i32.shr_u (call $wait-for (i64.const -1)) (i32.const 4)) (local.tee $set (call $set-new)))
      (drop (call $set-wait (local.get $set) (i32.const 0)))
      (i32.const 0)))
  (core instance $i (instantiate $m (with "h" (instance (export "m" (memory $mem "m")) (export "wait-for" (func $wait-for)) (export "set-new" (func $set-new)) (export "set-wait" (func $set-wait)) (export "join" (func $join))))))
  (func $run async (result (result)) (canon lift (core func $i "run")))
  (instance $r (export "run" (func $run)))
  (export "wasi:cli/run@0.3.0" (instance $r)))
