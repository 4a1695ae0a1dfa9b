//! What a connection's guard saw, for whoever serves and times that connection.
//!
//! Plain cells, shared by one `Rc` between the guard under hyper, the service above it and the connection's
//! timer. The guard writes, the others read.

use std::cell::Cell;

use http::{HeaderMap, Version, header};

use crate::fault::{Fault, Reason};

/// What a head did against the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Violation {
    pub reason: Reason,
    pub words: &'static str,
}

impl From<Violation> for Fault {
    fn from(violation: Violation) -> Fault {
        Fault::new(violation.reason, violation.words)
    }
}

/// Where the inbound bytes stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Accepted; not one byte yet.
    Fresh,
    /// Between requests: the next one's first byte has not come.
    Idle,
    /// A head has begun and is not whole.
    Head,
    /// A body is being sent.
    Body,
    /// After `CONNECT` or `Upgrade`: bytes are held until `tunnel` or `resume`.
    Held,
    /// No longer HTTP.
    Tunnel,
    /// A violation was found: nothing more is read as a request.
    Broken,
}

/// One connection's cells.
pub struct Watch {
    pub(super) phase: Cell<Phase>,
    pub(super) violation: Cell<Option<Violation>>,
    pub(super) heads: Cell<u64>,
    pub(super) body_in: Cell<u64>,
    pub(super) bytes_in: Cell<u64>,
    pub(super) bytes_out: Cell<u64>,
    pub(super) awaits_body: Cell<bool>,
    pub(super) write_blocked: Cell<bool>,
    pub(super) decision: Cell<Option<Phase>>,
    pub(super) waker: Cell<Option<std::task::Waker>>,
}

impl Default for Watch {
    fn default() -> Self {
        Watch {
            phase: Cell::new(Phase::Fresh),
            violation: Cell::default(),
            heads: Cell::default(),
            body_in: Cell::default(),
            bytes_in: Cell::default(),
            bytes_out: Cell::default(),
            awaits_body: Cell::default(),
            write_blocked: Cell::default(),
            decision: Cell::default(),
            waker: Cell::default(),
        }
    }
}

impl Watch {
    /// The violation this request stands for, if it is the guard's stand-in for a head that broke the rules.
    ///
    /// Asked first, with the head as hyper gives it. The answer to it is the connection's last.
    #[inline]
    pub fn violation(&self, version: Version, headers: &HeaderMap) -> Option<Violation> {
        let violation = self.violation.get()?;
        // The stand-in is the one HTTP/1.1 head without a Host: the guard lets no such head of a client pass,
        // so earlier requests of the pipeline are told apart, whatever they say.
        (version == Version::HTTP_11 && !headers.contains_key(header::HOST)).then_some(violation)
    }

    /// A violation was found; a chunked body's has no stand-in and shows as that body's error.
    pub fn is_violated(&self) -> bool {
        self.violation.get().is_some()
    }

    /// What was found, whichever request it was in.
    pub fn found(&self) -> Option<Violation> {
        self.violation.get()
    }

    pub fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// Whole heads handed on. With `phase` it tells one slow head from a second one.
    pub fn heads(&self) -> u64 {
        self.heads.get()
    }

    /// Bytes of request bodies so far, framing not counted.
    pub fn body_in(&self) -> u64 {
        self.body_in.get()
    }

    pub fn bytes_in(&self) -> u64 {
        self.bytes_in.get()
    }

    pub fn bytes_out(&self) -> u64 {
        self.bytes_out.get()
    }

    /// We ask for body bytes and the client sends none: false while we hold back-pressure.
    pub fn awaits_body(&self) -> bool {
        self.awaits_body.get()
    }

    /// We have bytes to send and the client takes none.
    pub fn write_blocked(&self) -> bool {
        self.write_blocked.get()
    }

    /// From here on the bytes are a tunnel's, unread. Said before a 101, or a 2xx to CONNECT, is answered.
    pub fn tunnel(&self) {
        self.decide(Phase::Tunnel);
    }

    /// The upgrade was refused or passed over: what follows is the next request.
    pub fn resume(&self) {
        self.decide(Phase::Idle);
    }

    fn decide(&self, phase: Phase) {
        self.decision.set(Some(phase));
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}
