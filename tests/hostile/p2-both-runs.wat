;; exports wasi:cli/run of 0.2 twice in different versions, the later one traps
(component
  (core module $m
    (func (export "good") (result i32) (i32.const 0))
    (func (export "bad") (result i32) unreachable))
  (core instance $i (instantiate $m))
  (func $good (result (result)) (canon lift (core func $i "good")))
  (func $bad (result (result)) (canon lift (core func $i "bad")))
  (instance $r1 (export "run" (func $good)))
  (instance $r2 (export "run" (func $bad)))
  (export "wasi:cli/run@0.2.0" (instance $r1))
  (export "wasi:cli/run@0.2.3" (instance $r2)))
