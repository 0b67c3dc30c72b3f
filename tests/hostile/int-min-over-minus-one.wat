;; divides the smallest integer by -1
(module
  (memory (export "memory") 1)
  (func (export "_start")
    (drop (i64.div_s (i64.const 0x8000000000000000) (i64.extend_i32_s (i32.sub (i32.const 0) (memory.size)))))))
