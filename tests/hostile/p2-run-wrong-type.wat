;; exports a `run` that takes and gives a string
(component
  (core module $m
    (memory (export "m") 1)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 0))
    (func (export "run") (param i32 i32) (result i32) (i32.const 0)))
  (core instance $i (instantiate $m))
  (func $run (param "x" string) (result string)
    (canon lift (core func $i "run") (memory (core memory $i "m")) (realloc (core func $i "realloc"))))
  (instance $r (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $r)))
