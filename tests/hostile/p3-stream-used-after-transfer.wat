;; drops a readable end that it has handed to stdout
(component
  (import "wasi:cli/stdout@0.3.0" (instance $so
    (type $en (enum "io" "illegal-byte-sequence" "pipe"))
    (export "error-code" (type $ec (eq $en)))
    (export "write-via-stream" (func (param "data" (stream u8)) (result (future (result (error $ec))))))))
  (type $s (stream u8))
  (core func $stdout (canon lower (func $so "write-via-stream")))
  (core func $new (canon stream.new $s))
  (core func $drop-readable (canon stream.drop-readable $s))
  (core module $m
    (import "h" "stdout" (func $stdout (param i32) (result i32)))
    (import "h" "new" (func $new (result i64)))
    (import "h" "drop-readable" (func $drop-readable (param i32)))
    (func (export "run") (result i32) (local $p i64)
      (local.set $p (call $new))
      (drop (call $stdout (i32.wrap_i64 (local.get $p))))
      (call $drop-readable (i32.wrap_i64 (local.get $p)))
      (i32.const 0)))
  (core instance $i (instantiate $m (with "h" (instance (export "stdout" (func $stdout)) (export "new" (func $new)) (export "drop-readable" (func $drop-readable))))))
  (func $run async (result (result)) (canon lift (core func $i "run")))
  (instance $r (export "run" (func $run)))
  (export "wasi:cli/run@0.3.0" (instance $r)))
