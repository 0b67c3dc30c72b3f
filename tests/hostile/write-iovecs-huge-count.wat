;; writes with 2^29-1 iovecs, far more than memory holds; exits with 8 if told an error
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (if (call $write (i32.const 1) (i32.const 0) (i32.const 0x1fffffff) (i32.const 8)) (then (call $exit (i32.const 8))))))
