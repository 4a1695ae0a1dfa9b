//! A call becomes an event: collected, keyed, stored, and only then answered.
//!
//! What is answered 202 is on disk. What is refused left nothing behind. Which upstream a call is for is decided here
//! and kept with it, by its key where several share it, so that neither a canary nor a reload splits a key.

mod body;
mod fingerprint;
mod key;
mod plan;
mod standing;

use std::{
    cell::RefCell,
    collections::HashSet,
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, header};
use hyper::body::Incoming;
use tokio::sync::watch;

use super::{
    event::Parts,
    vault::{Access, Vault},
};
use crate::{
    fault::{Fault, Reason},
    http::{Body, Exchange},
    outbox::{Appended, Appender, Bound, Idempotency, OutboxError, Record, Store, Wall},
};

pub use plan::{Author, Plan};
use plan::{Once, Reply};

/// Where an event's state is asked for.
pub const EVENTS: &str = "/.weft/events/";
/// When a caller may come again to a full or shut outbox.
const COME_AGAIN: Duration = Duration::from_secs(1);

/// Idempotency keys of calls that are being taken now, in all workers.
#[derive(Clone, Default)]
pub struct Taking(Arc<Mutex<HashSet<ScopedKey>>>);

/// A route, and an idempotency key of a call on it.
type ScopedKey = (Arc<str>, Bytes);

/// A worker's own way into the outbox. Belongs to one thread.
pub struct Capture {
    access: RefCell<watch::Receiver<Access>>,
    open: RefCell<Option<(Store, Appender)>>,
    taking: Taking,
}

/// Whether a route's call is kept, or passes as any other: no one can do without the answer of a GET.
pub fn is_deferrable(method: &Method) -> bool {
    !matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::CONNECT
    )
}

/// Keeps one call and answers it.
///
/// `choose` names the upstream for an evenly spread number. If the future is dropped before the body is whole,
/// nothing is stored; later, the event may or may not be there.
pub async fn capture(
    capture: &Capture,
    plan: &Plan,
    exchange: &mut Exchange,
    body: Incoming,
    choose: impl FnOnce(u64) -> Result<Arc<str>, Fault>,
) -> Result<Response<Body>, Fault> {
    let (store, appender) = capture.access()?;
    let head = &exchange.head;
    let authority = authority(&head.headers);
    let key = match &plan.key {
        None => None,
        Some(key) => key.of(head, host(authority))?,
    };
    let once = plan.once.as_ref();
    let idempotency_key = match once {
        None => None,
        Some(once) => once.key(&head.headers)?,
    };
    let _taking = match &idempotency_key {
        None => None,
        Some(key) => Some(capture.taking.take(&plan.route, key)?),
    };
    let body = body::collect(exchange, body, store.largest_event()).await?;

    let head = &exchange.head;
    let authority = self::authority(&head.headers);
    let target = head.uri.path_and_query().map_or("/", |path| path.as_str());
    let upstream = choose(match &key {
        Some(key) => spread(key),
        None => fastrand::u64(..),
    })?;
    exchange.trail.upstream = Some(upstream.clone());
    let now = Wall::now();
    let parts = Parts {
        grpc: exchange.grpc,
        http2: exchange.connection.is_http2(),
        time: now,
        source: &plan.source,
        method: &head.method,
        authority,
        target,
        headers: &head.headers,
    };
    let record = Record {
        upstream,
        route: plan.route.clone(),
        key,
        due: now.after(plan.delay),
        expiry: plan.expiry.map(|expiry| now.after(expiry)),
        head: parts.encode(|name| plan.keeps(name), plan::is_credential),
        idempotency: once
            .zip(idempotency_key)
            .map(|(once, key)| idempotency(plan, once, key, &parts, &body)),
        body,
    };
    let appended = appender.append(record).await.map_err(refused)?;
    if let Appended::New(_) = appended {
        plan.captured.inc();
    }
    Ok(plan.reply.answer(&appended.receipt().id, exchange.grpc))
}

impl Capture {
    /// To be made on the worker's own runtime.
    pub fn new(vault: &Vault, taking: Taking) -> Rc<Self> {
        Rc::new(Capture {
            access: RefCell::new(vault.follow()),
            open: RefCell::new(None),
            taking,
        })
    }

    fn access(&self) -> Result<(Store, Appender), Fault> {
        let mut access = self.access.borrow_mut();
        let mut open = self.open.borrow_mut();
        if open.is_none() || access.has_changed().unwrap_or(false) {
            *open = match &*access.borrow_and_update() {
                Access::Open(store) => Some((store.clone(), store.appender())),
                Access::Shut(_) => None,
            };
        }
        match &*open {
            Some(open) => Ok(open.clone()),
            None => Err(match &*access.borrow() {
                Access::Shut(why) => unavailable(why),
                Access::Open(_) => unavailable("it was just opened"),
            }),
        }
    }
}

impl Taking {
    fn take(&self, scope: &Arc<str>, key: &Bytes) -> Result<Taken, Fault> {
        let entry = (scope.clone(), key.clone());
        if self.lock().insert(entry.clone()) {
            return Ok(Taken(self.clone(), entry));
        }
        Err(Fault::new(
            Reason::IdempotencyConflict,
            "a call with this idempotency key is being taken at this moment",
        )
        .retry_after(COME_AGAIN))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<ScopedKey>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One key that is being taken, until it is dropped.
struct Taken(Taking, ScopedKey);

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.lock().remove(&self.1);
    }
}

fn idempotency(
    plan: &Plan,
    once: &Once,
    key: Bytes,
    parts: &Parts<'_>,
    body: &[u8],
) -> Idempotency {
    Idempotency {
        scope: plan.route.clone(),
        key,
        fingerprint: fingerprint::of(
            parts.method,
            parts.authority,
            parts.target,
            parts.headers,
            |name| plan.keeps(name) && *name != once.header,
            body,
        ),
        window: once.window,
    }
}

impl Reply {
    fn answer(&self, id: &crate::outbox::EventId, grpc: bool) -> Response<Body> {
        let location = format!("{EVENTS}{id}");
        let value = |text: &str| {
            HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
        };
        let mut response = if grpc {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            let mut response = Response::new(Body::with_trailers(self.message.clone(), trailers));
            let kind = HeaderValue::from_static("application/grpc");
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            response
        } else {
            let mut response = Response::new(Body::whole(self.body.clone()));
            *response.status_mut() = self.status;
            *response.headers_mut() = self.headers.clone();
            response
        };
        let headers = response.headers_mut();
        headers.insert("x-weft-event-id", value(&location[EVENTS.len()..]));
        headers.insert(header::LOCATION, value(&location));
        headers.insert("x-weft-durability", HeaderValue::from_static("disk"));
        response
    }
}

/// The `Host` that goes with the call; the way here made sure that there is one.
fn authority(headers: &HeaderMap) -> &str {
    let host = headers.get(header::HOST);
    host.and_then(|host| host.to_str().ok()).unwrap_or("")
}

fn host(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => host,
        _ => authority,
    }
}

/// Spreads keys evenly, and the same in every process: FNV-1a with a last mix.
fn spread(key: &[u8]) -> u64 {
    let hash = key.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 33)
}

#[cold]
fn unavailable(why: &str) -> Fault {
    Fault::new(
        Reason::StoreUnavailable,
        "this call cannot be kept now: the outbox is not available",
    )
    .inside(why)
    .retry_after(COME_AGAIN)
}

/// What a caller is told where the store refuses.
#[cold]
fn refused(error: OutboxError) -> Fault {
    let words = error.to_string();
    match error {
        OutboxError::Full { bound: Bound::Disk } => unavailable("the disk is full"),
        OutboxError::Full { .. } => {
            Fault::new(Reason::OutboxFull, words).retry_after(5 * COME_AGAIN)
        }
        OutboxError::TooLarge { .. } => Fault::new(Reason::BodyTooLarge, words),
        OutboxError::Mismatch { .. } => Fault::new(Reason::IdempotencyMismatch, words),
        _ => unavailable(&words),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_spread_evenly_and_for_good() {
        let mut counts = [0; 10];
        for n in 0..10_000 {
            counts[(spread(format!("customer-{n}").as_bytes()) % 10) as usize] += 1;
        }
        assert!(
            counts.iter().all(|count| (850..1150).contains(count)),
            "{counts:?}"
        );
        assert_eq!(spread(b"c1"), spread(b"c1"));
    }

    #[test]
    fn a_key_is_taken_once_at_a_time() {
        let taking = Taking::default();
        let (scope, key): (Arc<str>, Bytes) = ("r".into(), Bytes::from("k"));
        let first = taking.take(&scope, &key).unwrap();
        let second = taking.take(&scope, &key).err().unwrap();
        assert_eq!(second.reason(), Reason::IdempotencyConflict);
        drop(first);
        assert!(taking.take(&scope, &key).is_ok());
    }
}
