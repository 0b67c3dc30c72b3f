;; makes waitable sets without end
(component
  (core func $set-new (canon waitable-set.new))
  (core module $m
    (import "h" "set-new" (func $set-new (result i32)))
    (func (export "run") (result i32)
      (loop $l (drop (call $set-new)) (br $l)) unreachable))
  (core instance $i (instantiate $m (with "h" (instance (export "set-new" (func $set-new))))))
  (func $run async (result (result)) (canon lift (core func $i "run")))
  (instance $r (export "run" (func $run)))
  (export "wasi:cli/run@0.3.0" (instance $r)))
