;; returns YIELD from its callback without end
(component
  (core module $m
    (func (export "run") (result i32)
      (i32.const 1))
    (func (export "cb") (param $event i32) (param $a i32) (param $b i32) (result i32)
      (i32.const 1)))
  (core instance $i (instantiate $m))
  (func $run async (result (result)) (canon lift (core func $i "run") async (callback (core func $i "cb"))))
  (instance $r (export "run" (func $run)))
  (export "wasi:cli/run@0.3.0" (instance $r)))
