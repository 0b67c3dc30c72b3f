;; returns an error from run
(component
  (core module $m
    (func (export "run") (result i32)
      (i32.const 1)))
  (core instance $i (instantiate $m))
  (func $run async (result (result)) (canon lift (core func $i "run")))
  (instance $r (export "run" (func $run)))
  (export "wasi:cli/run@0.3.0" (instance $r)))
