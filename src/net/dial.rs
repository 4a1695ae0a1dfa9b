//! A connection to a peer, with what keeps a dead one from being waited for.

use std::{io, net::SocketAddr, time::Duration};

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

const KEEPALIVE: Duration = Duration::from_secs(10);
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// Connects within `timeout`, else `TimedOut`.
pub async fn dial(address: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    let tcp = match tokio::time::timeout(timeout, TcpStream::connect(address)).await {
        Ok(tcp) => tcp?,
        Err(_) => return Err(io::ErrorKind::TimedOut.into()),
    };
    tcp.set_nodelay(true)?;
    let socket = SockRef::from(&tcp);
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE)
            .with_interval(KEEPALIVE),
    )?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    Ok(tcp)
}
