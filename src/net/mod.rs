//! Sockets: listen, accept, for whom, which protocol, dial, copy bytes, plain or under TLS.
//!
//! Every worker has a socket of its own on each address (`SO_REUSEPORT`); what leaves has keep-alive and
//! `TCP_USER_TIMEOUT`, so that a dead peer is noticed in 30 s at most.

pub mod client_hello;
pub mod detect;
mod dial;
mod leash;
mod listener;
mod original_dst;
mod relay;
mod stream;

pub use dial::{BESIDE_V4, BESIDE_V6, be_patient, dial, dial_beside, reset};
pub use leash::{Bond, Leash, Warrant};
pub use listener::{Accepted, BindError, Family, Incoming, Listener};
pub use original_dst::original_dst;
pub use relay::{Broken, Count, Early, Side, Tally, relay};
pub use stream::{Stream, is_alert, refuses_identity};

use std::net::{IpAddr, SocketAddr};

/// Whether a connection to `target` would arrive at a listener bound to `listener`.
pub fn reaches(target: SocketAddr, listener: SocketAddr) -> bool {
    if target.port() != listener.port() {
        return false;
    }
    let target = target.ip().to_canonical();
    match listener.ip() {
        ip if ip.is_unspecified() => is_local(target),
        ip => ip.to_canonical() == target,
    }
}

/// An address of this machine: loopback, or one the kernel lets us bind.
fn is_local(ip: IpAddr) -> bool {
    ip.is_loopback() || ip.is_unspecified() || std::net::UdpSocket::bind((ip, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_on_a_wildcard_listener_is_reached_by_any_local_address() {
        let wildcard: SocketAddr = "0.0.0.0:15001".parse().unwrap();
        assert!(reaches("127.0.0.1:15001".parse().unwrap(), wildcard));
        assert!(reaches("127.0.0.9:15001".parse().unwrap(), wildcard));
        assert!(!reaches("127.0.0.1:15002".parse().unwrap(), wildcard));
        assert!(!reaches("192.0.2.1:15001".parse().unwrap(), wildcard));
    }

    #[test]
    fn a_mapped_address_is_the_address_it_maps() {
        assert!(reaches(
            "[::ffff:127.0.0.1]:80".parse().unwrap(),
            "127.0.0.1:80".parse().unwrap()
        ));
    }
}
