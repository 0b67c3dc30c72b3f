;; waits for ever on an empty waitable set through its callback code
(component
  (core func $set-new (canon waitable-set.new))
  (core module $m
    (import "h" "set-new" (func $set-new (result i32)))
    (func (export "run") (result i32)
      (i32.or (i32.const 2) (i32.shl (call $set-new) (i32.const 4))))
    (func (export "cb") (param $event i32) (param $a i32) (param $b i32) (result i32)
      unreachable))
  (core instance $i (instantiate $m (with "h" (instance (export "set-new" (func $set-new))))))
  (func $run async (result (result)) (canon lift (core func $i "run") async (callback (core func $i "cb"))))
  (instance $r (export "run" (func $run)))
  (export "wasi:cli/run@0.3.0" (instance $r)))
