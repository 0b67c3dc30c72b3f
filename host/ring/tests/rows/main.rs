//! The reference's unit tests (System.IO.Pipelines) that have a meaning for a ring, by their row's ID.
//!
//! What differs in kind, and is pinned so: a ring parks its writer when it is full (the reference at a threshold), wakes
//! it when at least half is free (the reference below a threshold), never grows (a larger frame is a typed error), makes
//! committed bytes visible to a reader that looks but wakes it only at a flush, and reports by values and types what the
//! reference reports by exceptions. Cancelling is dropping the future.
//!
//! Rows without a meaning here:
//!
//! | rows | why |
//! | --- | --- |
//! | RW03 RW20 RW33 RW35 RW38 FX03–FX15 RX01 RX02 RX04 RX06–RX08 RX10 RX12–RX20 RL06–RL10 | a sticky cancel flag and tokens: here a wait is cancelled by dropping its future, and there is no flag to stick |
//! | RW04 RW29 RW30 LN11 LN12 LN13–LN15 BP12 | positions of an older read, examined less than before: `consume(n)` takes a count, and a count has no age |
//! | BP02 LN06 LN07 LN08 LN09 LN10 RW37 | "examined without consumed" is `poll_fill(min)` here; blocks and segments do not exist |
//! | RW07 RW18 RW19 RW22 RW26 RW27 FL04 WR15 | an operation after completion, two at once: impossible by type (`finish`, `fail` and `abort` consume the half; `&mut`) |
//! | RW11 RW12 RW13 UB01 | unflushed bytes are hidden there, visible but silent here: see `rw11_committed_bytes_do_not_wake` |
//! | FC01 RC01 | awaiting twice: a half that failed says the same again, see `fc03` |
//! | FL01 LN02 LN03 BP10 | no threshold of zero, no growth past the capacity |
//! | WR01 WR02 WR03 WR20 CB02–CB11 UB02 OP02 OP03 | argument checks, completion callbacks and overridable members of .NET; counters are 64-bit by type |
//! | PL05 PL07 PL12 PL13 PL14 RS01–RS05 | segment sizes and reset: a ring has one buffer and is not reused; the pool's buffers are |
//! | SR02 SR03 SR05 SR08 SR12–SR16 SR18 SR20–SR31 SW03 SW06 SW08–SW28 ST05–ST09 SQ01–SQ13 | buffering over a stream, its options and tokens: the adapters have no buffer of their own |
//! | CT01 CT02 CT08–CT13 CF | null arguments and tokens of copy helpers; `tokio::io::copy` is the copy helper |
//! | SC01–SC12 | synchronization contexts; a waker runs on the side that wakes, outside of any lock (`fx01`) |

#[path = "../support/mod.rs"]
mod support;

mod moving;
mod waiting;
