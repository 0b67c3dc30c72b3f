;; starts and cancels waits without end
(component
  (import "wasi:clocks/monotonic-clock@0.3.0" (instance $c
    (export "wait-for" (func async (param "how-long" u64)))))
  (core func $wait-for (canon lower (func $c "wait-for") async))
  (core func $subtask-cancel (canon subtask.cancel))
  (core func $subtask-drop (canon subtask.drop))
  (core module $m
    (import "h" "wait-for" (func $wait-for (param i64) (result i32)))
    (import "h" "subtask-cancel" (func $subtask-cancel (param i32) (result i32)))
    (import "h" "subtask-drop" (func $subtask-drop (param i32)))
    (func (export "run") (result i32) (local $t i32)
      (loop $l
        (local.set $t (i32.shr_u (call $wait-for (i64.const 3600000000000)) (i32.const 4)))
        (drop (call $subtask-cancel (local.get $t)))
        (call $subtask-drop (local.get $t))
        (br $l))
      unreachable))
  (core instance $i (instantiate $m (with "h" (instance (export "wait-for" (func $wait-for)) (export "subtask-cancel" (func $subtask-cancel)) (export "subtask-drop" (func $subtask-drop))))))
  (func $run async (result (result)) (canon lift (core func $i "run")))
  (instance $r (export "run" (func $run)))
  (export "wasi:cli/run@0.3.0" (instance $r)))
