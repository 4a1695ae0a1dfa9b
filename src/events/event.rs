//! A deferred request as an event: what is kept of a call, and how it is written into a stored record.
//!
//! The body is kept byte for byte, beside the head. The head is one small binary: a version, then the fields in this
//! file's order, each with its length before it. Whatever cannot be read is an error, never a guess.

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use crate::outbox::Wall;

/// The head's format. A later one is read beside it, never instead.
const VERSION: u8 = 1;
const GRPC: u8 = 1;
const HTTP2: u8 = 2;
/// Version, flags, time.
const FIXED: usize = 1 + 1 + 8;

/// A call that is kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    pub grpc: bool,
    /// The caller spoke HTTP/2; `protocol: auto` follows it at delivery as well.
    pub http2: bool,
    /// When it was made.
    pub time: Wall,
    /// Who made it: `/<namespace>/<service>/<route>`.
    pub source: String,
    pub method: Method,
    pub authority: String,
    /// Path and query.
    pub target: String,
    pub headers: HeaderMap,
    /// Names of fields with credentials that were not kept.
    pub dropped: Vec<String>,
}

/// The bytes are no head that this version knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    #[error("the stored request has format {0}; this weft reads 1")]
    Version(u8),
    #[error("the stored request cannot be read: {0}")]
    Field(&'static str),
}

/// A call's parts, borrowed: what is written without being copied first.
pub struct Parts<'a> {
    pub grpc: bool,
    pub http2: bool,
    pub time: Wall,
    pub source: &'a str,
    pub method: &'a Method,
    pub authority: &'a str,
    pub target: &'a str,
    pub headers: &'a HeaderMap,
}

impl Parts<'_> {
    /// Writes the head. `keeps` says which fields are kept; `tells` of the others, whose names are remembered.
    pub fn encode(
        &self,
        keeps: impl Fn(&HeaderName) -> bool,
        tells: impl Fn(&HeaderName) -> bool,
    ) -> Bytes {
        let fields: usize = self
            .headers
            .iter()
            .map(|(name, value)| name.as_str().len() + value.len() + 8)
            .sum();
        let texts = self.source.len() + self.authority.len() + self.target.len() + 48;
        let mut out = BytesMut::with_capacity(FIXED + texts + fields);
        out.put_u8(VERSION);
        out.put_u8(if self.grpc { GRPC } else { 0 } | if self.http2 { HTTP2 } else { 0 });
        out.put_i64_le(self.time.0);
        for text in [
            self.source,
            self.method.as_str(),
            self.authority,
            self.target,
        ] {
            put(&mut out, text.as_bytes());
        }
        let count = out.len();
        out.put_u32_le(0);
        let (mut kept, mut dropped) = (0u32, BytesMut::new());
        let mut names = 0u32;
        for (name, value) in self.headers {
            if keeps(name) {
                put(&mut out, name.as_str().as_bytes());
                put(&mut out, value.as_bytes());
                kept += 1;
            } else if tells(name) {
                put(&mut dropped, name.as_str().as_bytes());
                names += 1;
            }
        }
        out[count..count + 4].copy_from_slice(&kept.to_le_bytes());
        out.put_u32_le(names);
        out.extend_from_slice(&dropped);
        out.freeze()
    }
}

impl Request {
    /// `dev.weft.http.request.v1`, or the gRPC one.
    pub fn event_type(&self) -> &'static str {
        match self.grpc {
            true => "dev.weft.grpc.request.v1",
            false => "dev.weft.http.request.v1",
        }
    }

    pub fn encode(&self) -> Bytes {
        let parts = Parts {
            grpc: self.grpc,
            http2: self.http2,
            time: self.time,
            source: &self.source,
            method: &self.method,
            authority: &self.authority,
            target: &self.target,
            headers: &self.headers,
        };
        let head = parts.encode(|_| true, |_| false);
        let mut out = BytesMut::from(&head[..head.len() - 4]);
        out.put_u32_le(self.dropped.len() as u32);
        for name in &self.dropped {
            put(&mut out, name.as_bytes());
        }
        out.freeze()
    }

    pub fn decode(head: &[u8]) -> Result<Self, Unreadable> {
        let mut rest = Reader(head);
        let version = rest.byte("version")?;
        if version != VERSION {
            return Err(Unreadable::Version(version));
        }
        let flags = rest.byte("flags")?;
        let time = Wall(i64::from_le_bytes(rest.array("time")?));
        let source = rest.text("source")?.to_owned();
        let method = Method::from_bytes(rest.bytes("method")?);
        let method = method.map_err(|_| Unreadable::Field("method"))?;
        let authority = rest.text("authority")?.to_owned();
        let target = rest.text("target")?.to_owned();
        let count = rest.number("headers")?;
        let mut headers = HeaderMap::with_capacity(count.min(rest.0.len() / 8) + 8);
        for _ in 0..count {
            let name = HeaderName::from_bytes(rest.bytes("header name")?);
            let value = HeaderValue::from_bytes(rest.bytes("header value")?);
            match (name, value) {
                (Ok(name), Ok(value)) => headers.append(name, value),
                _ => return Err(Unreadable::Field("header")),
            };
        }
        let count = rest.number("dropped")?;
        let mut dropped = Vec::new();
        for _ in 0..count {
            dropped.push(rest.text("dropped")?.to_owned());
        }
        if !rest.0.is_empty() {
            return Err(Unreadable::Field("end"));
        }
        Ok(Request {
            grpc: flags & GRPC != 0,
            http2: flags & HTTP2 != 0,
            time,
            source,
            method,
            authority,
            target,
            headers,
            dropped,
        })
    }
}

fn put(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u32_le(bytes.len() as u32);
    out.extend_from_slice(bytes);
}

/// Takes fields off the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize, what: &'static str) -> Result<&'a [u8], Unreadable> {
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(Unreadable::Field(what))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Unreadable> {
        self.take(N, what)?
            .try_into()
            .map_err(|_| Unreadable::Field(what))
    }

    fn byte(&mut self, what: &'static str) -> Result<u8, Unreadable> {
        Ok(self.array::<1>(what)?[0])
    }

    fn number(&mut self, what: &'static str) -> Result<usize, Unreadable> {
        Ok(u32::from_le_bytes(self.array(what)?) as usize)
    }

    fn bytes(&mut self, what: &'static str) -> Result<&'a [u8], Unreadable> {
        let length = self.number(what)?;
        self.take(length, what)
    }

    fn text(&mut self, what: &'static str) -> Result<&'a str, Unreadable> {
        std::str::from_utf8(self.bytes(what)?).map_err(|_| Unreadable::Field(what))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request() -> Request {
        let mut headers = HeaderMap::new();
        headers.append("x-a", "1".parse().unwrap());
        headers.append("x-a", HeaderValue::from_bytes(b"\xe4").unwrap());
        Request {
            grpc: true,
            http2: true,
            time: Wall(1_700_000_000_123),
            source: "/shop/orders/notify".into(),
            method: Method::POST,
            authority: "email:8080".into(),
            target: "/v1/send?x=%20".into(),
            headers,
            dropped: vec!["authorization".into()],
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let request = request();
        assert_eq!(Request::decode(&request.encode()), Ok(request));
    }

    #[test]
    fn what_is_not_kept_is_remembered_by_name_alone() {
        let mut kept = request();
        kept.headers
            .insert("authorization", "Bearer s3cret".parse().unwrap());
        kept.headers.insert("x-other", "gone".parse().unwrap());
        let parts = Parts {
            grpc: true,
            http2: true,
            time: kept.time,
            source: &kept.source,
            method: &kept.method,
            authority: &kept.authority,
            target: &kept.target,
            headers: &kept.headers,
        };
        let head = parts.encode(|name| name == "x-a", |name| name == "authorization");
        assert_eq!(Request::decode(&head), Ok(request()));
        assert!(!head.windows(6).any(|window| window == b"s3cret"));
    }

    #[test]
    fn a_later_format_is_told_apart() {
        assert_eq!(Request::decode(&[2, 0]), Err(Unreadable::Version(2)));
    }

    proptest! {
        #[test]
        fn a_cut_or_changed_head_never_panics(at in 0usize..200, byte: u8, cut in 0usize..200) {
            let mut head = request().encode().to_vec();
            let length = head.len();
            head[at % length] = byte;
            head.truncate(cut);
            let _ = Request::decode(&head);
        }
    }
}
