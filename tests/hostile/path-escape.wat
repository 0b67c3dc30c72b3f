;; opens ../../etc/passwd, /etc/passwd and /proc/self/environ through descriptors 3 to 10; exits with 7 if one opens
(module
  (import "wasi_snapshot_preview1" "path_open" (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "../../etc/passwd/proc/self/environ")
  (func $try (param $fd i32) (param $path i32) (param $len i32)
    (if (i32.eqz (call $open (local.get $fd) (i32.const 1) (local.get $path) (local.get $len) (i32.const 0) (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 64)))
      (then (call $exit (i32.const 7)))))
  (func (export "_start") (local $fd i32)
    (local.set $fd (i32.const 3))
    (loop $l
      (call $try (local.get $fd) (i32.const 0) (i32.const 16))
      (call $try (local.get $fd) (i32.const 5) (i32.const 11))
      (call $try (local.get $fd) (i32.const 16) (i32.const 18))
      (br_if $l (i32.le_u (local.tee $fd (i32.add (local.get $fd) (i32.const 1))) (i32.const 10))))))
