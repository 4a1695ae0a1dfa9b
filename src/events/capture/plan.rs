//! What a deferred route says, compiled once a load and shared by all workers.

use std::{sync::Arc, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, StatusCode, header};
use prometheus::IntCounter;

use super::key::Key;
use crate::{
    events::{DeferSettings, IdempotencySettings, Metrics, ReplySettings},
    fault::{Fault, Reason},
};

/// The longest idempotency key, in bytes.
const IDEMPOTENCY_KEY: usize = 255;

/// Who stored events say they are from, and what counts them.
#[derive(Clone)]
pub struct Author {
    source: String,
    metrics: Metrics,
}

/// One deferred route.
pub struct Plan {
    pub(super) route: Arc<str>,
    pub(super) source: String,
    pub(super) key: Option<Key>,
    keep: Vec<HeaderName>,
    pub(super) expiry: Option<Duration>,
    pub(super) delay: Duration,
    pub(super) once: Option<Once>,
    pub(super) reply: Reply,
    pub(super) captured: IntCounter,
}

/// How a call is known that is sent again.
pub(super) struct Once {
    pub(super) header: HeaderName,
    required: bool,
    pub(super) window: Duration,
}

/// What a caller gets once its call is stored.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// For gRPC: length prefix and message.
    pub(super) message: Bytes,
}

impl Author {
    pub fn new(namespace: &str, service: &str, metrics: &Metrics) -> Self {
        Author {
            source: format!("/{namespace}/{service}"),
            metrics: metrics.clone(),
        }
    }

    pub fn plan(
        &self,
        route: &Arc<str>,
        defer: &DeferSettings,
        idempotency: Option<&IdempotencySettings>,
        reply: Option<&ReplySettings>,
    ) -> Plan {
        Plan {
            source: format!("{}/{route}", self.source),
            key: defer.key.as_ref().map(Key::compile),
            keep: defer
                .keep_headers
                .iter()
                .map(|name| name.0.clone())
                .collect(),
            expiry: defer.expiry.map(Duration::from),
            delay: defer.delay.into(),
            once: idempotency.map(|said| Once {
                header: said.header.0.clone(),
                required: said.required,
                window: said.window.into(),
            }),
            reply: Reply::of(reply.unwrap_or(&ReplySettings::default())),
            captured: self.metrics.captured(route),
            route: route.clone(),
        }
    }
}

impl Plan {
    /// Whether a field is stored: neither what frames this message, nor what ends with this hop, nor credentials.
    pub(super) fn keeps(&self, name: &HeaderName) -> bool {
        match name.as_str().len() {
            2 => name != header::TE,
            4 => name != header::HOST,
            6 => (name != header::COOKIE && name != header::EXPECT) || self.keep.contains(name),
            7 => name != header::TRAILER,
            12 => name != "grpc-timeout",
            13 => name != header::AUTHORIZATION || self.keep.contains(name),
            14 => name != header::CONTENT_LENGTH && name != "x-weft-attempt",
            _ => true,
        }
    }
}

/// What is remembered by its name where it is not kept.
pub(super) fn is_credential(name: &HeaderName) -> bool {
    name == header::AUTHORIZATION || name == header::COOKIE
}

impl Once {
    /// The call's idempotency key, as it was sent.
    pub(super) fn key(&self, headers: &HeaderMap) -> Result<Option<Bytes>, Fault> {
        let mut sent = headers.get_all(&self.header).iter();
        let key = sent
            .next()
            .map(|key| Bytes::copy_from_slice(key.as_bytes()));
        match key.filter(|key| !key.is_empty()) {
            Some(_) if sent.next().is_some() => Err(self.bad("more than one")),
            Some(key) if key.len() > IDEMPOTENCY_KEY => Err(self.bad("more than 255 bytes in")),
            None if self.required => Err(Fault::new(
                Reason::IdempotencyMissing,
                format!("this call needs the header {}", self.header),
            )),
            key => Ok(key),
        }
    }

    #[cold]
    fn bad(&self, what: &str) -> Fault {
        Fault::new(Reason::BadRequest, format!("{what} {}", self.header))
    }
}

impl Reply {
    fn of(said: &ReplySettings) -> Self {
        let fields = said.headers.iter();
        let mut message = BytesMut::with_capacity(5 + said.message.0.len());
        message.put_u8(0);
        message.put_u32(said.message.0.len() as u32);
        message.extend_from_slice(&said.message.0);
        Reply {
            status: said.status.code(),
            headers: fields
                .map(|(name, value)| (name.0.clone(), value.0.clone()))
                .collect(),
            body: Bytes::from(said.body.clone()),
            message: message.freeze(),
        }
    }
}
