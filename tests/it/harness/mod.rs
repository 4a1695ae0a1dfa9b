//! What every story stands on: a sidecar as a process, scripted peers, peers that no one here wrote.
//!
//! Everything listens on port 0 of loopback, so stories run side by side. Waiting is polling for a condition, with
//! a deadline; nothing sleeps in the hope that something has happened.

#![allow(dead_code, unused_imports, reason = "not every story needs every tool")]

mod call;
mod h2;
mod load;
pub mod netns;
mod origin;
pub mod parts;
mod raw;
mod tls;
mod tls_caller;
mod weft;

use std::{
    net::{IpAddr, TcpListener, TcpStream, UdpSocket},
    process,
    sync::atomic::{AtomicU16, Ordering},
    thread,
    time::{Duration, Instant},
};

pub use call::{Answer, Call};
pub use h2::{Frame, H2Peer, block, flag, grpc_call, grpc_message, grpc_status, kind};
pub use load::{Load, Tally};
pub use origin::{Origin, Reply, Seen, gated};
pub use raw::{RawClient, RawConnection, RawOrigin};
pub use tls::{Authority, IdentityFolder, Leaf, Wanted};
pub use tls_caller::{TlsCaller, TlsConnection};
pub use weft::{Failed, Weft};

/// How long a condition may take before the test fails; a machine under load is slow, a broken one slower.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Longer than any test waits: what ends before it was ended by somebody.
pub const NEVER: Duration = Duration::from_secs(3600);

/// How long a look that found nothing rests.
const POLL: Duration = Duration::from_millis(10);

/// Polls until there is something, and returns it; fails the test after [`DEADLINE`].
#[track_caller]
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begin.elapsed() < DEADLINE, "waited in vain for {what}");
        thread::sleep(POLL);
    }
}

/// Polls until it is so.
#[track_caller]
pub fn wait_until(what: &str, mut so: impl FnMut() -> bool) {
    wait_for(what, || so().then_some(()));
}

/// The next connection of a listener, within [`DEADLINE`].
#[track_caller]
pub fn wait_for_connection(listener: &TcpListener) -> TcpStream {
    listener.set_nonblocking(true).expect("a socket");
    let (stream, _) = wait_for("a connection", || listener.accept().ok());
    stream.set_nonblocking(false).expect("a socket");
    stream
}

/// A port of loopback for programs that cannot be told port 0.
///
/// No two calls get the same, and nobody else does unasked: the kernel's own begin above (`ip_local_port_range`).
pub fn free_port() -> u16 {
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 12_000;
    static GIVEN: AtomicU16 = AtomicU16::new(0);
    // Runs beside each other begin at places of their own.
    let own = process::id().wrapping_mul(997) % u32::from(COUNT);
    loop {
        let step = own + u32::from(GIVEN.fetch_add(1, Ordering::Relaxed));
        let port = FIRST + u16::try_from(step % u32::from(COUNT)).expect("a remainder");
        // Only bound: what listens lives on for a moment in a process that another test is forking.
        if origin::bind(([127, 0, 0, 1], port).into()).is_ok() {
            return port;
        }
    }
}

/// An address where connections are refused.
pub fn dead_address() -> String {
    format!("127.0.0.1:{}", free_port())
}

/// This machine's own address, as a stranger's; none where it has but loopback.
pub fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // No packet is sent by this.
    socket.connect("192.0.2.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback()).then_some(address)
}
