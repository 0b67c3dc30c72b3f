;; fills a table of ten million elements over and over
(module
  (memory (export "memory") 1)
  (table $t 10000000 funcref)
  (func (export "_start")
    (loop $l (table.fill $t (i32.const 0) (ref.null func) (i32.const 10000000)) (br $l))))
