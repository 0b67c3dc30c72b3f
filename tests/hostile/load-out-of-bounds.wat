;; loads from the last bytes of the address space
(module
  (memory (export "memory") 1)
  (func (export "_start") (drop (i64.load offset=0xfffffff8 (i32.const -1)))))
