;; declares more initial memory than a stage may have
(module
  (memory (export "memory") 5000)
  (func (export "_start")))
