;; creates, links, renames and removes through descriptors 0 to 10; exits with 7 if anything succeeds
(module
  (import "wasi_snapshot_preview1" "path_create_directory" (func $mkdir (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_symlink" (func $symlink (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_rename" (func $rename (param i32 i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_unlink_file" (func $unlink (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "../hostile-made")
  (func (export "_start") (local $fd i32)
    (loop $l
      (if (i32.eqz (i32.mul (i32.mul
          (call $mkdir (local.get $fd) (i32.const 3) (i32.const 12))
          (call $symlink (i32.const 0) (i32.const 2) (local.get $fd) (i32.const 3) (i32.const 12)))
        (i32.mul
          (call $rename (local.get $fd) (i32.const 3) (i32.const 12) (local.get $fd) (i32.const 0) (i32.const 15))
          (call $unlink (local.get $fd) (i32.const 0) (i32.const 15)))))
        (then (call $exit (i32.const 7))))
      (br_if $l (i32.le_u (local.tee $fd (i32.add (local.get $fd) (i32.const 1))) (i32.const 10))))))
