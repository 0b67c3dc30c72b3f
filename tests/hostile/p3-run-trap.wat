;; executes unreachable
(component
  (core module $m
    (func (export "run") (result i32)
      unreachable))
  (core instance $i (instantiate $m))
  (func $run async (result (result)) (canon lift (core func $i "run")))
  (instance $r (export "run" (func $run)))
  (export "wasi:cli/run@0.3.0" (instance $r)))
