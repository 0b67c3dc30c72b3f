;; closes stdin and stdout, then reads and writes; exits with 7 if either works
(module
  (import "wasi_snapshot_preview1" "fd_close" (func $close (param i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\10\00\00\00\04\00\00\00")
  (func (export "_start")
    (drop (call $close (i32.const 0)))
    (drop (call $close (i32.const 1)))
    (if (i32.eqz (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8))) (then (call $exit (i32.const 7))))
    (if (i32.eqz (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))) (then (call $exit (i32.const 7))))))
