//! A connection for bytes that are not ours to read: an endpoint chosen, guarded and, where it takes none, another.

use std::{net::SocketAddr, rc::Rc, time::Instant};

use super::Cluster;
use crate::{
    fault::{Fault, Reason},
    http::{Trail, dialer::Dialled},
    outbound::endpoint::{Endpoint, Try},
    resilience::{ConnectionPermit, Deadline},
};

/// Endpoints that are asked for one connection, at most.
const TRIES: u32 = 2;

impl Cluster {
    /// A connection to the endpoint that is meant exactly, or to one that is chosen; where that takes none, to another.
    ///
    /// Its time to connect is what balancing knows of an endpoint, and whether it connects is what ejects one.
    /// Dropping the future gives everything back.
    pub async fn tunnel(self: &Rc<Self>, trail: &mut Trail) -> Result<Dialled, Fault> {
        trail.upstream = Some(self.upstream.name.clone());
        self.upstream.budget.deposit(Instant::now());
        let mut avoid = None;
        loop {
            trail.tries += 1;
            let now = Instant::now();
            let pinned = trail.exactly.and_then(|own| self.endpoint_at(own));
            let exact = pinned.is_some();
            let (endpoint, probe) = match pinned {
                Some(endpoint) => (endpoint, None),
                None => match self.choose(avoid.as_ref(), now) {
                    Some(chosen) => chosen,
                    None => self.await_endpoint(Deadline::NONE).await?,
                },
            };
            trail.endpoint = Some(endpoint.peer.address());
            let place = self.place().await?;
            let now = Instant::now();
            let mut seat = Try::new(endpoint.clone(), probe, Deadline::NONE, now);
            let fault = match endpoint.peer.dial_raw(Box::new(place)).await {
                Ok(mut dialled) => {
                    self.upstream.meter.dialled.inc();
                    seat.connected();
                    // Taken until it closes, so that the next goes where there are fewer.
                    dialled.stream = dialled.stream.holding(Box::new(seat));
                    return Ok(dialled);
                }
                Err(fault) => fault,
            };
            self.upstream.meter.undialled.inc();
            trail.unconnected += 1;
            seat.failed(&fault);
            let again = !exact
                && self.endpoints.borrow().len() > 1
                && trail.tries < TRIES
                && fault.is_unprocessed()
                && self.upstream.budget.withdraw(now);
            if !again {
                return Err(fault);
            }
            self.upstream.meter.resilience.retries.inc();
            avoid = Some(endpoint);
        }
    }

    /// The endpoint at this address, ejected or not: who names it means it.
    pub fn endpoint_at(&self, address: SocketAddr) -> Option<Rc<Endpoint>> {
        let endpoints = self.endpoints.borrow();
        let found = endpoints
            .iter()
            .find(|endpoint| endpoint.peer.address() == address);
        found.cloned()
    }

    /// A place below `limits.connections`: one that is free, or the next within the connect timeout.
    async fn place(&self) -> Result<ConnectionPermit, Fault> {
        if let Some(permit) = self.upstream.breaker.try_connection() {
            return Ok(permit);
        }
        let _pending = self.upstream.breaker.pending()?;
        let permit = self.upstream.breaker.connections().open();
        // An idle HTTP connection holds a place that is needed here.
        self.shed();
        match tokio::time::timeout(self.connect_timeout(), permit).await {
            Ok(permit) => Ok(permit),
            Err(_) => Err(Fault::new(
                Reason::PendingOverflow,
                format!(
                    "{} has all its connections in use (limits.connections)",
                    self.upstream.name
                ),
            )),
        }
    }
}
