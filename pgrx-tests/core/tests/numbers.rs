//! The packed numbers of a stored event: what goes in comes out, and garbage is refused.

use audit_core::event::{Fate, Numbers, Outcome};
use audit_core::numbers::{MAX_LEN, decode, encode};
use proptest::prelude::*;

/// Small numbers, as they mostly are, and any others.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![0..300u64, any::<u64>()]
}

fn small() -> impl Strategy<Value = u32> {
    prop_oneof![0..3u32, any::<u32>()]
}

fn signed() -> impl Strategy<Value = i64> {
    prop_oneof![Just(-1i64), 0..300i64, 0..=i64::MAX]
}

prop_compose! {
    fn numbers()(
        duration in signed(), rows in signed(), event_no in number(), statement_id in number(),
        substatement_id in small(), depth in small(), transaction_id in number(),
        sqlstate in small(), statement_length in small(), outcome in 0..4u8, fate in 0..4u8,
    ) -> Numbers {
        Numbers {
            started_at: 0,
            duration,
            event_no,
            statement_id,
            substatement_id,
            depth,
            transaction_id,
            rows,
            sqlstate,
            statement_length,
            outcome: Outcome::from_u8(outcome).unwrap(),
            fate: Fate::from_u8(fate).unwrap(),
        }
    }
}

proptest! {
    #[test]
    fn what_goes_in_comes_out(n in numbers()) {
        let mut bytes = Vec::new();
        encode(&n, &mut bytes);
        prop_assert!(bytes.len() <= MAX_LEN);
        prop_assert_eq!(decode(&bytes), Some(n));
    }

    #[test]
    fn no_prefix_is_an_encoding(n in numbers(), cut in any::<prop::sample::Index>()) {
        let mut bytes = Vec::new();
        encode(&n, &mut bytes);
        prop_assert_eq!(decode(&bytes[..cut.index(bytes.len())]), None);
    }

    /// Whatever can be read means the same as what is written for it.
    #[test]
    fn any_bytes_decode_or_not(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        if let Some(n) = decode(&bytes) {
            let mut again = Vec::new();
            encode(&n, &mut again);
            prop_assert_eq!(decode(&again), Some(n));
        }
    }
}
