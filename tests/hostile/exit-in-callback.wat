;; exits with 9 deep inside nested indirect calls
(module
  (type $t (func (param i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (table funcref (elem $down))
  (func $down (param $n i32)
    (if (i32.eqz (local.get $n)) (then (call $exit (i32.const 9))))
    (call_indirect (type $t) (i32.sub (local.get $n) (i32.const 1)) (i32.const 0))
    unreachable)
  (func (export "_start") (call $down (i32.const 1000)) unreachable))
