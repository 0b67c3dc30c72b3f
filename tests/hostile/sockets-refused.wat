;; uses stdio and unknown descriptors as sockets; exits with 7 if anything succeeds
(module
  (import "wasi_snapshot_preview1" "sock_accept" (func $accept (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "sock_recv" (func $recv (param i32 i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "sock_send" (func $send (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "sock_shutdown" (func $shutdown (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\40\00\00\00\01\00\00\00")
  (func (export "_start") (local $fd i32)
    (loop $l
      (if (i32.eqz (call $accept (local.get $fd) (i32.const 0) (i32.const 16))) (then (call $exit (i32.const 7))))
      (if (i32.eqz (call $recv (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 16) (i32.const 20))) (then (call $exit (i32.const 7))))
      (if (i32.eqz (call $send (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 16))) (then (call $exit (i32.const 7))))
      (if (i32.eqz (call $shutdown (local.get $fd) (i32.const 3))) (then (call $exit (i32.const 7))))
      (br_if $l (i32.le_u (local.tee $fd (i32.add (local.get $fd) (i32.const 1))) (i32.const 10))))))
