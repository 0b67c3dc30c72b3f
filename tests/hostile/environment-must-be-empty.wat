;; exits with 7 if it has any environment variable
(module
  (import "wasi_snapshot_preview1" "environ_sizes_get" (func $sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (if (call $sizes (i32.const 0) (i32.const 4)) (then (call $exit (i32.const 10))))
    (if (i32.load (i32.const 0)) (then (call $exit (i32.const 7))))))
