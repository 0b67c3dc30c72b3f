;; calls an empty table slot
(module
  (type $t (func))
  (memory (export "memory") 1)
  (table 1 funcref)
  (func (export "_start") (call_indirect (type $t) (i32.const 0))))
