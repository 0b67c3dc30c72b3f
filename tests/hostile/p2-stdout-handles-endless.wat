;; opens stdout over and over and drops nothing
(component
  (import "wasi:io/streams@0.2.0" (instance $io (export "output-stream" (type (sub resource)))))
  (alias export $io "output-stream" (type $out))
  (import "wasi:cli/stdout@0.2.0" (instance $so
    (export "output-stream" (type (eq $out)))
    (export "get-stdout" (func (result (own $out))))))
  (core func $get (canon lower (func $so "get-stdout")))
  (core module $m
    (import "h" "get" (func $get (result i32)))
    (func (export "run") (result i32) (loop $l (drop (call $get)) (br $l)) unreachable))
  (core instance $i (instantiate $m (with "h" (instance (export "get" (func $get))))))
  (func $run (result (result)) (canon lift (core func $i "run")))
  (instance $r (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $r)))
