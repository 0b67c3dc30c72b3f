;; takes twelve handles of standard output, asks of each how much it may write, writes that much to each, and says on
;; standard error that it has
(component
  (import "wasi:io/error@0.2.0" (instance $ie (export "error" (type (sub resource)))))
  (alias export $ie "error" (type $error))
  (import "wasi:io/streams@0.2.0" (instance $io
    (export "output-stream" (type $o (sub resource)))
    (export "error" (type $e (eq $error)))
    (type $serr (variant (case "last-operation-failed" (own $e)) (case "closed")))
    (export "stream-error" (type $se (eq $serr)))
    (export "[method]output-stream.check-write" (func (param "self" (borrow $o)) (result (result u64 (error $se)))))
    (export "[method]output-stream.write" (func (param "self" (borrow $o)) (param "contents" (list u8)) (result (result (error $se)))))))
  (alias export $io "output-stream" (type $out))
  (import "wasi:cli/stdout@0.2.0" (instance $so
    (export "output-stream" (type (eq $out)))
    (export "get-stdout" (func (result (own $out))))))
  (import "wasi:cli/stderr@0.2.0" (instance $se
    (export "output-stream" (type (eq $out)))
    (export "get-stderr" (func (result (own $out))))))
  (core module $mem (memory (export "m") 4) (data (i32.const 2048) "filled\n"))
  (core instance $mem (instantiate $mem))
  (core func $get (canon lower (func $so "get-stdout")))
  (core func $err (canon lower (func $se "get-stderr")))
  (core func $check (canon lower (func $io "[method]output-stream.check-write") (memory (core memory $mem "m"))))
  (core func $write (canon lower (func $io "[method]output-stream.write") (memory (core memory $mem "m"))))
  (core module $m
    (import "h" "m" (memory 1))
    (import "h" "get" (func $get (result i32)))
    (import "h" "err" (func $err (result i32)))
    (import "h" "check" (func $check (param i32 i32)))
    (import "h" "write" (func $write (param i32 i32 i32 i32)))
    (func (export "run") (result i32) (local $i i32) (local $at i32)
      (memory.fill (i32.const 65536) (i32.const 97) (i32.const 65536))
      (loop $ask
        ;; Each has 32 bytes: what it may write at 8, its handle at 24.
        (local.set $at (i32.shl (local.get $i) (i32.const 5)))
        (i32.store offset=24 (local.get $at) (call $get))
        (call $check (i32.load offset=24 (local.get $at)) (local.get $at))
        (if (i32.or (i32.load8_u (local.get $at)) (i64.eqz (i64.load offset=8 (local.get $at)))) (then (unreachable)))
        (br_if $ask (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 12))))
      (loop $fill
        (local.set $i (i32.sub (local.get $i) (i32.const 1)))
        (local.set $at (i32.shl (local.get $i) (i32.const 5)))
        (call $write (i32.load offset=24 (local.get $at)) (i32.const 65536) (i32.load offset=8 (local.get $at)) (i32.const 1024))
        (if (i32.load8_u (i32.const 1024)) (then (unreachable)))
        (br_if $fill (local.get $i)))
      (local.set $i (call $err))
      (call $check (local.get $i) (i32.const 0))
      (call $write (local.get $i) (i32.const 2048) (i32.const 7) (i32.const 1024))
      (i32.const 0)))
  (core instance $i (instantiate $m (with "h" (instance
    (export "m" (memory $mem "m")) (export "get" (func $get)) (export "err" (func $err)) (export "check" (func $check)) (export "write" (func $write))))))
  (func $run (result (result)) (canon lift (core func $i "run")))
  (instance $r (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $r)))
