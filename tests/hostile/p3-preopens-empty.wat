;; asks for its directories; an error if there is any
(component
  (import "wasi:filesystem/types@0.3.0" (instance $fs (export "descriptor" (type (sub resource)))))
  (alias export $fs "descriptor" (type $d))
  (import "wasi:filesystem/preopens@0.3.0" (instance $pre
    (export "descriptor" (type (eq $d)))
    (export "get-directories" (func (result (list (tuple (own $d) string)))))))
  (core module $mem
    (memory (export "m") 1)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024)))
  (core instance $mem (instantiate $mem))
  (core func $dirs (canon lower (func $pre "get-directories") (memory (core memory $mem "m")) (realloc (core func $mem "realloc"))))
  (core module $m
    (import "h" "m" (memory 1))
    (import "h" "dirs" (func $dirs (param i32)))
    (func (export "run") (result i32)
      (call $dirs (i32.const 0))
      (i32.ne (i32.load (i32.const 4)) (i32.const 0))))
  (core instance $i (instantiate $m (with "h" (instance (export "m" (memory $mem "m")) (export "dirs" (func $dirs))))))
  (func $run async (result (result)) (canon lift (core func $i "run")))
  (instance $r (export "run" (func $run)))
  (export "wasi:cli/run@0.3.0" (instance $r)))
