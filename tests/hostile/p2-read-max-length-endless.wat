;; reads u64::MAX bytes of stdin at a time and throws them away
(component
  (import "wasi:io/error@0.2.0" (instance $ie (export "error" (type (sub resource)))))
  (alias export $ie "error" (type $error))
  (import "wasi:io/streams@0.2.0" (instance $io
    (export "input-stream" (type $n (sub resource)))
    (export "error" (type $e (eq $error)))
    (type $serr (variant (case "last-operation-failed" (own $e)) (case "closed")))
    (export "stream-error" (type $se (eq $serr)))
    (export "[method]input-stream.blocking-read" (func (param "self" (borrow $n)) (param "len" u64) (result (result (list u8) (error $se)))))))
  (alias export $io "input-stream" (type $in))
  (import "wasi:cli/stdin@0.2.0" (instance $si
    (export "input-stream" (type (eq $in)))
    (export "get-stdin" (func (result (own $in))))))
  (core module $mem
    (memory (export "m") 17)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 65536)))
  (core instance $mem (instantiate $mem))
  (core func $stdin (canon lower (func $si "get-stdin")))
  (core func $read (canon lower (func $io "[method]input-stream.blocking-read") (memory (core memory $mem "m")) (realloc (core func $mem "realloc"))))
  (core module $m
    (import "h" "stdin" (func $stdin (result i32)))
    (import "h" "read" (func $read (param i32 i64 i32)))
    (func (export "run") (result i32) (local $n i32)
      (local.set $n (call $stdin))
      (loop $l (call $read (local.get $n) (i64.const -1) (i32.const 0)) (br $l))
      unreachable))
  (core instance $i (instantiate $m (with "h" (instance (export "stdin" (func $stdin)) (export "read" (func $read))))))
  (func $run (result (result)) (canon lift (core func $i "run")))
  (instance $r (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $r)))
