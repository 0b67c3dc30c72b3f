;; writes a list of 100 MiB to standard output in one call, which permits no such thing
(component
  (import "wasi:io/error@0.2.0" (instance $ie (export "error" (type (sub resource)))))
  (alias export $ie "error" (type $error))
  (import "wasi:io/streams@0.2.0" (instance $io
    (export "output-stream" (type $o (sub resource)))
    (export "error" (type $e (eq $error)))
    (type $serr (variant (case "last-operation-failed" (own $e)) (case "closed")))
    (export "stream-error" (type $se (eq $serr)))
    (export "[method]output-stream.write" (func (param "self" (borrow $o)) (param "contents" (list u8)) (result (result (error $se)))))))
  (alias export $io "output-stream" (type $out))
  (import "wasi:cli/stdout@0.2.0" (instance $so
    (export "output-stream" (type (eq $out)))
    (export "get-stdout" (func (result (own $out))))))
  (core module $mem (memory (export "m") 1700))
  (core instance $mem (instantiate $mem))
  (core func $get (canon lower (func $so "get-stdout")))
  (core func $write (canon lower (func $io "[method]output-stream.write") (memory (core memory $mem "m"))))
  (core module $m
    (import "h" "get" (func $get (result i32)))
    (import "h" "write" (func $write (param i32 i32 i32 i32)))
    (func (export "run") (result i32) (call $write (call $get) (i32.const 1024) (i32.const 104857600) (i32.const 0)) (i32.const 0)))
  (core instance $i (instantiate $m (with "h" (instance (export "get" (func $get)) (export "write" (func $write))))))
  (func $run (result (result)) (canon lift (core func $i "run")))
  (instance $r (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $r)))
