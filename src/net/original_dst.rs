//! Where a redirected connection was going, before a rule of the machine sent it to us.
//!
//! The kernel's connection tracking remembers it: `SO_ORIGINAL_DST` on IPv4, `IP6T_SO_ORIGINAL_DST` on IPv6, and the
//! former for IPv4 that arrives at an IPv6 socket. A connection that nobody redirected was going where it arrived.

use std::net::SocketAddr;

use socket2::SockRef;
use tokio::net::TcpStream;

/// The address that `stream`'s caller dialled; none where it is `local`, ours. Two system calls at most.
pub fn original_dst(stream: &TcpStream, local: SocketAddr) -> Option<SocketAddr> {
    let socket = SockRef::from(stream);
    let dialled = match local.ip().to_canonical().is_ipv4() {
        true => socket.original_dst_v4(),
        false => socket.original_dst_v6(),
    };
    // Without connection tracking (ENOENT, ENOPROTOOPT) nothing can have been redirected.
    let dialled = dialled.ok()?.as_socket()?;
    redirected(dialled, local)
}

fn redirected(dialled: SocketAddr, local: SocketAddr) -> Option<SocketAddr> {
    let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let dialled = plain(dialled);
    (dialled != plain(local) && dialled.port() != 0).then_some(dialled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn who_dialled_us_was_not_redirected() {
        let us = address("127.0.0.1:15001");
        assert_eq!(redirected(us, us), None);
        let mapped = address("[::ffff:127.0.0.1]:15001");
        assert_eq!(redirected(us, mapped), None);
    }

    #[test]
    fn who_dialled_another_was() {
        let service = address("10.96.7.7:3306");
        assert_eq!(
            redirected(service, address("127.0.0.1:15001")),
            Some(service)
        );
        let service = address("[fd00::7]:3306");
        assert_eq!(redirected(service, address("[::1]:15001")), Some(service));
    }

    #[test]
    fn a_connection_within_loopback_was_not_redirected() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build();
        runtime.expect("a runtime").block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let local = listener.local_addr().unwrap();
            let (client, accepted) =
                tokio::join!(tokio::net::TcpStream::connect(local), listener.accept());
            assert_eq!(original_dst(&accepted.unwrap().0, local), None);
            drop(client);
        });
    }
}
