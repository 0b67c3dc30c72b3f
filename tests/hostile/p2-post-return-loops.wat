;; loops forever in its post-return function
(component
  (core module $m
    (func (export "run") (result i32) (i32.const 0))
    (func (export "post") (param i32) (loop $l (br $l))))
  (core instance $i (instantiate $m))
  (func $run (result (result)) (canon lift (core func $i "run") (post-return (core func $i "post"))))
  (instance $r (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $r)))
