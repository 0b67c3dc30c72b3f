;; is refused 1 GiB, gets over it and ends well
(module
  (memory (export "memory") 1)
  (func (export "_start")
    (if (i32.ne (memory.grow (i32.const 16384)) (i32.const -1)) (then unreachable))))
