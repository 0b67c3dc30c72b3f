;; grows eight memories in turn until one is refused, then unreachable
(module
  (memory $a (export "memory") 1) (memory $b 1) (memory $c 1) (memory $d 1)
  (memory $e 1) (memory $f 1) (memory $g 1) (memory $h 1)
  (func $g (export "_start")
    (loop $l
      (memory.grow $a (i32.const 16)) (memory.grow $b (i32.const 16))
      (memory.grow $c (i32.const 16)) (memory.grow $d (i32.const 16))
      (memory.grow $e (i32.const 16)) (memory.grow $f (i32.const 16))
      (memory.grow $g (i32.const 16)) (memory.grow $h (i32.const 16))
      i32.and i32.and i32.and i32.and i32.and i32.and i32.and
      (br_if $l (i32.ge_s (i32.const 0)))
      )
    unreachable))
