;; raises the backpressure counter 70,000 times
(component
  (core func $backpressure (canon backpressure.inc))
  (core module $m
    (import "h" "backpressure" (func $backpressure))
    (func (export "run") (result i32) (local $n i32)
      (loop $l
        (call $backpressure)
        (br_if $l (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 70000))))
      (i32.const 0)))
  (core instance $i (instantiate $m (with "h" (instance (export "backpressure" (func $backpressure))))))
  (func $run async (result (result)) (canon lift (core func $i "run")))
  (instance $r (export "run" (func $run)))
  (export "wasi:cli/run@0.3.0" (instance $r)))
