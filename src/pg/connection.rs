//! The client's connection: who asked to be let in, from where, and how that was checked.

use core::ffi::{c_char, c_int};
use pgrx::pg_sys;

use super::{compat, parallel, raw};

/// The head of struct Port (libpq/libpq-be.h). pgrx's has a field too many on 17.
#[repr(C)]
struct Port {
    sock: c_int,
    noblock: bool,
    proto: u32,
    laddr: pg_sys::SockAddr,
    raddr: pg_sys::SockAddr,
    remote_host: *mut c_char,
    remote_hostname: *mut c_char,
    remote_hostname_resolv: c_int,
    remote_hostname_errcode: c_int,
    remote_port: *mut c_char,
    #[cfg(any(feature = "pg14", feature = "pg15", feature = "pg16"))]
    can_accept_connections: c_int,
    #[cfg(feature = "pg18")]
    local_host: [c_char; 64],
    database_name: *mut c_char,
    user_name: *mut c_char,
    cmdline_options: *mut c_char,
    guc_options: *mut pg_sys::List,
    application_name: *mut c_char,
    hba: *const HbaLine,
}

#[cfg(not(feature = "pg17"))]
const _: () = assert!(
    core::mem::offset_of!(Port, application_name)
        == core::mem::offset_of!(pg_sys::libpq::be::Port, application_name)
);

/// The head of HbaLine (libpq/hba.h), which pgrx doesn't bind.
#[repr(C)]
struct HbaLine {
    #[cfg(not(any(feature = "pg14", feature = "pg15")))]
    sourcefile: *mut c_char,
    linenumber: i32,
    rawline: *mut c_char,
    conntype: i32,
    databases: *mut pg_sys::List,
    roles: *mut pg_sys::List,
    addr: [u64; 16],
    addrlen: i32,
    mask: [u64; 16],
    masklen: i32,
    ip_cmp_method: i32,
    hostname: *mut c_char,
    auth_method: i32,
}

unsafe extern "C" {
    /// The server assigns it in each child.
    static mut MyProcPort: *const Port;
}

/// A peer's numeric address and port; none for a unix socket.
pub struct Peer {
    pub address: Option<String>,
    pub port: Option<u16>,
}

impl Peer {
    const LOCAL: Peer = Peer {
        address: None,
        port: None,
    };

    /// The peer of a session that was let in; in a process that helps another, that one's. Throws.
    ///
    /// # Safety
    /// In a transaction.
    #[unsafe(link_section = "audit_session")]
    pub unsafe fn of_session() -> Peer {
        // SAFETY: MyBEEntry is NULL or this backend's own entry in shared memory.
        unsafe {
            let entry = if parallel::is_worker() {
                parallel::leader_status()
            } else {
                pg_sys::MyBEEntry.cast_const()
            };
            if entry.is_null() {
                return Peer::LOCAL;
            }
            Peer::read(&raw const (*entry).st_clientaddr)
        }
    }

    /// Reads struct sockaddr_in or sockaddr_in6: family in host order, then port and address in
    /// network order. By hand, since getnameinfo would be told to look up nothing anyway.
    #[unsafe(link_section = "audit_session")]
    unsafe fn read(address: *const pg_sys::SockAddr) -> Peer {
        const AF_INET: u16 = 2;
        const AF_INET6: u16 = 10;
        unsafe {
            let bytes = (&raw const (*address).addr).cast::<u8>();
            let family = bytes.cast::<u16>().read_unaligned();
            let port = u16::from_be_bytes([*bytes.add(2), *bytes.add(3)]);
            let text = match family {
                AF_INET => {
                    let ip = bytes.add(4).cast::<[u8; 4]>().read_unaligned();
                    std::net::Ipv4Addr::from(ip).to_string()
                }
                AF_INET6 => {
                    let ip = bytes.add(8).cast::<[u8; 16]>().read_unaligned();
                    std::net::Ipv6Addr::from(ip).to_string()
                }
                _ => return Peer::LOCAL,
            };
            Peer {
                address: Some(text),
                port: Some(port),
            }
        }
    }
}

/// What the start-up packet asks for.
pub struct Request {
    pub user: &'static [u8],
    pub database: &'static [u8],
    pub application: &'static [u8],
    pub peer: Peer,
}

/// The request of the client that this process serves; `None` before its packet was read, or in a
/// process without a client. Never throws.
pub fn request() -> Option<Request> {
    // SAFETY: MyProcPort is NULL or valid; its strings are NULL or NUL-terminated.
    unsafe {
        let port = MyProcPort.as_ref()?;
        if port.user_name.is_null() {
            return None;
        }
        Some(Request {
            user: raw::bytes(port.user_name),
            database: raw::bytes(port.database_name),
            application: raw::bytes(port.application_name),
            peer: Peer::read(&raw const port.raddr),
        })
    }
}

/// Role and database of the session, as its client asked for them; `None` without a client, or where a name
/// may have been cut. Never throws.
pub fn logged_on() -> Option<(&'static [u8], &'static [u8])> {
    // SAFETY: as in `request`.
    unsafe {
        let port = MyProcPort.as_ref()?;
        if port.user_name.is_null() || port.database_name.is_null() {
            return None;
        }
        let names = (raw::bytes(port.user_name), raw::bytes(port.database_name));
        (names.0.len().max(names.1.len()) < raw::NAMEDATALEN - 1).then_some(names)
    }
}

/// Whether the start-up packet asks for a setting. Never throws.
pub fn asks_for(setting: &[u8]) -> bool {
    // SAFETY: as in `request`; the list has names and values in turn.
    unsafe {
        let Some(port) = MyProcPort.as_ref() else {
            return false;
        };
        // As the server reads the line (pg_split_opts, ParseLongOption): a backslash stands for what follows it,
        // and a - in a name for _.
        let line = raw::bytes(port.cmdline_options).iter().copied();
        let line = line.filter(|byte| *byte != b'\\');
        let mut found = holds(
            line.map(|byte| if byte == b'-' { b'_' } else { byte }),
            setting,
        );
        let mut is_name = true;
        compat::for_each_pointer(port.guc_options, |text: *mut c_char| {
            found |= is_name && raw::bytes(text).eq_ignore_ascii_case(setting);
            is_name = !is_name;
        });
        found
    }
}

fn holds(mut text: impl Iterator<Item = u8> + Clone, word: &[u8]) -> bool {
    loop {
        if starts_with(text.clone(), word) {
            return true;
        }
        if text.next().is_none() {
            return false;
        }
    }
}

fn starts_with(mut text: impl Iterator<Item = u8>, word: &[u8]) -> bool {
    word.iter().all(|byte| {
        text.next()
            .is_some_and(|found| found.eq_ignore_ascii_case(byte))
    })
}

/// Version and cipher of TLS; `None` without it. Never throws.
pub fn tls() -> Option<(&'static [u8], &'static [u8])> {
    // SAFETY: as in `Peer::of_session`; the status is there whenever st_ssl is set.
    unsafe {
        let entry = pg_sys::MyBEEntry.as_ref()?;
        if !entry.st_ssl {
            return None;
        }
        let status = entry.st_sslstatus.as_ref()?;
        Some((
            raw::bytes(status.ssl_version.as_ptr()),
            raw::bytes(status.ssl_cipher.as_ptr()),
        ))
    }
}

/// The authentication method that pg_hba.conf chose, as it is spelled there; `None` before that.
/// Never throws.
#[unsafe(link_section = "audit_session")]
pub fn method() -> Option<&'static [u8]> {
    // SAFETY: returns a static string for every value, NULL for none.
    let name: *const c_char = unsafe { raw::hba_authname(auth_method()?) };
    (!name.is_null()).then(|| unsafe { raw::bytes(name) })
}

fn auth_method() -> Option<i32> {
    // SAFETY: the HbaLine lies in PostmasterContext, which goes once the session has started: a session
    // that began in recovery and saw a promotion is asked later.
    unsafe {
        if pg_sys::PostmasterContext.is_null() {
            return kept_method();
        }
        Some(MyProcPort.as_ref()?.hba.as_ref()?.auth_method)
    }
}

/// What the server keeps of it: nothing.
#[cfg(any(feature = "pg14", feature = "pg15"))]
fn kept_method() -> Option<i32> {
    None
}

/// The head of ClientConnectionInfo (libpq/libpq-be.h since 16), which pgrx doesn't bind.
#[cfg(not(any(feature = "pg14", feature = "pg15")))]
#[repr(C)]
struct ClientConnectionInfo {
    authn_id: *const c_char,
    auth_method: i32,
}

/// What the server keeps of it.
#[cfg(not(any(feature = "pg14", feature = "pg15")))]
fn kept_method() -> Option<i32> {
    unsafe extern "C" {
        static mut MyClientConnectionInfo: ClientConnectionInfo;
    }
    // SAFETY: a plain global. authn_id is NULL where nobody authenticated, for example by trust:
    // the method is then not told, as 0 could be "reject".
    unsafe {
        (!MyClientConnectionInfo.authn_id.is_null()).then_some(MyClientConnectionInfo.auth_method)
    }
}
