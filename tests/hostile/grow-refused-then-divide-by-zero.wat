;; is refused 1 GiB, ignores it, and divides by zero for another reason
(module
  (memory (export "memory") 1)
  (func (export "_start") (local $z i32)
    (drop (memory.grow (i32.const 16384)))
    (drop (i32.div_u (i32.const 1) (local.get $z)))))
