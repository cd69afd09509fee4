//! The attributes of this session that its events share, encoded once and kept until one of them
//! changes.

use audit_core::codec::encode_session;
use audit_core::event::Session;
use pgrx::pg_sys;

use super::connection::Peer;
use super::{compat, guc, names, raw};

/// What can change while a session runs, as last seen.
#[derive(Default)]
struct Seen {
    current_user: u32,
    session_user: u32,
    application_name: Vec<u8>,
    context: Vec<u8>,
    branch: Vec<u8>,
}

struct State {
    user_name: Vec<u8>,
    database_name: Vec<u8>,
    peer: Peer,
    seen: Seen,
    encoded: Vec<u8>,
}

static mut STATE: Option<State> = None;
static mut IS_WORKER: bool = false;
static mut VERSION: u32 = 0;

/// Changes with [`encoded`].
#[inline]
pub fn version() -> u32 {
    unsafe { VERSION }
}

/// Says that this process is our own worker: its statements are not recorded.
pub fn set_worker() {
    unsafe { IS_WORKER = true };
}

/// Whether this process is our own worker.
#[inline]
pub fn is_worker() -> bool {
    unsafe { IS_WORKER }
}

/// Whether [`begin`] has run.
#[inline]
pub fn known() -> bool {
    unsafe { (*(&raw const STATE)).is_some() }
}

/// Reads what never changes. Throws; in a transaction, once per backend.
///
/// # Safety
/// In a transaction that is not aborted, connected to a database.
pub unsafe fn begin() {
    unsafe {
        names::register();
        names::learn_role(raw::GetAuthenticatedUserId());
        let database = raw::get_database_name(pg_sys::MyDatabaseId);
        // From here on nothing throws.
        let peer = Peer::of_session();
        STATE = Some(State {
            user_name: names::role(raw::GetAuthenticatedUserId())
                .unwrap_or_default()
                .to_vec(),
            database_name: raw::bytes(database).to_vec(),
            peer,
            seen: Seen::default(),
            encoded: Vec::with_capacity(256),
        });
    }
}

/// The names that [`encoded`] will need are looked up. Throws; a few nanoseconds when all is known.
///
/// # Safety
/// In a transaction that is not aborted, after [`begin`].
#[inline]
pub unsafe fn learn() {
    unsafe {
        let user = raw::GetUserId();
        if names::role(user).is_none() {
            names::learn_role(user);
        }
        let session_user = raw::GetSessionUserId();
        if session_user != user && names::role(session_user).is_none() {
            names::learn_role(session_user);
        }
    }
}

/// The session's attributes as they are now, encoded; empty before [`begin`]. Never throws.
#[inline]
pub fn encoded() -> &'static [u8] {
    unsafe {
        let Some(state) = (*(&raw mut STATE)).as_mut() else {
            return &[];
        };
        if state.changed() {
            state.encode();
        }
        &state.encoded
    }
}

impl State {
    #[inline]
    unsafe fn changed(&self) -> bool {
        let seen = &self.seen;
        unsafe {
            seen.current_user != raw::GetUserId().to_u32()
                || seen.session_user != raw::GetSessionUserId().to_u32()
                || seen.application_name != raw::bytes(pg_sys::application_name)
                || seen.context != guc::context()
                || seen.branch != branch()
                || self.encoded.is_empty()
        }
    }

    unsafe fn encode(&mut self) {
        unsafe {
            VERSION = VERSION.wrapping_add(1);
            let seen = &mut self.seen;
            seen.current_user = raw::GetUserId().to_u32();
            seen.session_user = raw::GetSessionUserId().to_u32();
            set(
                &mut seen.application_name,
                raw::bytes(pg_sys::application_name),
            );
            set(&mut seen.context, guc::context());
            set(&mut seen.branch, branch());
            let role = names::role(raw::GetUserId());
            let session_user = names::role(raw::GetSessionUserId());
            encode_session(
                &Session {
                    started_at: pg_sys::MyStartTimestamp,
                    pid: pg_sys::MyProcPid as u32,
                    encoding: raw::GetDatabaseEncoding() as u8,
                    user_name: Some(&self.user_name),
                    role_name: role,
                    auth_identity: not_empty(raw::bytes(compat::system_user())),
                    session_user: session_user.filter(|name| *name != &*self.user_name),
                    database_name: Some(&self.database_name),
                    branch: not_empty(&seen.branch),
                    client_addr: self.peer.address.as_deref().map(str::as_bytes),
                    client_port: self.peer.port,
                    application_name: Some(&seen.application_name),
                    backend_type: Some(raw::bytes(raw::GetBackendTypeDesc(pg_sys::MyBackendType))),
                    context: not_empty(&seen.context),
                },
                &mut self.encoded,
            );
        }
    }
}

fn set(into: &mut Vec<u8>, value: &[u8]) {
    into.clear();
    into.extend_from_slice(value);
}

fn not_empty(value: &[u8]) -> Option<&[u8]> {
    (!value.is_empty()).then_some(value)
}

/// `audit.branch`, else `neon.branch_id` where that setting exists. Never throws: the setting is
/// looked for once, and only its value is read afterwards.
fn branch() -> &'static [u8] {
    let own = guc::branch();
    if !own.is_empty() {
        return own;
    }
    static mut NEON: Option<bool> = None;
    let name = c"neon.branch_id".as_ptr();
    unsafe {
        let known = *(&raw mut NEON)
            .as_mut()
            .unwrap()
            .get_or_insert_with(|| !raw::GetConfigOption(name, true, false).is_null());
        if known {
            raw::bytes(raw::GetConfigOption(name, true, false))
        } else {
            &[]
        }
    }
}
