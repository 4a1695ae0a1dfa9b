//! A listening address, shared by the workers, and accepting on it without ever spinning.

use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

const BACKLOG: i32 = 4096;
/// How long accepting rests after an error that will not go away at once (no file descriptor, no memory).
const REST: Duration = Duration::from_millis(50);

#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {cause}{hint}")]
pub struct BindError {
    pub address: SocketAddr,
    #[source]
    pub cause: io::Error,
    hint: &'static str,
}

impl BindError {
    fn new(address: SocketAddr, cause: io::Error) -> Self {
        let hint = match cause.kind() {
            io::ErrorKind::AddrInUse => {
                "; another process has this port: stop it or change the address"
            }
            io::ErrorKind::PermissionDenied => "; ports below 1024 need CAP_NET_BIND_SERVICE",
            io::ErrorKind::AddrNotAvailable => "; this machine has no such address",
            _ => "",
        };
        BindError {
            address,
            cause,
            hint,
        }
    }
}

/// What a listener on `[::]` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv6 alone: another listener has the IPv4 half.
    Own,
    /// Both families, where the address is `[::]`.
    Both,
}

/// One address, with a socket for each worker that has not taken its own yet.
pub struct Listener {
    pub address: SocketAddr,
    sockets: Vec<StdListener>,
}

impl Listener {
    /// Binds `workers` sockets to one address; port 0 takes a free port, the same for all.
    ///
    /// `SO_REUSEPORT` would let us share a port with a stranger of the same user, and take half of its
    /// connections; so the port is first bound without it, which fails if anyone listens there.
    pub fn bind(address: SocketAddr, workers: usize, family: Family) -> Result<Self, BindError> {
        let fail = |cause| BindError::new(address, cause);
        let claim = socket(address, family, false).map_err(fail)?;
        let taken = claim
            .local_addr()
            .map_err(fail)?
            .as_socket()
            .unwrap_or(address);
        drop(claim);
        let sockets = (0..workers.max(1))
            .map(|_| {
                let socket = socket(taken, family, true)?;
                socket.listen(BACKLOG)?;
                Ok(StdListener::from(socket))
            })
            .collect::<io::Result<Vec<_>>>()
            .map_err(fail)?;
        Ok(Listener {
            address: taken,
            sockets,
        })
    }

    /// The socket of one worker; each may be taken once.
    pub fn take(&mut self) -> Option<StdListener> {
        self.sockets.pop()
    }
}

fn socket(address: SocketAddr, family: Family, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    if address.is_ipv6() {
        socket.set_only_v6(family == Family::Own)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// A listening socket on a worker's runtime.
pub struct Incoming {
    listener: TcpListener,
}

pub struct Accepted {
    pub stream: TcpStream,
    pub peer: SocketAddr,
    pub local: SocketAddr,
}

impl Incoming {
    /// Must be called on the worker's runtime.
    pub fn new(listener: StdListener) -> io::Result<Self> {
        Ok(Incoming {
            listener: TcpListener::from_std(listener)?,
        })
    }

    /// The next connection. Errors of one connection are passed over; when the process has run out of
    /// something, `exhausted` is told once a rest, and accepting goes on 50 ms later.
    pub async fn next(&self, mut exhausted: impl FnMut(&io::Error)) -> Accepted {
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    // Answers leave as they are written; Nagle would hold a body's last part back.
                    let _ = stream.set_nodelay(true);
                    let local = stream.local_addr().unwrap_or(peer);
                    return Accepted {
                        stream,
                        peer,
                        local,
                    };
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    exhausted(&error);
                    tokio::time::sleep(REST).await;
                }
            }
        }
    }
}

/// accept(2) passes on errors of the connection that was about to be accepted.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_occupied_port_is_refused_though_both_would_share_it() {
        let mut first = Listener::bind("127.0.0.1:0".parse().unwrap(), 2, Family::Both).unwrap();
        assert!(first.take().is_some());
        let error = Listener::bind(first.address, 2, Family::Both)
            .err()
            .expect("the port is taken")
            .to_string();
        assert!(error.contains("another process has this port"), "{error}");
    }

    #[test]
    fn all_workers_share_the_port_that_was_free() {
        let mut listener = Listener::bind("127.0.0.1:0".parse().unwrap(), 3, Family::Both).unwrap();
        let ports: Vec<u16> = std::iter::from_fn(|| listener.take())
            .map(|socket| socket.local_addr().unwrap().port())
            .collect();
        assert_eq!(ports, [listener.address.port(); 3]);
    }

    #[test]
    fn a_lone_ipv6_wildcard_takes_ipv4_too() {
        let Ok(both) = Listener::bind("[::]:0".parse().unwrap(), 1, Family::Both) else {
            return; // This machine has no IPv6.
        };
        let ipv4 = std::net::SocketAddr::from(([127, 0, 0, 1], both.address.port()));
        assert!(std::net::TcpStream::connect(ipv4).is_ok());
    }
}
