;; calls beyond the end of the table
(module
  (type $t (func))
  (memory (export "memory") 1)
  (table 1 funcref)
  (func (export "_start") (call_indirect (type $t) (i32.const 0x7fffffff))))
