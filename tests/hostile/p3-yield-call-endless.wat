;; calls thread.yield without end
(component
  (core func $yield (canon thread.yield))
  (core module $m
    (import "h" "yield" (func $yield (result i32)))
    (func (export "run") (result i32)
      (loop $l (drop (call $yield)) (br $l)) unreachable))
  (core instance $i (instantiate $m (with "h" (instance (export "yield" (func $yield))))))
  (func $run async (result (result)) (canon lift (core func $i "run")))
  (instance $r (export "run" (func $run)))
  (export "wasi:cli/run@0.3.0" (instance $r)))
