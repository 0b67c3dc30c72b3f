;; opens stdout and drops it again, without end
(component
  (import "wasi:io/streams@0.2.0" (instance $io (export "output-stream" (type (sub resource)))))
  (alias export $io "output-stream" (type $out))
  (import "wasi:cli/stdout@0.2.0" (instance $so
    (export "output-stream" (type (eq $out)))
    (export "get-stdout" (func (result (own $out))))))
  (core func $get (canon lower (func $so "get-stdout")))
  (core func $drop (canon resource.drop $out))
  (core module $m
    (import "h" "get" (func $get (result i32)))
    (import "h" "drop" (func $drop (param i32)))
    (func (export "run") (result i32) (loop $l (call $drop (call $get)) (br $l)) unreachable))
  (core instance $i (instantiate $m (with "h" (instance (export "get" (func $get)) (export "drop" (func $drop))))))
  (func $run (result (result)) (canon lift (core func $i "run")))
  (instance $r (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $r)))
