;; grows a 64-bit memory by 2^47 pages, then by 2^16, then unreachable
(module
  (memory (export "memory") i64 1)
  (func (export "_start")
    (drop (memory.grow (i64.const 0x800000000000)))
    (drop (memory.grow (i64.const 0x10000)))
    unreachable))
