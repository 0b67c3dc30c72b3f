;; makes and drops streams without end
(component
  (type $s (stream u8))
  (core func $new (canon stream.new $s))
  (core func $drop-readable (canon stream.drop-readable $s))
  (core func $drop-writable (canon stream.drop-writable $s))
  (core module $m
    (import "h" "new" (func $new (result i64)))
    (import "h" "drop-readable" (func $drop-readable (param i32)))
    (import "h" "drop-writable" (func $drop-writable (param i32)))
    (func (export "run") (result i32) (local $p i64)
      (loop $l
        (local.set $p (call $new))
        (call $drop-readable (i32.wrap_i64 (local.get $p)))
        (call $drop-writable (i32.wrap_i64 (i64.shr_u (local.get $p) (i64.const 32))))
        (br $l))
      unreachable))
  (core instance $i (instantiate $m (with "h" (instance (export "new" (func $new)) (export "drop-readable" (func $drop-readable)) (export "drop-writable" (func $drop-writable))))))
  (func $run async (result (result)) (canon lift (core func $i "run")))
  (instance $r (export "run" (func $run)))
  (export "wasi:cli/run@0.3.0" (instance $r)))
