//! Signed notes against the example that the format's authors publish (golang.org/x/mod/sumdb/note),
//! and what a reader must refuse.

use audit_core::note::{Checkpoint, Note, NoteError, Signing, Verifying, notes};
use audit_core::tree::EMPTY_ROOT;

const TEXT: &str = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n";
const KEY: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
const SIGNATURE: &str = "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";
/// PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz without the type.
const SECRET: [u8; 32] = [
    0x81, 0x0a, 0x14, 0x02, 0xd5, 0x14, 0x6c, 0x8d, 0x84, 0xf2, 0x44, 0x33, 0x30, 0xf5, 0x40, 0x80,
    0xeb, 0xf9, 0x8e, 0xe1, 0x7d, 0x9c, 0x74, 0xf6, 0x25, 0x2f, 0xc5, 0xd5, 0xc7, 0x28, 0x31, 0x73,
];

fn published() -> String {
    format!("{TEXT}\n{SIGNATURE}")
}

#[test]
fn the_published_note_verifies() {
    let key = Verifying::parse(KEY).expect("a key");
    let note = published();
    let note = Note::parse(note.as_bytes()).expect("a note");
    assert_eq!(note.text, TEXT);
    assert_eq!(note.verify(&key), Ok(()));
}

#[test]
fn the_published_key_signs_the_published_note() {
    let signing = Signing::new("PeterNeumann", &SECRET);
    assert_eq!(signing.public().text(), KEY);
    assert_eq!(signing.sign(TEXT), published());
    let private = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz";
    assert_eq!(signing.private_text(&SECRET), private);
    let read = Signing::parse(&format!("{private}\n")).expect("a key");
    assert_eq!(read.sign(TEXT), published());
    for bad in [
        "",
        "PRIVATE+KEY+a+b+c",
        &private[8..],
        &private[..private.len() - 4],
    ] {
        assert!(Signing::parse(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn any_changed_byte_is_noticed() {
    let key = Verifying::parse(KEY).expect("a key");
    let note = published().into_bytes();
    for at in 0..note.len() {
        for bit in [0, 5] {
            let mut changed = note.clone();
            changed[at] ^= 1 << bit;
            let accepted = Note::parse(&changed)
                .is_ok_and(|note| note.text == TEXT && note.verify(&key).is_ok());
            assert!(!accepted, "bit {bit} of byte {at}");
            let verified = Note::parse(&changed).is_ok_and(|note| note.verify(&key).is_ok());
            assert!(!verified, "bit {bit} of byte {at}");
        }
    }
}

#[test]
fn keys_that_are_none() {
    for text in [
        "",
        "a",
        "a+b",
        "PeterNeumann+c74f20a4+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "Peter Neumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "PeterNeumann+c74f20a3+AhpC2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "PeterNeumann+c74f20a3+ARpc2QcUPDhM",
    ] {
        assert!(
            matches!(Verifying::parse(text), Err(NoteError::Key(_))),
            "{text:?}"
        );
    }
}

#[test]
fn another_key_is_named() {
    let other = Signing::new("somebody", &[7; 32]).public();
    let note = published();
    let note = Note::parse(note.as_bytes()).expect("a note");
    let error = note.verify(&other).expect_err("not signed");
    assert_eq!(
        error.to_string(),
        format!(
            "not signed by {}, but by PeterNeumann+c74f20a3",
            other.text()
        )
    );
}

#[test]
fn checkpoints_come_back() {
    let checkpoint = Checkpoint {
        origin: "audit_ext/1".into(),
        size: 42,
        root: EMPTY_ROOT,
        extensions: vec![
            "timeline 3".into(),
            "recorded_at 2026-01-01T00:00:00Z".into(),
        ],
    };
    let text = checkpoint.text();
    assert_eq!(Checkpoint::parse(&text), Ok(checkpoint.clone()));
    assert_eq!(checkpoint.extension("timeline"), Some("3"));
    assert_eq!(checkpoint.extension("time"), None);
    let signing = Signing::new("a b+c", &[1; 32]);
    let file = format!("{}\n{}\n", signing.sign(&text), signing.sign(&text));
    let found = notes(&file);
    assert_eq!(found.len(), 2);
    for note in found {
        let note = Note::parse(note.as_bytes()).expect("a note");
        assert_eq!(note.verify(&signing.public()), Ok(()));
        assert_eq!(Checkpoint::parse(note.text), Ok(checkpoint.clone()));
    }
    let cut = &file[..file.len() - 10];
    assert_eq!(
        notes(cut).len(),
        1,
        "the last one was not written to its end"
    );
}

#[test]
fn malformed_checkpoints_say_what_is_wrong() {
    let root = audit_core::note::encode_hash(&EMPTY_ROOT);
    for (text, what) in [
        (format!("\n1\n{root}\n"), "origin"),
        (format!("a\n01\n{root}\n"), "size"),
        (format!("a\n-1\n{root}\n"), "size"),
        (format!("a\n+1\n{root}\n"), "size"),
        (format!("a\n99999999999999999999\n{root}\n"), "size"),
        ("a\n1\nAAAA\n".to_string(), "root"),
        (format!("a\n1\n{root}"), "line feed"),
        (format!("a\n1\n{root}\n\nb\n"), "empty line"),
    ] {
        let error = Checkpoint::parse(&text).expect_err(&text);
        assert!(error.to_string().contains(what), "{text:?}: {error}");
    }
    for note in [
        "",
        "a\n",
        "a\n\n",
        "a\n\nb\n",
        "a\n\n— b\n",
        "a\n\n— b AAAA\n",
        "a\u{1}\n\n— b AAAAAAAA\n",
    ] {
        assert!(Note::parse(note.as_bytes()).is_err(), "{note:?}");
    }
    assert!(Note::parse(b"a\xff\n\n\xe2\x80\x94 b AAAAAAAA\n").is_err());
}
