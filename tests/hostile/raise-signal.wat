;; raises SIGKILL (9) in itself; exits with 8 if told an error
(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (import "wasi_snapshot_preview1" "proc_raise" (func $raise (param i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start") (if (call $raise (i32.const 9)) (then (call $exit (i32.const 8))))))
