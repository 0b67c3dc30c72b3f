;; makes 10,000 futures and never drops one
(component
  (type $f (future u8))
  (core func $future-new (canon future.new $f))
  (core module $m
    (import "h" "future-new" (func $future-new (result i64)))
    (func (export "run") (result i32) (local $n i32)
      (loop $l
        (drop (call $future-new))
        (br_if $l (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 10000))))
      (i32.const 0)))
  (core instance $i (instantiate $m (with "h" (instance (export "future-new" (func $future-new))))))
  (func $run async (result (result)) (canon lift (core func $i "run")))
  (instance $r (export "run" (func $run)))
  (export "wasi:cli/run@0.3.0" (instance $r)))
