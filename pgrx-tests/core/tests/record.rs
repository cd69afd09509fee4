//! The canonical record: any change of any part gives another leaf, and erasure keeps it.

use audit_core::record::{
    BatchRow, Columns, FateRow, Field, Kept, Record, Salts, fates_digest, field_digest, field_salt,
    kept_once_digest, stored_digest,
};
use audit_core::sha::Hash;
use std::collections::HashSet;

fn record() -> Record<'static> {
    Record {
        seq: 1,
        recorded_at: 2,
        started_at: 3,
        session: [4; 32],
        statement: [5; 32],
        fields: [None; 5],
        fates: None,
        batch: None,
        numbers: &[1, 2, 3],
    }
}

#[test]
fn a_record_byte_by_byte() {
    use sha2::{Digest, Sha256};
    let mut expected = vec![0, 1];
    for number in [1i64, 2, 3] {
        expected.extend(number.to_be_bytes());
    }
    expected.extend([4; 32]);
    expected.extend([5; 32]);
    expected.push(0b0110_0010);
    expected.extend([6; 32]);
    expected.extend([7; 32]);
    expected.extend([8; 32]);
    expected.extend([1, 2, 3]);
    let digest: Hash = Sha256::digest(&expected).into();
    let record = Record {
        fields: [None, Some([6; 32]), None, None, None],
        fates: Some([7; 32]),
        batch: Some([8; 32]),
        ..record()
    };
    assert_eq!(record.leaf(), digest);
}

#[test]
fn every_part_counts() {
    let mut leaves = HashSet::new();
    let mut different = |record: Record| assert!(leaves.insert(record.leaf()), "{record:?}");
    different(record());
    different(Record { seq: 2, ..record() });
    different(Record {
        recorded_at: 3,
        ..record()
    });
    different(Record {
        started_at: 4,
        ..record()
    });
    different(Record {
        session: [5; 32],
        ..record()
    });
    different(Record {
        statement: [4; 32],
        ..record()
    });
    different(Record {
        numbers: &[1, 2],
        ..record()
    });
    different(Record {
        fates: Some([1; 32]),
        ..record()
    });
    different(Record {
        batch: Some([1; 32]),
        ..record()
    });
    for i in 0..5 {
        let mut fields = [None; 5];
        fields[i] = Some([1; 32]);
        different(Record { fields, ..record() });
    }
}

#[test]
fn columns_are_kept_apart() {
    let digest = |columns: [Option<&[u8]>; 2]| {
        let mut row = Columns::session();
        row.bytes(columns[0]).bytes(columns[1]);
        row.digest()
    };
    let all = [
        digest([Some(b"ab"), Some(b"")]),
        digest([Some(b"a"), Some(b"b")]),
        digest([Some(b""), Some(b"ab")]),
        digest([None, Some(b"ab")]),
        digest([Some(b"ab"), None]),
    ];
    assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
}

#[test]
fn fates_in_any_order() {
    let fate = |first_event| FateRow {
        recorded_at: 1,
        session_started: 2,
        pid: 3,
        first_event,
        last_event: 9,
        outcome: 1,
        decided_by: 10,
        gid: None,
    };
    assert_eq!(fates_digest(&[]), None);
    assert_eq!(
        fates_digest(&[fate(1), fate(2)]),
        fates_digest(&[fate(2), fate(1)])
    );
    assert_ne!(fates_digest(&[fate(1)]), fates_digest(&[fate(2)]));
    assert_ne!(fates_digest(&[fate(1)]), fates_digest(&[fate(1), fate(1)]));
    let batch = BatchRow {
        recorded_at: 1,
        ring_id: &[1; 16],
        position: 2,
        first_seq: 3,
        last_seq: 4,
        dropped: 0,
    };
    assert_ne!(
        batch.digest(),
        BatchRow {
            dropped: 1,
            ..batch
        }
        .digest()
    );
}

#[test]
fn an_erased_value_leaves_its_digest_and_its_neighbours() {
    let salt = [9; 16];
    let salts = Salts::Whole(salt);
    let stored =
        |field, value, salts: &Salts| stored_digest(field, value, Some(salts)).expect("fits");
    let text = stored(Field::Text, Some(b"SELECT 1".as_slice()), &salts).expect("there");
    let error = stored(Field::Error, Some(b"no".as_slice()), &salts).expect("there");
    assert_ne!(text, error);
    let erased = salts.puncture(
        &[(Field::Text, text), (Field::Error, error)],
        &[Field::Text],
    );
    // What is stored now: no event salt, so the erased value's can't be derived.
    let column = erased.encode();
    assert!(!column.windows(16).any(|w| w == salt));
    assert!(
        !column
            .windows(16)
            .any(|w| w == field_salt(&salt, Field::Text))
    );
    let erased = Salts::decode(&column).expect("reads");
    assert_eq!(erased.of(Field::Text), Some(Kept::Digest(text)));
    assert_eq!(stored(Field::Text, None, &erased), Some(text));
    assert_eq!(
        stored(Field::Error, Some(b"no".as_slice()), &erased),
        Some(error)
    );
    assert!(stored_digest(Field::Text, Some(b"x"), Some(&erased)).is_err());
    assert!(stored_digest(Field::Details, Some(b"{}"), Some(&erased)).is_err());
    assert!(stored_digest(Field::Error, None, Some(&erased)).is_err());
    // And the other one, later.
    let both = erased.puncture(
        &[(Field::Text, text), (Field::Error, error)],
        &[Field::Error],
    );
    let both = Salts::decode(&both.encode()).expect("reads");
    assert_eq!(both.of(Field::Text), Some(Kept::Digest(text)));
    assert_eq!(both.of(Field::Error), Some(Kept::Digest(error)));
    for bad in [
        &[1u8; 15][..],
        &[0x81; 20],
        &[99; 33],
        &column[..column.len() - 1],
    ] {
        assert_eq!(Salts::decode(bad), None);
    }
}

#[test]
fn what_is_kept_once() {
    let salt = [3; 16];
    let digest = field_digest(Field::Text, &salt, b"x");
    let of = |value, salt| kept_once_digest(Field::Text, value, salt);
    assert_eq!(of(None, None), Ok(None));
    assert_eq!(of(Some(b"x"), Some(&salt)), Ok(Some(digest)));
    assert_eq!(of(None, Some(&digest)), Ok(Some(digest)));
    assert!(of(Some(b"x"), None).is_err());
    assert!(of(Some(b"x"), Some(&digest)).is_err());
    assert!(of(None, Some(&salt)).is_err());
}
