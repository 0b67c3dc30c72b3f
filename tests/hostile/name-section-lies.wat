;; traps in a function whose name holds terminal escapes
(module
  (memory (export "memory") 1)
  (func (@name "\1b[2J\1b]0;owned\07") (export "_start") unreachable))
