//! The codec: whatever an event holds comes back, whatever bytes come is answered.

use audit_core::codec::{
    self, Corrupt, Decoded, Encoded, SECTIONS, Section, ShapeWriter, decode, decode_parameters,
    decode_session, decode_shape, encode_decision, encode_session, encode_shape, put_parameter,
};
use audit_core::event::{Classes, Decision, Fate, Numbers, Outcome, Session, Shape};
use proptest::collection::vec;
use proptest::prelude::*;

type Bytes = Option<Vec<u8>>;

fn bytes() -> impl Strategy<Value = Bytes> {
    prop::option::of(vec(any::<u8>(), 0..40))
}

fn fate() -> impl Strategy<Value = Fate> {
    (0u8..4).prop_map(|n| Fate::from_u8(n).unwrap())
}

fn numbers() -> impl Strategy<Value = Numbers> {
    let times = (any::<i64>(), any::<i64>(), any::<i64>());
    let ids = (any::<u64>(), any::<u64>(), any::<u64>());
    let small = (any::<u32>(), any::<u32>(), any::<u32>(), any::<u32>());
    let outcome = (0u8..4).prop_map(|n| Outcome::from_u8(n).unwrap());
    (times, ids, small, outcome, fate()).prop_map(|(times, ids, small, outcome, fate)| Numbers {
        started_at: times.0,
        duration: times.1,
        rows: times.2,
        event_no: ids.0,
        statement_id: ids.1,
        transaction_id: ids.2,
        substatement_id: small.0,
        depth: small.1,
        sqlstate: small.2,
        statement_length: small.3,
        outcome,
        fate,
    })
}

fn decision() -> impl Strategy<Value = Decision> {
    (any::<u64>(), any::<u64>(), fate()).prop_map(|(first, last, fate)| Decision {
        first,
        last,
        fate,
    })
}

/// An event with all sections as bytes.
fn sections() -> impl Strategy<Value = [Bytes; SECTIONS]> {
    prop::array::uniform9(bytes())
}

fn encode(numbers: &Numbers, sections: &[Bytes; SECTIONS]) -> Vec<u8> {
    let sections = sections.each_ref().map(|s| s.as_deref());
    let encoded = Encoded::new(numbers, sections);
    let payload = encoded.parts().concat();
    assert_eq!(payload.len(), encoded.len());
    payload
}

const ALL: [Section; SECTIONS] = [
    Section::Session,
    Section::Shape,
    Section::Statement,
    Section::StatementSha256,
    Section::Parameters,
    Section::Error,
    Section::Details,
    Section::Decisions,
    Section::Gid,
];

/// Decodes all that can be decoded, as the worker would.
fn look_everywhere(payload: &[u8]) {
    let Ok(decoded) = decode(payload) else {
        return;
    };
    let section = |s| decoded.section(s).unwrap_or_default();
    let _ = decode_session(section(Section::Session));
    let _ = decode_shape(section(Section::Shape));
    let _ = decode_parameters(section(Section::Parameters));
    let _ = decoded.decisions().collect::<Vec<_>>();
}

proptest! {
    #[test]
    fn an_event_comes_back(numbers in numbers(), sections in sections()) {
        let payload = encode(&numbers, &sections);
        let decoded = decode(&payload).unwrap();
        prop_assert_eq!(decoded.numbers, numbers);
        for (section, bytes) in ALL.into_iter().zip(&sections) {
            prop_assert_eq!(decoded.section(section), bytes.as_deref());
        }
    }

    #[test]
    fn a_session_comes_back(
        started_at: i64, pid: u32, encoding: u8,
        client_port: Option<u16>,
        text in prop::array::uniform10(bytes()),
    ) {
        let text = text.each_ref().map(|t| t.as_deref());
        let session = Session {
            started_at, pid, encoding, client_port,
            user_name: text[0], role_name: text[1], auth_identity: text[2],
            session_user: text[3], database_name: text[4], branch: text[5],
            client_addr: text[6], application_name: text[7], backend_type: text[8],
            context: text[9],
        };
        let mut out = vec![1, 2, 3];
        encode_session(&session, &mut out);
        prop_assert_eq!(decode_session(&out), Ok(session));
        prop_assert_eq!(decode_session(&out[..out.len() - 1]), Err(Corrupt::Length));
        out.push(0);
        prop_assert_eq!(decode_session(&out), Err(Corrupt::Length));
    }

    #[test]
    fn a_shape_comes_back(
        classes: u16, query_id: i64,
        command in vec(any::<u8>(), 0..30),
        object in prop::option::of((vec(any::<u8>(), 0..9), vec(any::<u8>(), 0..30))),
        relations in vec(vec(any::<u8>(), 0..30), 0..6),
    ) {
        let object = object.as_ref().map(|(kind, name)| (kind.as_slice(), name.as_slice()));
        let shape = Shape {
            classes: Classes(classes),
            command: &command,
            object_type: object.map(|o| o.0),
            object_name: object.map(|o| o.1),
            query_id,
            relations: relations.iter().map(Vec::as_slice).collect(),
        };
        let (mut at_once, mut piecewise) = (Vec::new(), Vec::new());
        encode_shape(&shape, &mut at_once);
        let mut writer =
            ShapeWriter::new(&mut piecewise, shape.classes, query_id, &command, object);
        relations.iter().for_each(|name| writer.relation(name));
        prop_assert_eq!(&at_once, &piecewise);
        prop_assert_eq!(decode_shape(&at_once), Ok(shape));
    }

    #[test]
    fn parameters_and_decisions_come_back(
        values in vec(bytes(), 0..8),
        decisions in vec(decision(), 0..8),
    ) {
        let mut parameters = Vec::new();
        values.iter().for_each(|v| put_parameter(&mut parameters, v.as_deref()));
        let values = values.iter().map(|v| v.as_deref()).collect::<Vec<_>>();
        prop_assert_eq!(decode_parameters(&parameters), Ok(values));

        let encoded = decisions.iter().flat_map(encode_decision).collect::<Vec<_>>();
        let mut sections = [const { None }; SECTIONS];
        sections[Section::Decisions as usize] = Some(encoded);
        let payload = encode(&Numbers::default(), &sections);
        let decoded: Decoded = decode(&payload).unwrap();
        let got = decoded.decisions().collect::<Result<Vec<_>, _>>();
        prop_assert_eq!(got, Ok(decisions));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..600), versioned: bool) {
        let mut bytes = bytes;
        if let (true, Some(first)) = (versioned, bytes.first_mut()) {
            *first = codec::FORMAT_VERSION;
        }
        look_everywhere(&bytes);
        let _ = decode_session(&bytes);
        let _ = decode_shape(&bytes);
        let _ = decode_parameters(&bytes);
    }

    #[test]
    fn flipped_bits_and_cuts_never_panic(
        numbers in numbers(),
        sections in sections(),
        flips in vec((any::<prop::sample::Index>(), 0u8..8), 0..5),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut payload = encode(&numbers, &sections);
        let whole = payload.len();
        look_everywhere(&payload[..cut.index(whole)]);
        prop_assert!(decode(&payload[..cut.index(whole)]).is_err());
        for (at, bit) in flips {
            payload[at.index(whole)] ^= 1 << bit;
            look_everywhere(&payload);
        }
    }
}
