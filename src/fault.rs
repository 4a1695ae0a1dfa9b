//! How an exchange can fail: what happened, whose side, and whether a second try is safe.
//!
//! One `Reason` is the metric label, the log field and the `x-weft-reason` header. The status it becomes is
//! `http::respond`'s to say.

use std::{borrow::Cow, fmt};

/// On whose side something went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The caller: its bytes, its patience. Never counts against an endpoint.
    Client,
    /// The callee or the way to it.
    Upstream,
    /// Ourselves: a limit, a rule, a store.
    Weft,
}

/// Whether the callee may have acted on the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Processed {
    /// Provably not: any request may be tried again.
    No,
    /// It may have been: only what may be repeated is tried again.
    Perhaps,
}

/// What a `retry.conditions` entry can name of a failure that is not an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// No connection was made.
    Connect,
    /// The peer gave the request back unprocessed.
    Refused,
    /// The connection or stream ended before the answer's head.
    Reset,
    /// A try took longer than it may.
    Timeout,
    /// Not a thing another try could cure.
    Final,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $word:literal, $side:ident, $class:ident;)*) => {
        /// The one word for what went wrong.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[$doc])* $name,)* }

        impl Reason {
            pub const ALL: &[Reason] = &[$(Reason::$name,)*];

            pub const fn word(self) -> &'static str {
                match self { $(Reason::$name => $word,)* }
            }

            pub const fn side(self) -> Side {
                match self { $(Reason::$name => Side::$side,)* }
            }

            pub const fn class(self) -> Class {
                match self { $(Reason::$name => Class::$class,)* }
            }
        }
    };
}

reasons! {
    /// The request breaks HTTP's rules.
    BadRequest = "bad_request", Client, Final;
    /// Head over 64 KiB or over 100 fields.
    HeadTooLarge = "head_too_large", Client, Final;
    /// Request target over 8 KiB.
    UriTooLong = "uri_too_long", Client, Final;
    /// A path that a route's path rule could read two ways.
    AmbiguousPath = "ambiguous_path", Client, Final;
    /// The request's body broke off or came too slowly.
    BodyTimeout = "body_timeout", Client, Final;
    BodyBroken = "body_broken", Client, Final;
    /// The head did not arrive in time.
    HeadTimeout = "head_timeout", Client, Final;
    /// The caller went away.
    ClientGone = "client_gone", Client, Final;
    /// Body over the limit of a feature that must hold it whole.
    BodyTooLarge = "body_too_large", Client, Final;
    ExpectationFailed = "expectation_failed", Client, Final;

    /// A protocol to switch to that the route does not pass.
    UpgradeRefused = "upgrade_refused", Weft, Final;
    ConnectRefused = "connect_not_allowed", Weft, Final;
    /// `inbound.authorization` does not let this caller do this.
    Denied = "denied", Weft, Final;
    /// A caller in plaintext where callers must prove who they are.
    PlaintextRefused = "plaintext_refused", Weft, Final;
    /// No route and no upstream for this host.
    UnknownHost = "unknown_host", Weft, Final;
    /// The host is known, the request matches none of its routes.
    NoRoute = "no_route", Weft, Final;
    /// The target is one of our own listeners.
    Loop = "loop", Weft, Final;
    /// No application is configured on inbound.
    NoApp = "no_app", Weft, Final;
    /// `limits.connections` reached and `limits.pending` full.
    PendingOverflow = "pending_overflow", Weft, Final;
    /// `limits.requests` reached.
    RequestsOverflow = "requests_overflow", Weft, Final;
    /// No endpoint may be used now.
    NoEndpoint = "no_endpoint", Weft, Final;
    /// DNS has not answered within the connect timeout.
    Unresolved = "unresolved", Upstream, Connect;
    RequestTimeout = "request_timeout", Upstream, Final;
    TryTimeout = "try_timeout", Upstream, Timeout;
    ConnectFailed = "connect_failed", Upstream, Connect;
    ConnectTimeout = "connect_timeout", Upstream, Connect;
    /// Within the connect timeout this sidecar had no identity to show, or its own had ended.
    NoIdentity = "no_identity", Weft, Final;
    /// Told to speak mutual TLS, and the endpoint speaks none.
    PeerSpeaksNoTls = "peer_speaks_no_tls", Upstream, Connect;
    /// The endpoint proved another identity than the one that is expected, or none that is trusted.
    WrongIdentity = "wrong_identity", Upstream, Connect;
    /// The endpoint refused our identity by a TLS alert, before any byte of an answer.
    RefusedIdentity = "refused_identity", Upstream, Refused;
    /// The TLS handshake failed for another reason.
    TlsFailed = "tls_failed", Upstream, Connect;
    /// REFUSED_STREAM, GOAWAY above the last id, a reused connection that closed before a byte was written.
    Refused = "refused", Upstream, Refused;
    /// Reset or closed before the answer's head.
    Reset = "reset", Upstream, Reset;
    /// Bytes that are no HTTP answer.
    BadAnswer = "bad_answer", Upstream, Reset;
    AnswerTooLarge = "answer_head_too_large", Upstream, Final;
    /// 101 without a request to upgrade.
    UnaskedUpgrade = "unasked_upgrade", Upstream, Final;

    /// Leaving: no new work.
    Draining = "draining", Weft, Final;
    /// `deny` of something a deferred route cannot keep (a stream, GET, HEAD).
    NotDeferrable = "not_deferrable", Weft, Final;
    /// The deferred call's `key` could not be computed.
    KeyFailed = "key_failed", Weft, Final;
    StoreUnavailable = "store_unavailable", Weft, Final;
    OutboxFull = "outbox_full", Weft, Final;
    IdempotencyMissing = "idempotency_key_missing", Client, Final;
    IdempotencyConflict = "idempotency_conflict", Client, Final;
    IdempotencyMismatch = "idempotency_mismatch", Client, Final;
    EventUnknown = "event_unknown", Weft, Final;
    EventExpired = "event_expired", Weft, Final;
    TooManyConnections = "too_many_connections", Weft, Final;
    /// A bug of ours, caught; one connection pays for it.
    Internal = "internal", Weft, Final;
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A failure on a request's path, made where it happens.
#[derive(Debug, Clone)]
pub struct Fault(Box<Facts>);

#[derive(Debug, Clone)]
struct Facts {
    reason: Reason,
    processed: Processed,
    public: Cow<'static, str>,
    inside: Option<Box<str>>,
    retry_after: Option<std::time::Duration>,
}

impl Fault {
    /// A fault with words for the caller. They name no address: strangers may read them.
    #[cold]
    pub fn new(reason: Reason, public: impl Into<Cow<'static, str>>) -> Self {
        let processed = match reason.class() {
            Class::Connect | Class::Refused => Processed::No,
            _ => Processed::Perhaps,
        };
        Fault(Box::new(Facts {
            reason,
            processed,
            public: public.into(),
            inside: None,
            retry_after: None,
        }))
    }

    /// Adds what only our own user may read: endpoint addresses, the system's error.
    pub fn inside(mut self, words: impl Into<String>) -> Self {
        self.0.inside = Some(words.into().into_boxed_str());
        self
    }

    pub fn processed(mut self, processed: Processed) -> Self {
        self.0.processed = processed;
        self
    }

    pub fn retry_after(mut self, wait: std::time::Duration) -> Self {
        self.0.retry_after = Some(wait);
        self
    }

    pub fn reason(&self) -> Reason {
        self.0.reason
    }

    pub fn side(&self) -> Side {
        self.0.reason.side()
    }

    pub fn class(&self) -> Class {
        self.0.reason.class()
    }

    /// True when the callee provably never acted on the request.
    pub fn is_unprocessed(&self) -> bool {
        self.0.processed == Processed::No
    }

    pub fn public_words(&self) -> &str {
        &self.0.public
    }

    pub fn inside_words(&self) -> Option<&str> {
        self.0.inside.as_deref()
    }

    pub fn wait(&self) -> Option<std::time::Duration> {
        self.0.retry_after
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.reason, self.0.public)?;
        match &self.0.inside {
            Some(inside) => write!(f, " ({inside})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Fault {}
