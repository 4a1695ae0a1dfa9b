//! Requests that ask to leave HTTP: CONNECT, `Upgrade` over HTTP/1.1, extended CONNECT over HTTP/2 (RFC 8441).
//!
//! The two forms of an upgrade become one `Wish` on a GET, so that routes and rules see the same request. Not one
//! byte behind it goes anywhere before the callee has switched to just that protocol; then both connections, or
//! streams, are a `Tunnel`. Which protocols are passed is the route's to say; the others are refused, and `h2c` is
//! passed over.

pub mod ask;
mod near;
mod settings;
mod tunnel;
pub mod websocket;

pub use settings::{Token, Upgrades};
pub use tunnel::{Ending, Far, Tunnel, Ward};

use http::{HeaderValue, Method, Response, StatusCode, Version, header};
use hyper::upgrade::OnUpgrade;
use smallvec::SmallVec;

use super::{
    body::{Body, Source},
    connection::Connection,
    exchange::Exchange,
    headers::Facts,
};
use crate::fault::{Fault, Reason};

/// Protocols that one request may offer.
const MAX_OFFERED: usize = 16;

/// How a request stands that asks for more than an answer.
pub struct Upgrade {
    ask: Ask,
    /// The guard holds what the caller sends behind this request.
    held: bool,
    /// Where the bytes go, once that is agreed, and who hears how they ended.
    far: Option<(Far, Option<Box<dyn Source>>)>,
    ward: Option<Ward>,
}

enum Ask {
    /// An offer that is passed over.
    Nothing,
    /// CONNECT over HTTP/1.1.
    Bytes,
    Protocol(Box<Wish>),
}

/// The protocol that a request asks to switch to.
pub struct Wish {
    token: HeaderValue,
    /// What else is offered, until a route has chosen.
    others: SmallVec<[HeaderValue; 1]>,
    /// The name by which the route passes it.
    passed: Option<Token>,
    /// The WebSocket key of an HTTP/1.1 caller, or ours in the place of an HTTP/2 caller's.
    key: Option<HeaderValue>,
    /// The key of an HTTP/2 caller that sent one: Envoy's HTTP/1.1 caller checks our answer to it (envoy#8547).
    idle_key: Option<HeaderValue>,
    /// An HTTP/2 caller's stream, once it is answered with 200.
    stream: Option<OnUpgrade>,
}

/// Reads what a request asks for besides an answer, and takes it out of its head. Asked for CONNECT, and where
/// `facts` tell of an offer.
///
/// After an error, too, `exchange` knows what the guard holds.
#[cold]
pub(super) fn read(exchange: &mut Exchange, facts: &Facts) -> Result<(), Fault> {
    match (exchange.connection.is_http2(), &exchange.head.method) {
        (true, &Method::CONNECT) => read_extended(exchange),
        (true, _) => Ok(()),
        (false, &Method::CONNECT) => {
            exchange.head.headers.remove(header::UPGRADE);
            exchange.upgrade = Some(Upgrade::new(Ask::Bytes, true));
            Ok(())
        }
        (false, _) => read_offer(exchange, facts),
    }
}

/// A CONNECT with `:protocol`; one without it stays what it is.
fn read_extended(exchange: &mut Exchange) -> Result<(), Fault> {
    let head = &mut exchange.head;
    let Some(protocol) = head.extensions.remove::<hyper::ext::Protocol>() else {
        return Ok(());
    };
    let Ok(token) = HeaderValue::from_bytes(protocol.as_ref()) else {
        return Err(Fault::new(
            Reason::BadRequest,
            "a protocol that is no token",
        ));
    };
    head.method = Method::GET;
    let idle_key = head.headers.remove(websocket::KEY);
    let key = is_websocket(&token).then(websocket::key);
    let stream = head.extensions.remove::<OnUpgrade>();
    let wish = Wish {
        token,
        others: SmallVec::new(),
        passed: None,
        key,
        idle_key: idle_key.filter(websocket::is_key),
        stream,
    };
    exchange.upgrade = Some(Upgrade::new(Ask::Protocol(Box::new(wish)), false));
    Ok(())
}

fn read_offer(exchange: &mut Exchange, facts: &Facts) -> Result<(), Fault> {
    let head = &mut exchange.head;
    let offered: SmallVec<[HeaderValue; 1]> = head
        .headers
        .get_all(header::UPGRADE)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|token| !token.is_empty() && !token.eq_ignore_ascii_case(b"h2c"))
        .take(MAX_OFFERED)
        .filter_map(|token| HeaderValue::from_bytes(token).ok())
        .collect();
    head.headers.remove(header::UPGRADE);
    if head.version != Version::HTTP_11 {
        return Ok(());
    }
    let bodiless = !facts.chunked && facts.content_length.unwrap_or(0) == 0;
    // The guard goes by the field alone; without `Connection: upgrade` it says nothing (RFC 9110 §7.8).
    let upgrade = exchange
        .upgrade
        .insert(Upgrade::new(Ask::Nothing, bodiless));
    let mut offered = offered.into_iter();
    let (true, Some(token)) = (facts.names_upgrade, offered.next()) else {
        return Ok(());
    };
    if !bodiless {
        return Err(Fault::new(
            Reason::UpgradeRefused,
            "a request with a body cannot switch protocols here",
        ));
    }
    let mut keys = head.headers.get_all(websocket::KEY).iter();
    let key = keys.next().cloned();
    if keys.next().is_some() {
        return Err(Fault::new(
            Reason::BadRequest,
            "more than one WebSocket key",
        ));
    }
    head.headers.remove(websocket::KEY);
    upgrade.ask = Ask::Protocol(Box::new(Wish {
        token,
        others: offered.collect(),
        passed: None,
        key,
        idle_key: None,
        stream: None,
    }));
    Ok(())
}

/// Takes `Upgrade` out of a callee's answer, which `answered` writes anew where both switch; but a 426 says by it what
/// the callee wants to be asked for (RFC 9110 §15.5.22). HTTP/2 has no such field.
#[cold]
pub(super) fn required(response: &mut Response<Body>, connection: &Connection) {
    let required = response.status() == StatusCode::UPGRADE_REQUIRED && !connection.is_http2();
    let headers = response.headers_mut();
    match required {
        true => headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade")),
        false => headers.remove(header::UPGRADE),
    };
}

fn is_websocket(token: &HeaderValue) -> bool {
    token.as_bytes().eq_ignore_ascii_case(b"websocket")
}

impl Wish {
    pub fn is_websocket(&self) -> bool {
        is_websocket(&self.token)
    }

    pub fn token(&self) -> &HeaderValue {
        &self.token
    }

    /// `Sec-WebSocket-Key` for the callee.
    pub fn key(&self) -> Option<&HeaderValue> {
        self.key.as_ref()
    }

    /// Every name is the file's or ours: a caller cannot make up labels.
    fn label(&self) -> &str {
        match &self.passed {
            Some(passed) => passed.as_str(),
            None if self.is_websocket() => "websocket",
            None => "other",
        }
    }

    /// The caller's own key is answered by us where the callee is asked over HTTP/2.
    fn can_be_answered(&self) -> bool {
        !self.is_websocket() || self.key.as_ref().is_some_and(websocket::is_key)
    }
}

impl Upgrade {
    fn new(ask: Ask, held: bool) -> Box<Self> {
        Box::new(Upgrade {
            ask,
            held,
            far: None,
            ward: None,
        })
    }

    /// What the callee is to be asked for.
    pub fn wish(&self) -> Option<&Wish> {
        match &self.ask {
            Ask::Protocol(wish) => Some(wish),
            _ => None,
        }
    }

    /// Chooses the first of the offered protocols that the route passes.
    pub fn permit(&mut self, upgrades: &Upgrades) -> Result<(), Fault> {
        let Ask::Protocol(wish) = &mut self.ask else {
            return Ok(());
        };
        let others = std::mem::take(&mut wish.others);
        let mut offered = std::iter::once(wish.token.clone()).chain(others);
        let chosen = offered.find_map(|token| Some((upgrades.find(&token)?.clone(), token)));
        let Some((passed, token)) = chosen else {
            return Err(Fault::new(
                Reason::UpgradeRefused,
                "this route passes no upgrade to the protocol asked for (upgrades)",
            ));
        };
        wish.token = token;
        wish.passed = Some(passed);
        if wish.is_websocket() && !wish.can_be_answered() {
            return Err(Fault::new(
                Reason::BadRequest,
                "a WebSocket's handshake has one key of 16 bytes in base64",
            ));
        }
        Ok(())
    }

    /// What comes of it is cut when `ward` is ready.
    pub fn ends_with(&mut self, ward: Ward) {
        self.ward = Some(ward);
    }

    /// A CONNECT has reached its target.
    pub fn reaches(&mut self, far: Far) {
        self.far = Some((far, None));
    }

    /// Makes the callee's answer the caller's: both may speak different versions of HTTP, which say yes differently.
    pub fn answered(&mut self, response: &mut Response<Body>) -> Result<(), Fault> {
        let Ask::Protocol(wish) = &self.ask else {
            return Ok(());
        };
        let Some((far, source)) = response.body_mut().switched() else {
            // Over HTTP/2 it would say that the protocol was switched.
            return match wish.stream.is_some() && response.status().is_success() {
                true => Err(Fault::new(
                    Reason::BadAnswer,
                    "the endpoint answered, but did not switch protocols",
                )),
                false => Ok(()),
            };
        };
        let headers = response.headers_mut();
        headers.remove(header::CONTENT_LENGTH);
        let accepted = headers.remove(websocket::ACCEPT);
        let due = wish.key.as_ref().filter(|_| wish.is_websocket());
        let due = due.map(websocket::accept);
        let fits = match (far.is_http1(), &wish.stream) {
            // The caller looks itself at what its key is answered.
            (true, None) => true,
            (true, Some(_)) => accepted == due,
            // HTTP/2 answers no key, but for one that went on over HTTP/1.1.
            (false, _) => accepted.is_none() || accepted == due,
        };
        if !fits {
            return Err(Fault::new(
                Reason::BadAnswer,
                "the endpoint's answer does not fit the WebSocket key",
            ));
        }
        if wish.stream.is_some() {
            if let Some(key) = &wish.idle_key {
                headers.insert(websocket::ACCEPT, websocket::accept(key));
            }
            *response.status_mut() = StatusCode::OK;
        } else {
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(header::UPGRADE, wish.token.clone());
            let accepted = if far.is_http1() { accepted } else { due };
            if let Some(accepted) = accepted {
                headers.insert(websocket::ACCEPT, accepted);
            }
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        }
        self.far = Some((far, source));
        Ok(())
    }

    pub(super) fn is_switched(&self) -> bool {
        self.far.is_some()
    }

    /// The protocol and what became of the wish, as a metric says it.
    pub(super) fn outcome(&self, failure: Option<Reason>) -> Option<(&str, &'static str)> {
        let result = match failure {
            _ if self.is_switched() => "switched",
            None => "declined",
            Some(Reason::UpgradeRefused) => "refused",
            Some(_) => "failed",
        };
        Some((self.wish()?.label(), result))
    }

    /// The answer is ready: the exchange goes on as a tunnel, or ends with the answer.
    pub(super) fn leave(self, response: &mut Response<Body>, mut exchange: Box<Exchange>) {
        let connection = exchange.connection.clone();
        let Some((far, source)) = self.far else {
            if self.held
                && let Some(watch) = connection.watch()
            {
                watch.resume();
            }
            return response.body_mut().carry(exchange);
        };
        exchange.switched();
        let tunnel = Tunnel::new(far, source, exchange, self.ward);
        let stream = match self.ask {
            Ask::Protocol(wish) => wish.stream,
            _ => None,
        };
        match stream {
            Some(stream) => {
                let strand = connection.strand();
                tokio::task::spawn_local(near::run(stream, strand, tunnel));
            }
            None => {
                if let Some(watch) = connection.watch() {
                    watch.tunnel();
                }
                connection.becomes(tunnel);
            }
        }
    }
}
