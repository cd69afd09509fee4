use super::*;
use crate::codec::{Section, decode, decode_session, decode_shape, encode_session};
use crate::event::{Fate, Outcome, Session};

/// Slots in memory of their own.
struct Area {
    _memory: Vec<[u64; SLOT_LEN / 8]>,
    slots: Slots,
}

fn area(count: u32) -> Area {
    let mut memory = vec![[0u64; SLOT_LEN / 8]; count as usize];
    // SAFETY: `count` slots, kept beside the result.
    let slots = unsafe { Slots::new(memory.as_mut_ptr().cast(), count) };
    Area {
        _memory: memory,
        slots,
    }
}

fn session(pid: u32) -> Vec<u8> {
    let mut encoded = Vec::new();
    encode_session(
        &Session {
            started_at: 7,
            pid,
            user_name: Some(b"alice"),
            ..Session::default()
        },
        &mut encoded,
    );
    encoded
}

fn statement(id: u64, sub: u32, text: &[u8]) -> Statement<'_> {
    Statement {
        statement_id: id,
        substatement_id: sub,
        depth: sub - 1,
        started_at: 100 + id as i64,
        classes: 2,
        command: b"INSERT",
        object_type: b"TABLE",
        object_name: b"public.t",
        relations: b"public.t\0public.u\0",
        text,
        ..Statement::default()
    }
}

fn only(area: &Area) -> Orphan {
    area.slots.orphan_all();
    let mut found = area.slots.orphans();
    assert_eq!(found.len(), 1);
    found.remove(0).1
}

/// event_no, outcome, text and decisions of an event.
type Told = (u64, Outcome, String, Vec<(u64, u64, Fate)>);

fn told(events: &[Vec<u8>]) -> Vec<Told> {
    events
        .iter()
        .map(|payload| {
            let event = decode(payload).unwrap();
            let shape = decode_shape(event.section(Section::Shape).unwrap()).unwrap();
            let text = event.section(Section::Statement).unwrap_or(shape.command);
            let decisions = event
                .decisions()
                .map(|d| d.map(|d| (d.first, d.last, d.fate)).unwrap())
                .collect();
            (
                event.numbers.event_no,
                event.numbers.outcome,
                String::from_utf8_lossy(text).into_owned(),
                decisions,
            )
        })
        .collect()
}

#[test]
fn slots_are_claimed_once_and_given_back() {
    let area = area(3);
    let taken: Vec<_> = (10..13).map(|pid| area.slots.claim(pid, 1)).collect();
    assert!(taken.iter().all(Option::is_some));
    assert!(area.slots.claim(99, 1).is_none());
    taken[1].unwrap().release();
    assert!(area.slots.claim(99, 1).is_some());
}

#[test]
fn an_interrupted_statement_and_its_caller_are_unfinished() {
    let area = area(2);
    let slot = area.slots.claim(42, 7).unwrap();
    slot.set_session(&session(42));
    slot.begin_push(3, 2, 50);
    slot.end_push();
    slot.open(0, &statement(5, 1, b"INSERT 1"), true);
    slot.open(1, &statement(5, 2, b"INSERT 2"), true);
    let orphan = only(&area);
    assert_eq!((orphan.last_event, orphan.statements), (3, 5));
    assert_eq!(
        decode_session(&orphan.session).unwrap().user_name,
        Some(b"alice".as_slice())
    );
    let events = orphan.events(&Known::default(), |_| Fate::RolledBack, 9, "crash");
    assert_eq!(
        told(&events),
        [
            (4, Outcome::Unfinished, "INSERT 2".into(), vec![]),
            (5, Outcome::Unfinished, "INSERT 1".into(), vec![]),
            (
                6,
                Outcome::Unfinished,
                "DISCONNECT".into(),
                vec![(2, 5, Fate::RolledBack)]
            ),
        ]
    );
    let first = decode(&events[0]).unwrap();
    let shape = decode_shape(first.section(Section::Shape).unwrap()).unwrap();
    assert_eq!(shape.object_name, Some(b"public.t".as_slice()));
    assert_eq!(shape.relations.len(), 2);
}

#[test]
fn what_is_in_the_trail_already_does_not_come_again() {
    let area = area(1);
    let slot = area.slots.claim(42, 7).unwrap();
    slot.open(0, &statement(1, 1, b"INSERT 1"), true);
    slot.begin_push(1, 1, 50);
    // Killed between the publication and the next store.
    let orphan = only(&area);
    let lost = orphan.events(&Known::default(), |_| Fate::RolledBack, 9, "crash");
    assert_eq!(told(&lost)[0].0, 1, "its number is free");
    let known = Known {
        last_event: 1,
        statements: vec![(1, 1)],
        ..Known::default()
    };
    assert_eq!(
        told(&orphan.events(&known, |_| Fate::Committed, 9, "crash")),
        [(
            2,
            Outcome::Unfinished,
            "DISCONNECT".into(),
            vec![(1, 1, Fate::Committed)]
        )]
    );
    let ended = Known {
        ended: true,
        ..known
    };
    assert!(orphan.events(&ended, |_| Fate::Open, 9, "crash").is_empty());
}

#[test]
fn a_statement_that_had_finished_is_a_success_with_the_fate_of_its_transaction() {
    let area = area(1);
    let slot = area.slots.claim(42, 7).unwrap();
    slot.open(3, &statement(1, 1, b"INSERT 1"), false);
    slot.finish(3, 12, 1);
    slot.set_xid(77);
    let orphan = only(&area);
    let events = orphan.events(&Known::default(), |_| Fate::Committed, 9, "crash");
    let numbers = decode(&events[0]).unwrap().numbers;
    assert_eq!(
        (numbers.duration, numbers.rows, numbers.transaction_id),
        (12, 1, 77)
    );
    assert_eq!(
        told(&events),
        [
            (1, Outcome::Success, "INSERT 1".into(), vec![]),
            (
                2,
                Outcome::Success,
                "FATE".into(),
                vec![(1, 1, Fate::Committed)]
            ),
        ]
    );
}

#[test]
fn decisions_that_nobody_carried_are_told() {
    let area = area(1);
    let slot = area.slots.claim(42, 7).unwrap();
    let waiting = crate::codec::encode_decision(&crate::event::Decision {
        first: 2,
        last: 3,
        fate: Fate::RolledBack,
    });
    slot.begin_push(3, 1, 5);
    slot.end_push();
    slot.set_decisions(&waiting);
    slot.open(0, &statement(1, 1, b"x"), true);
    slot.close(0);
    let orphan = only(&area);
    assert_eq!(
        told(&orphan.events(&Known::default(), |_| Fate::Committed, 9, "crash"))[0].3,
        [(2, 3, Fate::RolledBack), (1, 3, Fate::Committed)]
    );
}

#[test]
fn long_texts_and_names_are_cut_to_the_entry() {
    let area = area(1);
    let slot = area.slots.claim(42, 7).unwrap();
    let text = "é".repeat(5000);
    slot.open(0, &statement(1, 1, text.as_bytes()), true);
    let long = vec![b'r'; 3000];
    let wide = Statement {
        relations: &long,
        ..statement(1, 2, b"short")
    };
    slot.open(1, &wide, true);
    let orphan = only(&area);
    let kept = &orphan.open[1];
    assert_eq!(kept.numbers.statement_length, 10_000);
    assert!(kept.text.len() > 1000 && std::str::from_utf8(&kept.text).is_ok());
    assert_eq!(orphan.open[0].text, b"short");
}

#[test]
fn scribbled_slots_give_no_garbage() {
    let area = area(1);
    let slot = area.slots.claim(42, 7).unwrap();
    slot.set_session(&session(42));
    slot.open(0, &statement(1, 1, b"INSERT 1"), true);
    area.slots.orphan_all();
    // SAFETY: the test's own memory.
    let whole = unsafe { core::slice::from_raw_parts(slot.base, SLOT_LEN) }.to_vec();
    assert_eq!(Orphan::read(&whole).unwrap().open.len(), 1);
    for at in 8..SLOT_LEN {
        let mut torn = whole.clone();
        torn[at] ^= 0xff;
        let orphan = Orphan::read(&torn).unwrap();
        assert!(
            orphan.open.iter().all(|open| open.text == b"INSERT 1"),
            "byte {at}"
        );
        let session = decode_session(&orphan.session).unwrap();
        assert_eq!(
            (orphan.pid, orphan.started_at),
            (session.pid, session.started_at),
            "byte {at}"
        );
        for time in [orphan.started_at, orphan.last_event_at] {
            assert!(crate::calendar::is_plausible(time), "byte {at}");
        }
        let numbers = [orphan.xid, orphan.undecided_from, orphan.horizon];
        assert!(
            numbers.iter().flatten().all(|n| *n <= i64::MAX as u64),
            "byte {at}"
        );
        for event in orphan.events(&Known::default(), |_| Fate::Open, 9, "crash") {
            decode(&event).unwrap();
        }
    }
    assert!(Orphan::read(&whole[..100]).is_none());
}

#[test]
fn a_free_slot_holds_nothing_of_the_session_before() {
    let area = area(1);
    let slot = area.slots.claim(42, 7).unwrap();
    slot.set_session(&session(42));
    for at in [0, 1, ENTRIES - 1] {
        slot.open(at, &statement(1, 1, b"a secret of the table"), true);
    }
    slot.finish(1, 5, 1);
    slot.release();
    // SAFETY: the test's own memory.
    let bytes = unsafe { core::slice::from_raw_parts(slot.base, SLOT_LEN) };
    assert!(bytes[head::DECISIONS..].iter().all(|byte| *byte == 0));
    area.slots.orphan_all();
    assert!(area.slots.orphans().is_empty());
}

#[test]
fn the_first_horizon_after_a_death_stays() {
    let area = area(2);
    let first = area.slots.claim(42, 7).unwrap();
    first.set_xid(900);
    area.slots.orphan_all();
    area.slots.set_horizon(883);
    // Another crash before anybody has told of the first session.
    area.slots.claim(43, 8).unwrap();
    area.slots.orphan_all();
    area.slots.set_horizon(1200);
    let mut horizons: Vec<_> = area
        .slots
        .orphans()
        .iter()
        .map(|o| (o.1.pid, o.1.horizon))
        .collect();
    horizons.sort();
    assert_eq!(horizons, [(42, Some(883)), (43, Some(1200))]);
}

#[test]
fn a_slot_that_is_older_than_the_trail_decides_nothing_of_what_came_later() {
    let orphan = |xid| {
        let area = area(1);
        let slot = area.slots.claim(42, 7).unwrap();
        slot.set_session(&session(42));
        slot.begin_push(3, 3, 1);
        slot.end_push();
        slot.set_undecided(3);
        if xid != 0 {
            slot.set_xid(xid);
        }
        only(&area)
    };
    let told = |known: u64, orphan: &Orphan| {
        let known = Known {
            last_event: known,
            ..Known::default()
        };
        let payloads = orphan.events(&known, |_| Fate::RolledBack, 9, "test");
        let decisions = |payload: &Vec<u8>| {
            let decided: Vec<_> = decode(payload).unwrap().decisions().flatten().collect();
            decided
                .iter()
                .map(|d| (d.first, d.last))
                .collect::<Vec<_>>()
        };
        payloads.iter().flat_map(decisions).collect::<Vec<_>>()
    };
    // As the session left it: its open transaction went with it.
    assert_eq!(told(3, &orphan(0)), [(3, 3)]);
    // The trail has five events more: what the slot says of the transaction is about the first.
    assert_eq!(told(8, &orphan(0)), []);
    assert_eq!(told(8, &orphan(77)), [(3, 3)]);
}

#[test]
fn the_trail_knows_the_id_of_a_transaction_that_the_slot_does_not() {
    let area = area(1);
    let slot = area.slots.claim(42, 7).unwrap();
    slot.set_session(&session(42));
    slot.begin_push(3, 2, 1);
    slot.end_push();
    let orphan = only(&area);
    let told = |last_event, transaction_id| {
        let known = Known {
            last_event,
            transaction_id,
            ..Known::default()
        };
        let fate_of = |id: Option<u64>| match id {
            Some(77) => Fate::Committed,
            Some(_) => Fate::Open,
            None => Fate::RolledBack,
        };
        let mut events = told(&orphan.events(&known, fate_of, 9, "test"));
        events.pop().map(|end| end.3).unwrap_or_default()
    };
    assert_eq!(told(3, Some(77)), [(2, 3, Fate::Committed)]);
    assert_eq!(told(3, None), [(2, 3, Fate::RolledBack)]);
    assert_eq!(told(3, Some(78)), []);
    // Events of the transaction that were lost with the trail's: an id there is of another one.
    assert_eq!(told(1, Some(77)), [(2, 3, Fate::RolledBack)]);
    // Of what came after the slot's time it knows nothing.
    assert_eq!(told(5, Some(77)), []);
}

#[test]
fn a_statement_of_another_session_in_the_same_slot_is_not_this_ones() {
    let area = area(1);
    let slot = area.slots.claim(42, 7).unwrap();
    slot.open(1, &statement(5, 1, b"INSERT 1"), true);
    let base = ENTRIES_AT + ENTRY_LEN;
    // SAFETY: the only slot, which nobody writes to now.
    let entry = unsafe { std::slice::from_raw_parts(slot.base.add(base), ENTRY_LEN).to_vec() };
    slot.release();
    // The next session's head reached the disk, its other pages did not.
    let slot = area.slots.claim(43, 8).unwrap();
    slot.put(base, &entry);
    assert_eq!(only(&area).open, []);
}

#[test]
fn a_stale_slot_tells_of_no_statement_that_its_session_has_left_behind() {
    let area = area(1);
    let slot = area.slots.claim(42, 7).unwrap();
    slot.set_session(&session(42));
    slot.begin_push(3, 0, 1);
    slot.end_push();
    slot.open(0, &statement(5, 1, b"SELECT 1"), false);
    let orphan = only(&area);
    let told = |last_event, statement_id| {
        let known = Known {
            last_event,
            statements: vec![(statement_id, 1)],
            ..Known::default()
        };
        told(&orphan.events(&known, |_| Fate::Open, 9, "test")).len()
    };
    assert_eq!(told(3, 4), 1);
    assert_eq!(told(4, 4), 1, "nothing later is known");
    assert_eq!(told(4, 6), 0);
}

#[test]
fn an_entry_that_held_the_statement_before_keeps_it() {
    let area = area(1);
    let slot = area.slots.claim(42, 7).unwrap();
    slot.open(2, &statement(5, 1, b"SELECT 1"), true);
    let before = only(&area).open;
    slot.finish(2, 9, 1);
    slot.close(2);
    assert_eq!(only(&area).open, []);
    let begun = Begun {
        statement_id: 6,
        substatement_id: 1,
        depth: 0,
        started_at: 100,
    };
    slot.reopen(2, &begun, true);
    let [again] = only(&area).open.try_into().unwrap();
    assert_eq!(
        (&again.text, &again.shape),
        (&before[0].text, &before[0].shape)
    );
    let n = again.numbers;
    assert_eq!((n.statement_id, n.started_at, n.duration), (6, 100, -1));
    // Numbers of one time and content of another are no entry.
    slot.put(ENTRIES_AT + 2 * ENTRY_LEN + entry::BYTES, b"X");
    assert_eq!(only(&area).open, []);
}
