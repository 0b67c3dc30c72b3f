;; is refused 1 GiB and exits with 5
(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (drop (memory.grow (i32.const 16384)))
    (call $exit (i32.const 5))))
