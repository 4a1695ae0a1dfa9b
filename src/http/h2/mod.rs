//! HTTP/2 towards an upstream: many exchanges on one connection, straight on the `h2` crate.
//!
//! One task drives a connection, one future drives a request. What `h2` does not say is read from the frame headers
//! that pass (`observe`): which streams left us and which one the peer named last, so that "provably unprocessed"
//! is a fact and not a guess. Choosing an endpoint, opening sockets, retrying and timing requests are others' work.
//!
//! Needs a tokio `LocalRuntime`.

mod answer;
mod connection;
mod duplex;
mod failure;
mod observe;
mod scan;
mod send;
mod upload;

#[cfg(test)]
mod tests;

pub use answer::AnswerBody;
pub use connection::{Connection, Observer, handshake};
pub use duplex::{Duplex, Switched};
pub use failure::{Failure, Kind, Rejected};
pub use scan::{Frame, Scan};
pub use send::Sending;

use std::time::Duration;

/// What a connection allows itself and its peer.
#[derive(Debug, Clone)]
pub struct Options {
    /// Bytes of one answer that may wait for its reader.
    pub stream_window: u32,
    /// Bytes of all answers together that may wait for their readers.
    pub connection_window: u32,
    /// Bytes of one request's body that may wait for the socket.
    pub max_send_buffer: usize,
    /// Decoded bytes of an answer's head.
    pub max_head: u32,
    /// How often the peer is asked whether it is there.
    pub ping_every: Duration,
    /// How long it may be silent after that.
    pub ping_patience: Duration,
    /// Broken answers in a connection's life before it is given up.
    pub max_broken_answers: usize,
    /// Cancelled exchanges remembered for a second, so that what is still on its way to them is not counted as broken.
    pub max_cancelled: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            stream_window: 64 * 1024,
            connection_window: 1024 * 1024,
            max_send_buffer: 64 * 1024,
            max_head: 64 * 1024,
            ping_every: Duration::from_secs(10),
            ping_patience: Duration::from_secs(3),
            max_broken_answers: 100,
            max_cancelled: 1024,
        }
    }
}
