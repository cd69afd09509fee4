//! The attributes of this session that its events share, encoded once and kept until one of them
//! changes.

use audit_core::codec::encode_session;
use audit_core::event::Session;
use audit_core::sql::redact::value_without_secrets;
use core::hint::cold_path;
use pgrx::pg_sys;

use super::connection::{self, Peer};
use super::{asks, compat, guc, lexis, names, near, raw, ring_file};

/// What can change while a session runs, as last seen.
#[derive(Default)]
struct Seen {
    roles: Roles,
    attributes_version: u32,
    application_name: Vec<u8>,
    branch: Vec<u8>,
}

/// Whose names an event carries besides the one who logged on.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Roles {
    current_user: u32,
    session_user: u32,
    /// Of their names.
    version: u32,
}

impl Roles {
    /// Never throws.
    #[inline]
    unsafe fn now() -> Roles {
        unsafe {
            Roles {
                current_user: raw::GetUserId().to_u32(),
                session_user: raw::GetSessionUserId().to_u32(),
                version: names::roles_version(),
            }
        }
    }
}

/// The roles whose names are known.
#[unsafe(link_section = "audit_data")]
static mut LEARNED: Option<Roles> = None;

struct State {
    user_name: Vec<u8>,
    database_name: Vec<u8>,
    peer: Peer,
    seen: Seen,
    encoded: Vec<u8>,
}

#[unsafe(link_section = "audit_data")]
static mut STATE: Option<State> = None;
static mut IS_WORKER: bool = false;
#[unsafe(link_section = "audit_data")]
static mut VERSION: u32 = 0;

/// See [`context_left_out`].
static mut LEFT_OUT: usize = 0;
/// Half of the longest record, which has an eighth of the ring at most.
const MOST_CONTEXT: usize = 512 * 1024;

/// Changes with [`encoded`].
#[inline]
pub fn version() -> u32 {
    unsafe { VERSION }
}

/// Says that this process is our own worker: its statements are not recorded.
pub fn set_worker() {
    unsafe { IS_WORKER = true };
    super::foreign::watch();
}

/// Whether this process is our own worker.
#[inline]
pub fn is_worker() -> bool {
    unsafe { IS_WORKER }
}

/// Whether this process serves a client, be it one of the replication protocol.
#[inline]
pub fn has_client() -> bool {
    use pg_sys::BackendType::{B_BACKEND, B_WAL_SENDER};
    let kind = near::MyBackendType();
    kind == B_BACKEND || kind == B_WAL_SENDER
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
#[unsafe(link_section = "audit_session")]
pub unsafe fn begin() {
    unsafe {
        let user = raw::GetAuthenticatedUserId();
        let database = match connection::logged_on() {
            // The server has just found both by these names.
            Some((role, database)) if names::roles_version() == 0 => {
                names::remember_role(user, role);
                database
            }
            _ => {
                names::learn_role(user);
                raw::bytes(raw::get_database_name(pg_sys::MyDatabaseId))
            }
        };
        let peer = Peer::of_session();
        // From here on nothing throws.
        lexis::begin();
        STATE = Some(State {
            user_name: names::role(user).unwrap_or_default().to_vec(),
            database_name: database.to_vec(),
            peer,
            seen: Seen {
                application_name: Vec::with_capacity(raw::NAMEDATALEN),
                ..Seen::default()
            },
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
        match LEARNED {
            Some(learned) if learned == Roles::now() => {}
            _ => learn_roles(),
        }
    }
}

#[cold]
#[unsafe(link_section = "audit_session")]
unsafe fn learn_roles() {
    unsafe {
        let roles = Roles::now();
        names::learn_role(pg_sys::Oid::from(roles.current_user));
        names::learn_role(pg_sys::Oid::from(roles.session_user));
        // The look-ups may themselves have seen a name change: then they are repeated next time.
        LEARNED = Some(roles);
        if roles == Roles::now() {
            asks::set_known_user(roles.current_user);
        }
    }
}

/// The session's attributes as they are now, encoded; empty before [`begin`]. Never throws.
#[inline(always)]
pub fn encoded() -> &'static [u8] {
    unsafe {
        let Some(state) = (*(&raw mut STATE)).as_mut() else {
            cold_path();
            return &[];
        };
        if state.changed() {
            cold_path();
            state.encode();
        }
        &state.encoded
    }
}

/// What [`encoded`] said last.
pub fn last_encoded() -> &'static [u8] {
    unsafe {
        (*(&raw const STATE))
            .as_ref()
            .map_or(&[], |state| &state.encoded)
    }
}

impl Seen {
    #[inline(never)]
    fn neon_branch_changed(&self) -> bool {
        !guc::has_branch() && self.branch != neon_branch()
    }
}

impl State {
    #[inline(always)]
    unsafe fn changed(&self) -> bool {
        let seen = &self.seen;
        unsafe {
            seen.roles != Roles::now()
                || !raw::are(near::application_name(), &seen.application_name)
                || self.encoded.is_empty()
                || seen.attributes_version != guc::attributes_version()
                || (neon_is_there() && seen.neon_branch_changed())
        }
    }

    #[inline(never)]
    #[unsafe(link_section = "audit_session")]
    unsafe fn encode(&mut self) {
        unsafe {
            VERSION = VERSION.wrapping_add(1);
            let seen = &mut self.seen;
            seen.attributes_version = guc::attributes_version();
            set(
                &mut seen.application_name,
                raw::bytes(pg_sys::application_name),
            );
            set(&mut seen.branch, branch());
            // What an application says of itself may be its connection string.
            let application_name = value_without_secrets(&seen.application_name);
            let context = value_without_secrets(context_that_fits());
            let role = names::role(raw::GetUserId());
            let session_user = names::role(raw::GetSessionUserId());
            // Where a name isn't known yet, this is said anew once it is.
            seen.roles = match (role, session_user) {
                (Some(_), Some(_)) => Roles::now(),
                _ => Roles::default(),
            };
            encode_session(
                &Session {
                    started_at: pg_sys::MyStartTimestamp,
                    pid: pg_sys::MyProcPid as u32,
                    encoding: raw::GetDatabaseEncoding() as u8,
                    user_name: Some(&self.user_name),
                    role_name: role,
                    auth_identity: not_empty(raw::bytes(compat::system_user())),
                    session_user: session_user.filter(|name| *name != &*self.user_name),
                    // A walsender of physical replication has none.
                    database_name: not_empty(&self.database_name),
                    branch: not_empty(&seen.branch),
                    client_addr: self.peer.address.as_deref().map(str::as_bytes),
                    client_port: self.peer.port,
                    application_name: Some(&application_name),
                    backend_type: Some(backend_type()),
                    context: not_empty(&context),
                },
                &mut self.encoded,
            );
        }
    }
}

/// The kind of this process, as pg_stat_activity shows it. Never throws.
fn backend_type() -> &'static [u8] {
    // SAFETY: MyBgworkerEntry is NULL or valid; its strings are NUL-terminated.
    unsafe {
        match pg_sys::MyBgworkerEntry.as_ref() {
            Some(worker) => raw::bytes(worker.bgw_type.as_ptr()),
            None => raw::bytes(raw::GetBackendTypeDesc(pg_sys::MyBackendType)),
        }
    }
}

fn set(into: &mut Vec<u8>, value: &[u8]) {
    into.clear();
    into.extend_from_slice(value);
}

/// `audit.context`; empty where it is so long that a record with little else would not fit into the ring.
fn context_that_fits() -> &'static [u8] {
    let context = guc::context();
    let most = ring_file::ring().map_or(0, |ring| ring.capacity() as usize / 16);
    let fits = context.len() <= most.min(MOST_CONTEXT);
    unsafe { LEFT_OUT = if fits { 0 } else { context.len() } };
    match fits {
        true => context,
        false => &[],
    }
}

/// Bytes of the context that [`encoded`] leaves out; 0: none.
#[inline]
pub fn context_left_out() -> usize {
    unsafe { LEFT_OUT }
}

fn not_empty(value: &[u8]) -> Option<&[u8]> {
    (!value.is_empty()).then_some(value)
}

/// `audit.branch`, else `neon.branch_id` where that setting exists. Never throws.
pub fn branch() -> &'static [u8] {
    match guc::branch() {
        [] => neon_branch(),
        own => own,
    }
}

/// `neon.branch_id`; empty where there is no such setting. Never throws: the setting is looked for
/// once, and only its value is read afterwards.
fn neon_branch() -> &'static [u8] {
    if !neon_is_there() {
        return &[];
    }
    unsafe { raw::bytes(raw::GetConfigOption(NEON_BRANCH.as_ptr(), true, false)) }
}

const NEON_BRANCH: &core::ffi::CStr = c"neon.branch_id";

/// Whether there is such a setting. Never throws.
#[inline]
fn neon_is_there() -> bool {
    #[unsafe(link_section = "audit_data")]
    static mut KNOWN: Option<bool> = None;
    unsafe {
        if let Some(known) = KNOWN {
            return known;
        }
        cold_path();
        let known = !raw::GetConfigOption(NEON_BRANCH.as_ptr(), true, false).is_null();
        KNOWN = Some(known);
        known
    }
}
