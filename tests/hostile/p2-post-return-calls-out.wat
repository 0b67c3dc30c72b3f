;; calls the host from its post-return function
(component
  (import "wasi:clocks/monotonic-clock@0.2.0" (instance $c (export "now" (func (result u64)))))
  (core func $now (canon lower (func $c "now")))
  (core module $m
    (import "h" "now" (func $now (result i64)))
    (func (export "run") (result i32) (i32.const 0))
    (func (export "post") (param i32) (drop (call $now))))
  (core instance $i (instantiate $m (with "h" (instance (export "now" (func $now))))))
  (func $run (result (result)) (canon lift (core func $i "run") (post-return (core func $i "post"))))
  (instance $r (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $r)))
