;; drops the writable end of a future without writing
(component
  (type $f (future u8))
  (core func $future-new (canon future.new $f))
  (core func $future-drop-writable (canon future.drop-writable $f))
  (core module $m
    (import "h" "future-new" (func $future-new (result i64)))
    (import "h" "future-drop-writable" (func $future-drop-writable (param i32)))
    (func (export "run") (result i32) (local $p i64)
      (local.set $p (call $future-new))
      (call $future-drop-writable (i32.wrap_i64 (i64.shr_u (local.get $p) (i64.const 32))))
      (i32.const 0)))
  (core instance $i (instantiate $m (with "h" (instance (export "future-new" (func $future-new)) (export "future-drop-writable" (func $future-drop-writable))))))
  (func $run async (result (result)) (canon lift (core func $i "run")))
  (instance $r (export "run" (func $run)))
  (export "wasi:cli/run@0.3.0" (instance $r)))
