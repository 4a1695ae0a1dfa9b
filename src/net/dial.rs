//! A connection to a peer, with what keeps a dead one from being waited for.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpSocket, TcpStream};

const KEEPALIVE: Duration = Duration::from_secs(10);
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// Where calls to the application come from when they go to their original address: the machine's rules let these
/// pass, and no port that is bound to loopback alone can be reached by them.
pub const BESIDE_V4: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 6);
pub const BESIDE_V6: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6);

/// Connects within `timeout`, else `TimedOut`.
pub async fn dial(address: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    within(timeout, TcpStream::connect(address)).await
}

/// The same, from the address that the machine's rules exempt from redirection.
pub async fn dial_beside(address: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    let address = SocketAddr::new(address.ip().to_canonical(), address.port());
    let (socket, from): (_, IpAddr) = match address {
        SocketAddr::V4(_) => (TcpSocket::new_v4()?, BESIDE_V4.into()),
        SocketAddr::V6(_) => (TcpSocket::new_v6()?, BESIDE_V6.into()),
    };
    // Else a port would serve one connection at a time, whatever its destination, and 28,000 were all.
    socket.set_reuseaddr(true)?;
    socket.bind((from, 0).into())?;
    within(timeout, socket.connect(address)).await
}

async fn within(
    timeout: Duration,
    connect: impl Future<Output = io::Result<TcpStream>>,
) -> io::Result<TcpStream> {
    let tcp = match tokio::time::timeout(timeout, connect).await {
        Ok(tcp) => tcp?,
        Err(_) => return Err(io::ErrorKind::TimedOut.into()),
    };
    tcp.set_nodelay(true)?;
    let socket = SockRef::from(&tcp);
    socket.set_tcp_keepalive(&keepalive())?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    Ok(tcp)
}

fn keepalive() -> TcpKeepalive {
    TcpKeepalive::new()
        .with_time(KEEPALIVE)
        .with_interval(KEEPALIVE)
}

/// Suits a connection to bytes whose reader may pause for as long as it likes: keep-alive alone finds a dead peer.
///
/// `TCP_USER_TIMEOUT` takes a window that stays closed for silence, and would cut whoever pages through a long answer
/// (Linux 6.18: after 3.6 s where it was 3 s, with a peer that was there all the time).
pub fn be_patient(tcp: &TcpStream) {
    let socket = SockRef::from(tcp);
    // A connection that is gone already says so when it is read.
    let _ = socket.set_tcp_keepalive(&keepalive());
    let _ = socket.set_tcp_user_timeout(None);
}

/// Closing the connection now tells its peer that it broke, not that it ended.
pub fn reset(tcp: &TcpStream) {
    let _ = SockRef::from(tcp).set_linger(Some(Duration::ZERO));
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_dead_peer_is_noticed_and_a_patient_one_is_not_cut() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tcp = dial(address, Duration::from_secs(5)).await.unwrap();
        let socket = SockRef::from(&tcp);
        let noticed = || {
            let keepalive = socket.keepalive().unwrap().then(|| {
                let time = socket.tcp_keepalive_time().unwrap();
                (time, socket.tcp_keepalive_interval().unwrap())
            });
            (keepalive, socket.tcp_user_timeout().unwrap())
        };
        let every = Some((Duration::from_secs(10), Duration::from_secs(10)));
        assert_eq!(noticed(), (every, Some(Duration::from_secs(30))));
        be_patient(&tcp);
        assert_eq!(noticed(), (every, None));
        let (accepted, _) = listener.accept().await.unwrap();
        be_patient(&accepted);
        assert!(SockRef::from(&accepted).keepalive().unwrap());
    }
}
