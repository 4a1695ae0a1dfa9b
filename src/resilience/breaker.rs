//! What one upstream may be asked at once: its three limits, and the words for a call that is over one.
//!
//! The breaker is closed, and traffic passes, while there is room; a call above a limit is answered at once and
//! counted. One a process and upstream; a reload moves the bounds and keeps what is inside.

use std::sync::Arc;

use super::{ConnectionPermit, Connections, Gate, Pass, UpstreamMetrics, settings::Limits};
use crate::fault::{Fault, Reason};

/// What is inside now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    pub connections: u32,
    /// Calls that wait for a connection.
    pub pending: u32,
    /// Calls in flight; counted only where they are limited.
    pub requests: u32,
}

/// The limits of one upstream, for the whole process.
#[derive(Debug)]
pub struct Breaker {
    upstream: Box<str>,
    connections: Arc<Connections>,
    pending: Arc<Gate>,
    requests: Arc<Gate>,
    metrics: Arc<UpstreamMetrics>,
}

impl Breaker {
    pub fn new(upstream: &str, limits: Limits, metrics: Arc<UpstreamMetrics>) -> Self {
        Breaker {
            upstream: upstream.into(),
            connections: Connections::new(limits.connections),
            pending: Gate::new(limits.pending),
            requests: Gate::new(limits.requests),
            metrics,
        }
    }

    /// Moves the bounds; what is inside stays.
    pub fn retune(&self, limits: Limits) {
        self.connections.set_bound(limits.connections);
        self.pending.set_bound(limits.pending);
        self.requests.set_bound(limits.requests);
    }

    /// Admits one call; its pass lives until the answer's last byte.
    pub fn request(&self) -> Result<Pass, Fault> {
        self.requests.enter().ok_or_else(|| self.full_of_requests())
    }

    /// A place for a new connection, if there is one now.
    pub fn try_connection(&self) -> Option<ConnectionPermit> {
        self.connections.try_open()
    }

    /// Admits one call to the queue for a connection; hold it while `connections().open()` is awaited.
    pub fn pending(&self) -> Result<Pass, Fault> {
        self.pending.enter().ok_or_else(|| self.full_of_pending())
    }

    pub fn connections(&self) -> &Arc<Connections> {
        &self.connections
    }

    /// What is inside now, for those who watch.
    pub fn load(&self) -> Load {
        let connections = self.connections.count();
        Load {
            connections: u32::try_from(connections).unwrap_or(u32::MAX),
            pending: self.pending.inside(),
            requests: self.requests.inside(),
        }
    }

    #[cold]
    fn full_of_requests(&self) -> Fault {
        self.metrics.rejected_requests.inc();
        let (bound, upstream) = (self.requests.bound(), &self.upstream);
        let words =
            format!("{upstream} has {bound} requests in flight, its limit (limits.requests)");
        Fault::new(Reason::RequestsOverflow, words)
    }

    #[cold]
    fn full_of_pending(&self) -> Fault {
        self.metrics.rejected_pending.inc();
        let (open, upstream) = (self.connections.count(), &self.upstream);
        let bound = self.pending.bound();
        let words = format!(
            "{upstream} has {open} connections open and {bound} calls waiting for one, its limit (limits.pending)"
        );
        Fault::new(Reason::PendingOverflow, words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaker(limits: Limits) -> Breaker {
        Breaker::new("payments", limits, Arc::default())
    }

    #[test]
    fn a_call_over_the_limit_is_told_which_and_counted() {
        let breaker = breaker(Limits {
            requests: 1,
            pending: 1,
            connections: 1,
        });
        let _inside = breaker.request().unwrap();
        let fault = breaker.request().unwrap_err();
        assert_eq!(fault.reason(), Reason::RequestsOverflow);
        assert_eq!(
            fault.public_words(),
            "payments has 1 requests in flight, its limit (limits.requests)"
        );
        let _waiting = breaker.pending().unwrap();
        assert_eq!(
            breaker.pending().unwrap_err().reason(),
            Reason::PendingOverflow
        );
        assert_eq!(breaker.metrics.rejected_requests.get(), 1);
        assert_eq!(breaker.metrics.rejected_pending.get(), 1);
    }

    #[test]
    fn a_reload_moves_the_bounds_and_keeps_what_is_inside() {
        let breaker = breaker(Limits {
            requests: 1,
            ..Limits::default()
        });
        let inside = breaker.request().unwrap();
        breaker.retune(Limits {
            requests: 2,
            ..Limits::default()
        });
        let second = breaker.request().unwrap();
        assert!(breaker.request().is_err());
        drop((inside, second));
        assert_eq!(breaker.load().requests, 0);
    }
}
