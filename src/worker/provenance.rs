//! Where the trail comes from: whether it is still the trail of this server, on this timeline and
//! branch, and not behind what was published of it.

use super::own_events::OwnEvents;
use crate::pg::spi::query;
use crate::pg::trail::keys;
use crate::pg::trail::origin::Origin;
use crate::pg::trail::store::TreeStore;
use audit_core::json::Object;
use audit_core::note::{Checkpoint, Note, encode_hash, notes};
use audit_core::tree::Frontier;

/// What the trail says of itself when the worker attaches.
pub struct Provenance {
    /// The origin that was written last; `None` for a new trail.
    parent: Option<Origin>,
    /// Why the trail is not what was published; the size that was.
    restored: Option<(String, u64)>,
}

impl Provenance {
    /// Throws; in a transaction. `size`: of the trail.
    pub fn read(size: u64) -> Provenance {
        let mut parent = None;
        query(
            "SELECT details ->> 'system_identifier', (details ->> 'timeline')::bigint, \
                    details ->> 'branch', (details ->> 'major')::bigint \
             FROM audit.origin WHERE command <> 'KEY' ORDER BY seq DESC LIMIT 1",
            |row| {
                parent = Some(Origin {
                    system_identifier: row.text(1).and_then(|t| t.parse().ok()).unwrap_or(0),
                    timeline: row.number(2).unwrap_or(0) as u32,
                    branch: row.text(3).unwrap_or_default(),
                    major: row.number(4).unwrap_or(0) as u32,
                });
            },
        );
        Provenance {
            restored: parent.as_ref().and_then(|parent| restored(parent, size)),
            parent,
        }
    }

    /// The ring goes on where the trail has not come to.
    pub fn older_than_ring(&mut self, size: u64) {
        self.restored.get_or_insert_with(|| {
            let reason = "the trail is older than the ring of this server";
            (reason.into(), size)
        });
    }

    /// Whether this is the trail's first start.
    pub fn is_new(&self) -> bool {
        self.parent.is_none()
    }

    /// Whether the trail came here from elsewhere.
    pub fn moved(&self) -> bool {
        self.parent.as_ref().is_some_and(|p| *p != Origin::here())
    }

    /// FORK, UPGRADE, RESTORE: what the trail has to go on with.
    pub fn events(&self, tree: &Frontier, own: &mut OwnEvents) -> Vec<Vec<u8>> {
        let mut events = Vec::new();
        let here = Origin::here();
        let Some(parent) = &self.parent else {
            return events;
        };
        let mut add = |command, details: &mut dyn FnMut(&mut Object)| {
            let mut object = describe(&here);
            let mut head = describe(parent);
            head.number("size", tree.size())
                .text("root", encode_hash(&tree.root()).as_bytes());
            object.raw("parent", &head.finish());
            details(&mut object);
            events.push(own.landmark(command, object).to_vec());
        };
        if parent.major != here.major {
            add("UPGRADE", &mut |_| {});
        } else if *parent != here {
            add("FORK", &mut |_| {});
        }
        if let Some((reason, published)) = &self.restored {
            add("RESTORE", &mut |object| {
                object
                    .text("reason", reason.as_bytes())
                    .number("published_size", published);
            });
        }
        events
    }
}

/// The origin as JSON. The system identifier is a text: it has more bits than JSON's numbers.
pub fn describe(origin: &Origin) -> Object {
    let mut object = Object::new();
    object
        .text(
            "system_identifier",
            origin.system_identifier.to_string().as_bytes(),
        )
        .number("timeline", origin.timeline)
        .text("branch", origin.branch.as_bytes())
        .number("major", origin.major)
        .text("origin", origin.line().as_bytes());
    object
}

/// Whether the newest checkpoint in the file is not of this trail as it is now. Throws.
fn restored(parent: &Origin, size: u64) -> Option<(String, u64)> {
    let file = keys::checkpoints_file();
    let origins = [parent.line(), Origin::here().line()];
    let newest = notes(&file).into_iter().rev().find_map(|note| {
        let checkpoint = Checkpoint::parse(Note::parse(note.as_bytes()).ok()?.text).ok()?;
        origins.contains(&checkpoint.origin).then_some(checkpoint)
    })?;
    if newest.size > size {
        let reason = format!(
            "the trail ends at {size}, a published checkpoint covers {} events",
            newest.size
        );
        return Some((reason, newest.size));
    }
    let (tree, missing) = TreeStore::default().frontier_anyhow(newest.size);
    (missing.is_none() && tree.root() != newest.root).then(|| {
        let reason = "the trail is not the one of the newest published checkpoint";
        (reason.into(), newest.size)
    })
}
