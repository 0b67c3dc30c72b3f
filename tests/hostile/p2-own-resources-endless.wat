;; makes resources of its own and never drops them
(component
  (type $mine (resource (rep i32)))
  (core func $new (canon resource.new $mine))
  (core module $m
    (import "h" "new" (func $new (param i32) (result i32)))
    (func (export "run") (result i32) (loop $l (drop (call $new (i32.const 1))) (br $l)) unreachable))
  (core instance $i (instantiate $m (with "h" (instance (export "new" (func $new))))))
  (func $run (result (result)) (canon lift (core func $i "run")))
  (instance $r (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $r)))
