;; converts a float that is too large to an integer
(module
  (memory (export "memory") 1)
  (func (export "_start") (local $f f64)
    (local.set $f (f64.const 1e300))
    (drop (i32.trunc_f64_s (local.get $f)))))
