;; writes 10,000 iovecs that all name the same 16 MiB in one call, once; exits with 8 if told an error
(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 400)
  (func (export "_start") (local $p i32)
    (loop $l
      (i64.store (local.get $p) (i64.const 0x0100000000100000))
      (br_if $l (i32.lt_u (local.tee $p (i32.add (local.get $p) (i32.const 8))) (i32.const 80000))))
    (if (call $write (i32.const 1) (i32.const 0) (i32.const 10000) (i32.const 900000)) (then (call $exit (i32.const 8))))))
