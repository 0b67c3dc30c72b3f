;; divides by zero
(module
  (memory (export "memory") 1)
  (func (export "_start") (local $z i32)
    (drop (i32.div_s (i32.const 7) (local.get $z)))))
