;; writes a million empty iovecs in one call, without end
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 130)
  (func (export "_start")
    (loop $l (drop (call $write (i32.const 1) (i32.const 64) (i32.const 1000000) (i32.const 0))) (br $l))))
