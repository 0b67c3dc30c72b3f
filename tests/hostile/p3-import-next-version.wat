;; imports wasi:cli/exit of a 0.3 version that does not exist yet
(component
  (import "wasi:cli/exit@0.3.99" (instance $e (export "exit" (func (param "status" (result))))))
  (core module $m
    (func (export "run") (result i32)
      (i32.const 0)))
  (core instance $i (instantiate $m))
  (func $run async (result (result)) (canon lift (core func $i "run")))
  (instance $r (export "run" (func $run)))
  (export "wasi:cli/run@0.3.0" (instance $r)))
