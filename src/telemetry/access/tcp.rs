//! The line of a connection whose bytes were relayed, written at its end.

use std::time::{Duration, SystemTime};

use super::{
    AccessLog, Direction,
    line::{number, text},
    moment::timestamp,
};

/// What is told of one connection. Absent facts are left out of the line.
#[derive(Debug, Clone)]
pub struct TcpLine<'a> {
    /// When it began.
    pub ts: SystemTime,
    pub direction: Direction,
    /// What its first bytes were taken for.
    pub detected: &'a str,
    /// The name that a TLS client asked for.
    pub server_name: Option<&'a str>,
    /// Where the caller meant to go, when the connection was redirected to us.
    pub original: Option<&'a str>,
    pub upstream: Option<&'a str>,
    pub endpoint: Option<&'a str>,
    /// Why it did not end in order.
    pub reason: Option<&'a str>,
    pub detail: Option<&'a str>,
    /// From the caller.
    pub bytes_in: u64,
    /// To the caller.
    pub bytes_out: u64,
    pub duration: Duration,
    pub attempts: u32,
    pub peer: &'a str,
    /// The caller's verified identity.
    pub identity: Option<&'a str>,
}

impl TcpLine<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"ts\":\"");
        timestamp(self.ts, out);
        out.push(b'"');
        text(out, "direction", Some(self.direction.word()));
        text(out, "detected", Some(self.detected));
        text(out, "server_name", self.server_name);
        text(out, "original", self.original);
        text(out, "upstream", self.upstream);
        text(out, "endpoint", self.endpoint);
        text(out, "reason", self.reason);
        text(out, "detail", self.detail);
        number(out, "bytes_in", Some(self.bytes_in));
        number(out, "bytes_out", Some(self.bytes_out));
        let micros = u64::try_from(self.duration.as_micros()).unwrap_or(u64::MAX);
        number(out, "duration_us", Some(micros));
        number(out, "attempts", Some(self.attempts.into()));
        text(out, "peer", Some(self.peer));
        text(out, "identity", self.identity);
        text(out, "protocol", Some("TCP"));
        out.extend_from_slice(b"}\n");
    }
}

impl AccessLog {
    /// Queues the line if it is wanted; drops and counts it when the queue is full. Never waits.
    pub fn write_tcp(&self, line: &TcpLine<'_>) {
        if self.wants(line.reason.is_some()) {
            self.queue(|buffer| line.encode(buffer));
        }
    }
}
