;; fills 200 MiB over and over
(module
  (memory (export "memory") 3300)
  (func (export "_start") (local $v i32)
    (loop $l
      (memory.fill (i32.const 0) (local.tee $v (i32.add (local.get $v) (i32.const 1))) (i32.const 209715200))
      (br $l))))
