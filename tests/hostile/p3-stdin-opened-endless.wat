;; opens stdin without end and drops nothing
(component
  (import "wasi:cli/stdin@0.3.0" (instance $si
    (type $en (enum "io" "illegal-byte-sequence" "pipe"))
    (export "error-code" (type $ec (eq $en)))
    (export "read-via-stream" (func (result (tuple (stream u8) (future (result (error $ec)))))))))
  (core module $mem (memory (export "m") 1))
  (core instance $mem (instantiate $mem))
  (core func $stdin (canon lower (func $si "read-via-stream") (memory (core memory $mem "m"))))
  (core module $m
    (import "h" "m" (memory 1))
    (import "h" "stdin" (func $stdin (param i32)))
    (func (export "run") (result i32)
      (loop $l (call $stdin (i32.const 32)) (br $l)) unreachable))
  (core instance $i (instantiate $m (with "h" (instance (export "m" (memory $mem "m")) (export "stdin" (func $stdin))))))
  (func $run async (result (result)) (canon lift (core func $i "run")))
  (instance $r (export "run" (func $run)))
  (export "wasi:cli/run@0.3.0" (instance $r)))
