;; fetches its arguments; exits with 9 unless they hold more than 1,000,000 bytes
(module
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 40)
  (func (export "_start")
    (if (call $sizes (i32.const 0) (i32.const 4)) (then (call $exit (i32.const 10))))
    (if (i32.le_u (i32.load (i32.const 4)) (i32.const 1000000)) (then (call $exit (i32.const 9))))
    (if (call $get (i32.const 64) (i32.const 65536)) (then (call $exit (i32.const 11))))
    (if (i32.ne (i32.load8_u (i32.const 565536)) (i32.const 65)) (then (call $exit (i32.const 12))))))
