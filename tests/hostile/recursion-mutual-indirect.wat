;; two functions that call each other through a table without end
(module
  (type $t (func))
  (memory (export "memory") 1)
  (table funcref (elem $a $b))
  (func $a (export "_start") (call_indirect (type $t) (i32.const 1)) (i32.store (i32.const 0) (i32.const 1)))
  (func $b (call_indirect (type $t) (i32.const 0)) (i32.store (i32.const 4) (i32.const 1))))
