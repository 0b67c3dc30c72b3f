;; imports a function of a module that no host has
(module
  (import "hostile_env" "abort" (func))
  (memory (export "memory") 1)
  (func (export "_start")))
