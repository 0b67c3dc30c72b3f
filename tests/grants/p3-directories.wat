;; exits with the number of its directories
(component
  (import "wasi:filesystem/types@0.3.0" (instance $fs
    (export "descriptor" (type $descriptor (sub resource)))))
  (alias export $fs "descriptor" (type $d))
  (import "wasi:filesystem/preopens@0.3.0" (instance $pre
    (export "descriptor" (type (eq $d)))
    (export "get-directories" (func (result (list (tuple (own $d) string)))))))
  (import "wasi:cli/exit@0.3.0" (instance $exit (export "exit-with-code" (func (param "status-code" u8)))))
  (core module $mem
    (memory (export "m") 4)
    (global $next (mut i32) (i32.const 4096))
    (func (export "realloc") (param i32 i32) (param $align i32) (param $size i32) (result i32) (local $at i32)
      (local.set $at (i32.and (i32.add (global.get $next) (i32.sub (local.get $align) (i32.const 1))) (i32.sub (i32.const 0) (local.get $align))))
      (global.set $next (i32.add (local.get $at) (local.get $size)))
      (local.get $at)))
  (core instance $mem (instantiate $mem))
  (core func $dirs (canon lower (func $pre "get-directories") (memory (core memory $mem "m")) (realloc (core func $mem "realloc"))))
  (core func $exit (canon lower (func $exit "exit-with-code")))
  (core module $m
    (import "h" "m" (memory 1))
    (import "h" "dirs" (func $dirs (param i32)))
    (import "h" "exit" (func $exit (param i32)))
    (func (export "run") (result i32)
      (call $dirs (i32.const 0))
      (call $exit (i32.load (i32.const 4)))
      (i32.const 0)))
  (core instance $i (instantiate $m (with "h" (instance
    (export "m" (memory $mem "m"))
    (export "dirs" (func $dirs))
    (export "exit" (func $exit))))))
  (func $run async (result (result)) (canon lift (core func $i "run")))
  (instance $r (export "run" (func $run)))
  (export "wasi:cli/run@0.3.0" (instance $r)))
