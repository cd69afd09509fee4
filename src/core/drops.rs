//! The objects that a DROP … CASCADE takes along, as the list `dropped` of its details.
//!
//! The server drops what belongs to a table one by one before the table itself. A person who asks
//! what is gone wants to read `table s.a`, not its index, constraint and trigger too: those are taken
//! back when their table follows. Memory is bounded; what comes after is counted.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::json::{Object, string};

/// Longest list kept.
pub const MOST: usize = 4096;

/// What a list must not grow beyond, in bytes.
const MOST_BYTES: usize = 512 * 1024;

const KEY: &str = "dropped";

/// The list being written at the end of a statement's details.
#[derive(Default)]
pub struct Drops {
    entries: Vec<Entry>,
    /// Length of the details without the list; 0 where there is no list.
    before: usize,
    /// Objects that were not kept.
    more: usize,
}

struct Entry {
    /// Where its text begins in the details.
    at: usize,
    /// Hash of the name of the relation that it is a part of; 0 for none.
    parent: u64,
}

fn hash(name: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish().max(1)
}

/// The relation that an object's identity ends with: `own on public.t`. A quoted name may hold ` on `.
pub fn relation_of(identity: &[u8]) -> Option<&[u8]> {
    let (mut quoted, mut found) = (false, None);
    for (at, byte) in identity.iter().enumerate() {
        quoted ^= *byte == b'"';
        if !quoted && identity[at..].starts_with(b" on ") {
            found = Some(at + 4);
        }
    }
    found.map(|from| &identity[from..])
}

impl Drops {
    /// As new, keeping its buffer.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.before = 0;
        self.more = 0;
    }

    /// Adds an object to the list at the end of `details`. `parent` is the relation it is a part of.
    pub fn add(&mut self, details: &mut Object, kind: &[u8], name: &[u8], parent: Option<&[u8]>) {
        if self.before == 0 {
            self.before = details.0.len();
            details.begin_list(KEY);
        }
        if matches!(
            kind,
            b"table" | b"view" | b"materialized view" | b"foreign table"
        ) {
            self.take_back_parts(details, hash(name));
        }
        if self.entries.len() == MOST || details.0.len() - self.before > MOST_BYTES {
            self.more += usize::from(parent.is_none());
            return;
        }
        self.entries.push(Entry {
            at: details.0.len(),
            parent: parent.map_or(0, hash),
        });
        string(&mut details.0, kind);
        // One text of both.
        details.0.pop();
        details.0.push(b' ');
        let from = details.0.len();
        string(&mut details.0, name);
        details.0.remove(from);
        details.0.push(b',');
    }

    fn take_back_parts(&mut self, details: &mut Object, of: u64) {
        for i in (0..self.entries.len()).rev() {
            if self.entries[i].parent != of {
                continue;
            }
            let end = self.entries.get(i + 1).map_or(details.0.len(), |e| e.at);
            let len = end - self.entries[i].at;
            details.0.drain(self.entries[i].at..end);
            self.entries.remove(i);
            for later in &mut self.entries[i..] {
                later.at -= len;
            }
        }
    }

    /// Ends the list. One object alone is the statement's own (`single` says so): it needs no list.
    /// What was not kept is noted with the full number. Allocates nothing where the buffers have room.
    pub fn finish(&mut self, details: &mut Object, truncated: &mut Object, single: bool) {
        if self.before == 0 {
            return;
        }
        let count = self.entries.len() + self.more;
        if count == 0 || (single && count == 1) {
            details.0.truncate(self.before);
        } else {
            // The comma after the last one.
            details.0.pop();
            details.end_list();
            if self.more > 0 {
                truncated.number(KEY, count);
            }
        }
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(objects: &[(&str, &str, Option<&str>)], single: bool) -> (String, String) {
        let (mut details, mut truncated) = (Object::new(), Object::new());
        details.text("a", b"b");
        let mut drops = Drops::default();
        for (kind, name, parent) in objects {
            let parent = parent.map(str::as_bytes);
            drops.add(&mut details, kind.as_bytes(), name.as_bytes(), parent);
        }
        drops.finish(&mut details, &mut truncated, single);
        let text = |object: Object| String::from_utf8(object.finish()).expect("UTF-8");
        (text(details), text(truncated))
    }

    #[test]
    fn parts_of_a_table_go_with_it() {
        let (details, truncated) = listed(
            &[
                ("index", "s.i", Some("s.a")),
                ("view", "public.v", None),
                ("table constraint", "c on s.b", Some("s.b")),
                ("trigger", "t on s.a", Some("s.a")),
                ("table", "s.a", None),
                ("schema", "\"S\"", None),
            ],
            true,
        );
        assert_eq!(
            details,
            r#"{"a":"b","dropped":["view public.v","table constraint c on s.b","table s.a","schema \"S\""]}"#
        );
        assert_eq!(truncated, "{}");
    }

    #[test]
    fn one_object_is_no_list() {
        let one = [("index", "s.i", Some("s.a")), ("table", "s.a", None)];
        assert_eq!(listed(&one, true).0, r#"{"a":"b"}"#);
        assert_eq!(
            listed(&one, false).0,
            r#"{"a":"b","dropped":["table s.a"]}"#
        );
        assert_eq!(listed(&[], true).0, r#"{"a":"b"}"#);
    }

    #[test]
    fn a_long_list_is_bounded_and_counted() {
        let names: Vec<String> = (0..10_000).map(|n| format!("s.t{n}")).collect();
        let objects: Vec<_> = names.iter().map(|n| ("table", n.as_str(), None)).collect();
        let (details, truncated) = listed(&objects, true);
        assert_eq!(details.matches("table s.t").count(), MOST);
        assert_eq!(truncated, r#"{"dropped":10000}"#);
    }

    #[test]
    fn the_relation_behind_on() {
        let relation = |text: &'static str| relation_of(text.as_bytes());
        assert_eq!(relation("own on public.t"), Some(&b"public.t"[..]));
        assert_eq!(
            relation(r#""x on y" on public."a on b""#),
            Some(&br#"public."a on b""#[..])
        );
        assert_eq!(relation("public.t"), None);
    }
}
