;; exports wasi:cli/run with nothing in it
(component
  (instance $r)
  (export "wasi:cli/run@0.2.0" (instance $r)))
