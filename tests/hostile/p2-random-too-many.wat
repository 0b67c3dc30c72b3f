;; asks for a random byte more than one call may give
(component
  (import "wasi:random/random@0.2.0" (instance $rnd (export "get-random-bytes" (func (param "len" u64) (result (list u8))))))
  (core module $mem
    (memory (export "m") 1100)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024)))
  (core instance $mem (instantiate $mem))
  (core func $get (canon lower (func $rnd "get-random-bytes") (memory (core memory $mem "m")) (realloc (core func $mem "realloc"))))
  (core module $m
    (import "h" "get" (func $get (param i64 i32)))
    (func (export "run") (result i32) (call $get (i64.const 67108865) (i32.const 0)) (i32.const 0)))
  (core instance $i (instantiate $m (with "h" (instance (export "get" (func $get))))))
  (func $run (result (result)) (canon lift (core func $i "run")))
  (instance $r (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $r)))
