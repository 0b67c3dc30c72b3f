;; opens the path of argument 1, the last, in descriptor 3 for reading, links followed; exits with the error number
(module
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (import "wasi_snapshot_preview1" "path_open" (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (func (export "_start") (local $path i32) (local $len i32) (local $error i32)
    (drop (call $sizes (i32.const 0) (i32.const 4)))
    (drop (call $args (i32.const 16) (i32.const 1024)))
    (local.set $path (i32.load (i32.const 20)))
    (local.set $len (i32.sub (i32.sub (i32.add (i32.const 1024) (i32.load (i32.const 4))) (local.get $path)) (i32.const 1)))
    (local.set $error (call $open (i32.const 3) (i32.const 1) (local.get $path) (local.get $len) (i32.const 0) (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 8)))
    (call $exit (local.get $error))))
