//! A record that is too long is cut in this order: lists of the details, parameters, statement, error
//! (spec/capture.md, rule 15), and last the relations, so that content never costs an event. Each is
//! named in `details.truncated` with its full size: elements of a list, bytes of a text.
//!
//! Allocates nothing where `truncated` has [`NOTES`] bytes of room: it may run in an error path.

use crate::json::Object;
use crate::sql::cut::whole_characters;
use sha2::{Digest, Sha256};

/// Room for what is noted of the cuts.
pub const NOTES: usize = 256;

/// The parts of an event that can be cut.
pub struct Parts<'a> {
    /// Not closed.
    pub details: &'a mut Object,
    pub truncated: &'a mut Object,
    /// Encoded as [`crate::codec::put_parameter`] does.
    pub parameters: &'a mut Vec<u8>,
    pub statement: &'a mut Vec<u8>,
    /// Length and digest of the whole statement, where it is cut already.
    pub statement_length: &'a mut u32,
    pub sha256: &'a mut Option<[u8; 32]>,
    pub error: &'a mut Vec<u8>,
    /// Names, each ended by NUL.
    pub relations: &'a mut Vec<u8>,
}

impl Parts<'_> {
    /// Cuts until `over` bytes are saved, or nothing is left to cut.
    pub fn cut(&mut self, over: usize) {
        let mut over = self.cut_lists(over);
        over = self.cut_parameters(over);
        over = self.cut_statement(over);
        over = self.cut_error(over);
        self.cut_relations(over);
    }

    fn note(&mut self, what: &str, full: usize) {
        if !self.truncated.has(what) {
            self.truncated.number(what, full);
        }
    }

    /// The longest list first.
    fn cut_lists(&mut self, mut over: usize) -> usize {
        while over > 0 {
            let Some(list) = longest_list(&self.details.0) else {
                break;
            };
            let before = self.details.0.len();
            let (keep, count) = prefix(&self.details.0[list.from..list.to], over);
            let name = core::str::from_utf8(&self.details.0[list.name.0..list.name.1]);
            if let Ok(name) = name
                && !self.truncated.has(name)
            {
                self.truncated.number(name, count);
            }
            self.details.0.drain(list.from + keep..list.to);
            over = over.saturating_sub(before - self.details.0.len());
        }
        over
    }

    /// Whole values, from the end.
    fn cut_parameters(&mut self, over: usize) -> usize {
        if over == 0 || self.parameters.is_empty() {
            return over;
        }
        let room = self.parameters.len().saturating_sub(over);
        let (mut at, mut keep, mut count) = (0, 0, 0);
        while let Some(head) = self.parameters.get(at..at + 4) {
            let mut len = [0; 4];
            len.copy_from_slice(head);
            let len = u32::from_le_bytes(len);
            at += 4 + if len == u32::MAX { 0 } else { len as usize };
            count += 1;
            if at <= room {
                keep = at;
            }
        }
        let saved = self.parameters.len() - keep;
        self.parameters.truncate(keep);
        self.note("parameter_count", count);
        over.saturating_sub(saved)
    }

    fn cut_statement(&mut self, over: usize) -> usize {
        let full = self.statement.len();
        if over == 0 || full == 0 {
            return over;
        }
        if self.sha256.is_none() {
            *self.sha256 = Some(Sha256::digest(&*self.statement).into());
            *self.statement_length = full as u32;
        }
        cut_text(self.statement, over);
        let length = *self.statement_length as usize;
        self.note("statement", length);
        over.saturating_sub(full - self.statement.len())
    }

    fn cut_error(&mut self, over: usize) -> usize {
        let full = self.error.len();
        if over == 0 || full == 0 {
            return over;
        }
        cut_text(self.error, over);
        self.note("error", full);
        over.saturating_sub(full - self.error.len())
    }

    fn cut_relations(&mut self, over: usize) {
        if over == 0 || self.relations.is_empty() {
            return;
        }
        let count = self.relations.iter().filter(|b| **b == 0).count();
        // In the record a name has a length instead of the NUL: three bytes more.
        let mut saved = 0;
        while saved < over && !self.relations.is_empty() {
            self.relations.pop();
            let at = self.relations.iter().rposition(|b| *b == 0);
            let keep = at.map_or(0, |at| at + 1);
            saved += self.relations.len() - keep + 4;
            self.relations.truncate(keep);
        }
        self.note("relations", count);
    }
}

fn cut_text(text: &mut Vec<u8>, over: usize) {
    text.truncate(text.len().saturating_sub(over));
    let keep = whole_characters(text);
    text.truncate(keep);
}

/// A list that is a member of an object: places in its text.
struct List {
    name: (usize, usize),
    /// Between the brackets.
    from: usize,
    to: usize,
}

/// The longest list that has anything in it, of an object that isn't closed.
fn longest_list(object: &[u8]) -> Option<List> {
    let mut best: Option<List> = None;
    let (mut depth, mut name, mut begin) = (0, (0, 0), 0);
    let mut at = 0;
    while at < object.len() {
        match object[at] {
            b'"' => {
                let end = end_of_string(object, at);
                if depth == 1 {
                    name = (at + 1, end - 1);
                }
                at = end;
                continue;
            }
            b'[' | b'{' => {
                depth += 1;
                if depth == 2 {
                    begin = at + 1;
                }
            }
            b']' | b'}' => {
                let longer = best.as_ref().is_none_or(|b| at - begin > b.to - b.from);
                if depth == 2 && object[at] == b']' && at > begin && longer {
                    best = Some(List {
                        name,
                        from: begin,
                        to: at,
                    });
                }
                depth -= 1;
            }
            _ => {}
        }
        at += 1;
    }
    best
}

/// Behind the quote that ends the string which begins at `from`.
fn end_of_string(json: &[u8], from: usize) -> usize {
    let mut at = from + 1;
    while at < json.len() && json[at] != b'"' {
        at += 1 + usize::from(json[at] == b'\\');
    }
    (at + 1).min(json.len())
}

/// How much of a list (without its brackets) may stay when `over` bytes must go; and the number of its
/// elements.
fn prefix(list: &[u8], over: usize) -> (usize, usize) {
    let room = list.len().saturating_sub(over);
    let (mut keep, mut count, mut depth, mut at) = (0, 1, 0, 0);
    while at < list.len() {
        match list[at] {
            b'"' => {
                at = end_of_string(list, at);
                continue;
            }
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth -= 1,
            b',' if depth == 0 => {
                count += 1;
                if at <= room {
                    keep = at;
                }
            }
            _ => {}
        }
        at += 1;
    }
    (keep, count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{decode_parameters, put_parameter};

    /// An event whose parts are all long, cut by so many bytes: the parts that are left.
    struct Event {
        details: Object,
        truncated: Object,
        parameters: Vec<u8>,
        statement: Vec<u8>,
        length: u32,
        sha256: Option<[u8; 32]>,
        error: Vec<u8>,
        relations: Vec<u8>,
    }

    impl Event {
        fn new() -> Self {
            let mut details = Object::new();
            details.text("setting", b"not a list [");
            details.begin_list("dropped");
            for n in 0..100 {
                details.item(format!("table \"a, b]{n:02}").as_bytes());
            }
            details.end_list();
            details.raw("privileges", br#"[{"a":["x","y"]},"z"]"#);
            let mut parameters = Vec::new();
            for _ in 0..10 {
                put_parameter(&mut parameters, Some(&[b'p'; 96]));
            }
            Event {
                details,
                truncated: Object::new(),
                parameters,
                statement: "界".repeat(1000).into_bytes(),
                length: 0,
                sha256: None,
                error: vec![b'e'; 1000],
                relations: b"public.aaaaa\0".repeat(100),
            }
        }

        fn len(&self) -> usize {
            let names = self.relations.iter().filter(|b| **b == 0).count();
            self.details.len()
                + self.parameters.len()
                + self.statement.len()
                + self.error.len()
                + self.relations.len()
                + 3 * names
        }

        fn cut(mut self, over: usize) -> (Self, String) {
            let before = self.len();
            Parts {
                details: &mut self.details,
                truncated: &mut self.truncated,
                parameters: &mut self.parameters,
                statement: &mut self.statement,
                statement_length: &mut self.length,
                sha256: &mut self.sha256,
                error: &mut self.error,
                relations: &mut self.relations,
            }
            .cut(over);
            assert!(before - self.len() >= over, "saved {}", before - self.len());
            let notes = std::mem::take(&mut self.truncated).finish();
            (self, String::from_utf8(notes).expect("UTF-8"))
        }
    }

    /// Bytes that the lists of the details hold.
    fn lists() -> usize {
        let empty = r#"{"setting":"not a list [","dropped":[],"privileges":[]}"#;
        Event::new().details.len() - empty.len()
    }

    #[test]
    fn lists_go_first() {
        let (event, notes) = Event::new().cut(500);
        assert_eq!(notes, r#"{"dropped":100}"#);
        let details = String::from_utf8(event.details.finish()).expect("UTF-8");
        assert!(
            details.starts_with(r#"{"setting":"not a list [","dropped":["table \"a, b]00","table"#)
                && details.ends_with(r#""],"privileges":[{"a":["x","y"]},"z"]}"#),
            "{details}"
        );
        assert_eq!(event.parameters.len(), 1000);
    }

    #[test]
    fn then_parameters_the_statement_and_the_error() {
        let lists = lists();
        let (event, notes) = Event::new().cut(lists + 1);
        assert_eq!(
            notes,
            r#"{"dropped":100,"privileges":2,"parameter_count":10}"#
        );
        let kept = decode_parameters(&event.parameters).expect("whole values");
        assert_eq!(kept.len(), 9);

        let (event, notes) = Event::new().cut(lists + 1000 + 1);
        assert!(
            notes.ends_with(r#""parameter_count":10,"statement":3000}"#),
            "{notes}"
        );
        assert_eq!(event.statement, "界".repeat(999).into_bytes());
        assert_eq!(event.length, 3000);
        let whole: [u8; 32] = Sha256::digest("界".repeat(1000)).into();
        assert_eq!(event.sha256, Some(whole));

        let (event, notes) = Event::new().cut(lists + 1000 + 3000 + 1);
        assert!(
            notes.ends_with(r#""statement":3000,"error":1000}"#),
            "{notes}"
        );
        assert_eq!(event.error.len(), 999);
        assert_eq!(event.relations.len(), 1300);
    }

    #[test]
    fn relations_go_last() {
        let (event, notes) = Event::new().cut(lists() + 1000 + 3000 + 1000 + 1);
        assert!(
            notes.ends_with(r#""error":1000,"relations":100}"#),
            "{notes}"
        );
        assert_eq!(event.relations, b"public.aaaaa\0".repeat(99));
    }

    #[test]
    fn a_statement_cut_before_keeps_its_length_and_digest() {
        let mut event = Event::new();
        (event.details, event.parameters) = (Object::new(), Vec::new());
        (event.length, event.sha256) = (99_999, Some([7; 32]));
        let (event, notes) = event.cut(10);
        assert_eq!(notes, r#"{"statement":99999}"#);
        assert_eq!((event.length, event.sha256), (99_999, Some([7; 32])));
    }
}
