;; returns Ok by task.return, yields once and then traps
(component
  (core func $return (canon task.return (result (result))))
  (core module $m
    (import "h" "return" (func $return (param i32)))
    (func (export "run") (result i32)
      (call $return (i32.const 0))
      (i32.const 1))
    (func (export "cb") (param $event i32) (param $a i32) (param $b i32) (result i32)
      unreachable))
  (core instance $i (instantiate $m (with "h" (instance (export "return" (func $return))))))
  (func $run async (result (result)) (canon lift (core func $i "run") async (callback (core func $i "cb"))))
  (instance $r (export "run" (func $run)))
  (export "wasi:cli/run@0.3.0" (instance $r)))
