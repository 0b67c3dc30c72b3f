;; declares two tables of ten million elements each
(module
  (memory (export "memory") 1)
  (table 10000000 funcref)
  (table 10000000 funcref)
  (func (export "_start")))
