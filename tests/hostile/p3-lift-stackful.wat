;; lifts run as async without a callback
(component
  (core func $return (canon task.return (result (result))))
  (core module $m
    (import "h" "return" (func $return (param i32)))
    (func (export "run") 
      (call $return (i32.const 0))))
  (core instance $i (instantiate $m (with "h" (instance (export "return" (func $return))))))
  (func $run async (result (result)) (canon lift (core func $i "run") async))
  (instance $r (export "run" (func $run)))
  (export "wasi:cli/run@0.3.0" (instance $r)))
