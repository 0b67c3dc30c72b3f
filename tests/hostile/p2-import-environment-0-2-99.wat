;; imports wasi:cli/environment of a 0.2 version that does not exist yet, and ends well
(component
  (import "wasi:cli/environment@0.2.99" (instance $env
    (export "get-arguments" (func (result (list string))))))
  (core module $m (func (export "run") (result i32) (i32.const 0)))
  (core instance $i (instantiate $m))
  (func $run (result (result)) (canon lift (core func $i "run")))
  (instance $r (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $r)))
