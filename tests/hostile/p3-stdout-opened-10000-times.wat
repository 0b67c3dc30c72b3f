;; opens stdout 10,000 times and drops nothing
(component
  (import "wasi:cli/stdout@0.3.0" (instance $so
    (type $en (enum "io" "illegal-byte-sequence" "pipe"))
    (export "error-code" (type $ec (eq $en)))
    (export "write-via-stream" (func (param "data" (stream u8)) (result (future (result (error $ec))))))))
  (type $s (stream u8))
  (core func $stdout (canon lower (func $so "write-via-stream")))
  (core func $new (canon stream.new $s))
  (core module $m
    (import "h" "stdout" (func $stdout (param i32) (result i32)))
    (import "h" "new" (func $new (result i64)))
    (func (export "run") (result i32) (local $p i64) (local $n i32)
      (loop $l
        (local.set $p (call $new))
        (drop (call $stdout (i32.wrap_i64 (local.get $p))))
        (br_if $l (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 10000))))
      (i32.const 0)))
  (core instance $i (instantiate $m (with "h" (instance (export "stdout" (func $stdout)) (export "new" (func $new))))))
  (func $run async (result (result)) (canon lift (core func $i "run")))
  (instance $r (export "run" (func $run)))
  (export "wasi:cli/run@0.3.0" (instance $r)))
