;; exits through exit-with-code
(component
  (import "wasi:cli/exit@0.3.0" (instance $e (export "exit-with-code" (func (param "status-code" u8)))))
  (core func $exit (canon lower (func $e "exit-with-code")))
  (core module $m
    (import "h" "exit" (func $exit (param i32)))
    (func (export "run") (result i32)
      (call $exit (i32.const 200)) unreachable))
  (core instance $i (instantiate $m (with "h" (instance (export "exit" (func $exit))))))
  (func $run async (result (result)) (canon lift (core func $i "run")))
  (instance $r (export "run" (func $run)))
  (export "wasi:cli/run@0.3.0" (instance $r)))
