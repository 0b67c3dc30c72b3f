;; grows by 1 MiB and touches every page until refused, then unreachable
(module
  (memory (export "memory") 0)
  (func (export "_start") (local $at i32)
    (block $done
      (loop $l
        (local.set $at (memory.grow (i32.const 16)))
        (br_if $done (i32.eq (local.get $at) (i32.const -1)))
        (memory.fill (i32.shl (local.get $at) (i32.const 16)) (i32.const 165) (i32.const 1048576))
        (br $l)))
    unreachable))
