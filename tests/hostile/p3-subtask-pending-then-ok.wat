;; returns Ok while a wait of an hour is pending
(component
  (import "wasi:clocks/monotonic-clock@0.3.0" (instance $c
    (export "wait-for" (func async (param "how-long" u64)))))
  (core func $wait-for (canon lower (func $c "wait-for") async))
  (core module $m
    (import "h" "wait-for" (func $wait-for (param i64) (result i32)))
    (func (export "run") (result i32)
      (drop (call $wait-for (i64.const 3600000000000)))
      (i32.const 0)))
  (core instance $i (instantiate $m (with "h" (instance (export "wait-for" (func $wait-for))))))
  (func $run async (result (result)) (canon lift (core func $i "run")))
  (instance $r (export "run" (func $run)))
  (export "wasi:cli/run@0.3.0" (instance $r)))
