//! Bytes from one side to the other, until both have ended.

use std::io;

use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes};

use super::Stream;

/// What is buffered of each direction, at most.
const BUFFER: usize = 16 * 1024;

/// The far side of a tunnel that a CONNECT asked for.
pub struct Tunnel {
    pub upstream: Stream,
}

impl Tunnel {
    /// Relays until both sides have ended; `
    ///
    /// One side's end is passed on, so that protocols with half-closed connections work. Returns the bytes from
    /// the near and from the far side. Dropping the future closes the far side.
    pub async fn relay<IO>(mut self, mut near: IO) -> io::Result<(u64, u64)>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        copy_bidirectional_with_sizes(&mut near, &mut self.upstream, BUFFER, BUFFER).await
    }
}
