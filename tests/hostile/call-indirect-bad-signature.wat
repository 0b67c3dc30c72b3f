;; calls a table slot that holds a function of another type
(module
  (type $t (func (param i32) (result i32)))
  (memory (export "memory") 1)
  (table funcref (elem $f))
  (func $f)
  (func (export "_start") (drop (call_indirect (type $t) (i32.const 1) (i32.const 0)))))
