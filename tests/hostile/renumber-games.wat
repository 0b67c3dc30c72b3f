;; renumbers stderr onto stdout, onto unknown and onto itself, over and over
(module
  (import "wasi_snapshot_preview1" "fd_renumber" (func $renumber (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_close" (func $close (param i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start") (local $n i32)
    (loop $l
      (drop (call $renumber (i32.const 1) (i32.const 1)))
      (drop (call $renumber (i32.const 2) (i32.const 1)))
      (drop (call $renumber (i32.const 1) (i32.const 2)))
      (drop (call $renumber (i32.const 0) (i32.const 0x7fffffff)))
      (drop (call $renumber (i32.const -1) (local.get $n)))
      (drop (call $close (local.get $n)))
      (br_if $l (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 100000))))))
