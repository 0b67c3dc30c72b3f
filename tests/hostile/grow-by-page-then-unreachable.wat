;; grows one page at a time until refused, then unreachable
(module
  (memory (export "memory") 0)
  (func (export "_start")
    (loop $l (br_if $l (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))
    unreachable))
