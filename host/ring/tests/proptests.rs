//! Any sequence of grant, commit, flush, peek, consume, fill, finish, abort and drop agrees with a queue of bytes.

mod model;

use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_ring_is_a_queue_of_bytes(operations in prop::collection::vec(any::<u8>(), 0..900)) {
        model::run(&operations);
    }
}
