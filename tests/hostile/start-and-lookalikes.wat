;; has a _start that ends well, and _initialize, main, __original_main and _start2 that trap
(module
  (memory (export "memory") 1)
  (func $bad (export "_initialize") (export "main") (export "__original_main") (export "_start2") unreachable)
  (func (export "_start")))
