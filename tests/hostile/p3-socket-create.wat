;; makes a TCP socket; an error if it is given one
(component
  (import "wasi:sockets/types@0.3.0" (instance $sock
    (export "tcp-socket" (type $tcp (sub resource)))
    (type $ev (variant (case "access-denied") (case "not-supported") (case "invalid-argument") (case "out-of-memory") (case "timeout")
      (case "invalid-state") (case "address-not-bindable") (case "address-in-use") (case "remote-unreachable") (case "connection-refused")
      (case "connection-broken") (case "connection-reset") (case "connection-aborted") (case "datagram-too-large") (case "other" (option string))))
    (export "error-code" (type $ec (eq $ev)))
    (type $fe (enum "ipv4" "ipv6"))
    (export "ip-address-family" (type $fam (eq $fe)))
    (export "[static]tcp-socket.create" (func (param "address-family" $fam) (result (result (own $tcp) (error $ec)))))))
  (core module $mem
    (memory (export "m") 1)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024)))
  (core instance $mem (instantiate $mem))
  (core func $create (canon lower (func $sock "[static]tcp-socket.create") (memory (core memory $mem "m")) (realloc (core func $mem "realloc"))))
  (core module $m
    (import "h" "m" (memory 1))
    (import "h" "create" (func $create (param i32 i32)))
    (func (export "run") (result i32)
      (call $create (i32.const 0) (i32.const 0))
      (i32.eqz (i32.load8_u (i32.const 0)))))
  (core instance $i (instantiate $m (with "h" (instance (export "m" (memory $mem "m")) (export "create" (func $create))))))
  (func $run async (result (result)) (canon lift (core func $i "run")))
  (instance $r (export "run" (func $run)))
  (export "wasi:cli/run@0.3.0" (instance $r)))
