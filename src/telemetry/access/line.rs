//! What is told of one request, and how it is written: JSON, with every string of a stranger escaped.

use std::time::{Duration, SystemTime};

use super::moment::{decimal, timestamp};

/// Bytes of one string that are kept: a path may be 8 KiB long, and one line is no place for all of it.
pub(super) const STRING_BYTES: usize = 2_048;

/// Whose call a line tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From a peer to the application beside us.
    Inbound,
    /// From the application beside us to an upstream.
    Outbound,
}

impl Direction {
    pub const fn word(self) -> &'static str {
        match self {
            Direction::Inbound => "inbound",
            Direction::Outbound => "outbound",
        }
    }
}

/// What is told of one request. Absent facts are left out of the line.
#[derive(Debug, Clone)]
pub struct Line<'a> {
    /// When the request began.
    pub ts: SystemTime,
    pub direction: Direction,
    pub method: &'a str,
    pub host: &'a str,
    pub path: &'a str,
    pub route: Option<&'a str>,
    pub upstream: Option<&'a str>,
    pub endpoint: Option<&'a str>,
    /// Absent when the caller got no answer.
    pub status: Option<u16>,
    pub grpc_status: Option<u16>,
    /// Why we answered ourselves, or what broke.
    pub reason: Option<&'a str>,
    pub detail: Option<&'a str>,
    pub request_id: Option<&'a str>,
    pub traceparent: Option<&'a str>,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub duration: Duration,
    pub attempts: u32,
    pub peer: Option<&'a str>,
    /// The caller's, verified.
    pub identity: Option<&'a str>,
    /// `HTTP/1.1`, `HTTP/2`.
    pub protocol: &'a str,
}

impl Line<'_> {
    /// True for what `accessLog: onError` tells.
    pub fn is_failure(&self) -> bool {
        let status = |status| status >= 500;
        self.reason.is_some()
            || self.status.is_none_or(status)
            || self.grpc_status.is_some_and(fails_the_server)
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"ts\":\"");
        timestamp(self.ts, out);
        out.push(b'"');
        text(out, "direction", Some(self.direction.word()));
        text(out, "method", Some(self.method));
        text(out, "host", Some(self.host));
        text(out, "path", Some(self.path));
        text(out, "route", self.route);
        text(out, "upstream", self.upstream);
        text(out, "endpoint", self.endpoint);
        number(out, "status", self.status.map(u64::from));
        number(out, "grpc_status", self.grpc_status.map(u64::from));
        text(out, "reason", self.reason);
        text(out, "detail", self.detail);
        text(out, "request_id", self.request_id);
        text(out, "traceparent", self.traceparent);
        number(out, "bytes_in", Some(self.bytes_in));
        number(out, "bytes_out", Some(self.bytes_out));
        let micros = u64::try_from(self.duration.as_micros()).unwrap_or(u64::MAX);
        number(out, "duration_us", Some(micros));
        number(out, "attempts", Some(self.attempts.into()));
        text(out, "peer", self.peer);
        text(out, "identity", self.identity);
        text(out, "protocol", Some(self.protocol));
        out.extend_from_slice(b"}\n");
    }
}

/// Whether a gRPC status tells of a failing server, as OpenTelemetry's conventions have it: UNKNOWN,
/// DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS.
pub fn fails_the_server(status: u16) -> bool {
    matches!(status, 2 | 4 | 12..=15)
}

/// `,"name":"value"`, if there is a value.
pub(super) fn text(out: &mut Vec<u8>, name: &str, value: Option<&str>) {
    let Some(value) = value else { return };
    key(out, name);
    out.push(b'"');
    escape(shortened(value), out);
    out.push(b'"');
}

/// `,"name":42`, if there is a value.
pub(super) fn number(out: &mut Vec<u8>, name: &str, value: Option<u64>) {
    let Some(value) = value else { return };
    key(out, name);
    decimal(value, 1, out);
}

fn key(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

/// At most `STRING_BYTES` of the text, whole characters.
fn shortened(value: &str) -> &str {
    &value[..value.floor_char_boundary(STRING_BYTES)]
}

/// Escapes what JSON demands, and DEL and the C1 controls too, which some terminals obey.
fn escape(value: &str, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let unicode = |out: &mut Vec<u8>, code: u32| {
        out.extend_from_slice(b"\\u00");
        out.push(HEX[(code >> 4 & 15) as usize]);
        out.push(HEX[(code & 15) as usize]);
    };
    let mut plain = 0;
    for (at, sign) in value.char_indices() {
        if !matches!(sign, '"' | '\\' | '\0'..='\x1f' | '\x7f'..='\u{9f}') {
            continue;
        }
        out.extend_from_slice(&value.as_bytes()[plain..at]);
        plain = at + sign.len_utf8();
        match sign {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            other => unicode(out, other.into()),
        }
    }
    out.extend_from_slice(&value.as_bytes()[plain..]);
}
