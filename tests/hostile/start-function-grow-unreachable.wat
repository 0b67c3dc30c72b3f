;; grows memory in the start function until refused, then unreachable
(module
  (memory (export "memory") 1)
  (func $init
    (loop $l (br_if $l (i32.ne (memory.grow (i32.const 16)) (i32.const -1))))
    unreachable)
  (start $init)
  (func (export "_start")))
