;; imports wasi:clocks/monotonic-clock with a `now` that gives a string
(component
  (import "wasi:clocks/monotonic-clock@0.2.0" (instance $c (export "now" (func (result string)))))
  (core module $m (func (export "run") (result i32) (i32.const 0)))
  (core instance $i (instantiate $m))
  (func $run (result (result)) (canon lift (core func $i "run")))
  (instance $r (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $r)))
