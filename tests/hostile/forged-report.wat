;; prints what looks like the host's own words, with marks that turn text around and colours, and traps with a name that does so, too
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\10\00\00\00\70\00\00\00")
  (data (i32.const 16) "\nerror: stage `cat` trapped\n  at \e2\80\aemain\1b[2J\1b]0;x\07\r  blamed: the host\nthread 'main' panicked at src/main.rs:1:1:\nall is well\ne\00\00")
  (func $bad (@name "ok\0aerror: stage `cat` trapped\0d\1b[31m\e2\80\ae") unreachable)
  (func (export "_start")
    (drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8)))
    (call $bad)))
