;; polls half a million timers that never fire in one call; exits with 8 if told an error
(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1000)
  (func (export "_start") (local $p i32)
    (loop $l
      (i32.store offset=16 (local.get $p) (i32.const 1))
      (i64.store offset=24 (local.get $p) (i64.const 0x7fffffffffffffff))
      (br_if $l (i32.lt_u (local.tee $p (i32.add (local.get $p) (i32.const 48))) (i32.const 24000000))))
    (if (call $poll (i32.const 0) (i32.const 24000000) (i32.const 500000) (i32.const 65000000)) (then (call $exit (i32.const 8))))))
