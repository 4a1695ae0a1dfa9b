//! A connection for a try: one that is there, a new one, or the next that is free below the limit.

use std::{
    cell::Cell,
    pin::pin,
    rc::{Rc, Weak},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{Notify, watch};

use super::Cluster;
use crate::{
    fault::{Fault, Reason},
    http::client::{Landlord, Lease},
    outbound::{endpoint::Endpoint, upstream::Upstream},
    resilience::Deadline,
};

/// How long a call waits for a connection below `limits.connections`, where it has no deadline of its own.
const PENDING: Duration = Duration::from_secs(30);

impl Cluster {
    /// A connection below the limit: a new one, or the next that is free.
    pub(super) async fn connect(
        self: &Rc<Self>,
        endpoint: &Rc<Endpoint>,
        http2: bool,
        deadline: Deadline,
    ) -> Result<Lease, Fault> {
        if !(http2 && endpoint.peer.is_dialling())
            && let Some(permit) = self.upstream.breaker.try_connection()
        {
            return self.dial(endpoint, http2, Box::new(permit)).await;
        }
        let _pending = self.upstream.breaker.pending()?;
        let end = deadline.of_try(Instant::now(), Some(PENDING));
        let left = end.left(Instant::now()).unwrap_or(PENDING);
        match tokio::time::timeout(left, self.queue(endpoint, http2)).await {
            Ok(lease) => lease,
            Err(_) => Err(Fault::new(
                Reason::PendingOverflow,
                format!(
                    "{} has {} connections open, its limit, and none was free in time",
                    self.upstream.name,
                    self.upstream.breaker.connections().count()
                ),
            )),
        }
    }

    /// Waits for whatever comes first: a free connection of this worker, or room for a new one.
    pub(super) async fn queue(
        self: &Rc<Self>,
        endpoint: &Rc<Endpoint>,
        http2: bool,
    ) -> Result<Lease, Fault> {
        let _waiting = Waiting::new(&self.freed.waiting);
        let mut room = pin!(self.upstream.breaker.connections().open());
        loop {
            let mut freed = pin!(self.freed.notify.notified());
            freed.as_mut().enable();
            if let Some(lease) = endpoint.peer.ready(http2) {
                return Ok(lease);
            }
            if http2 && endpoint.peer.is_dialling() {
                freed.await;
                continue;
            }
            // An idle connection to another endpoint holds a place that we need.
            self.shed();
            tokio::select! {
                permit = &mut room => {
                    return match endpoint.peer.ready(http2) {
                        Some(lease) => Ok(lease),
                        None => self.dial(endpoint, http2, Box::new(permit)).await,
                    };
                }
                () = freed => {}
            }
        }
    }

    pub(super) async fn dial(
        &self,
        endpoint: &Rc<Endpoint>,
        http2: bool,
        held: Box<dyn std::any::Any>,
    ) -> Result<Lease, Fault> {
        let lease = endpoint.peer.dial(http2, held).await;
        match &lease {
            Ok(_) => self.upstream.meter.dialled.inc(),
            Err(_) => self.upstream.meter.undialled.inc(),
        }
        lease
    }

    pub(super) fn shed(&self) {
        for endpoint in self.endpoints().iter() {
            if endpoint.peer.shed() {
                return;
            }
        }
    }
}

/// Tells calls that wait for a connection that one is free.
pub(super) struct Freed {
    upstream: Arc<Upstream>,
    notify: Notify,
    waiting: Cell<u32>,
    /// The last connection that both we and another worker wanted went to the other.
    gave: Cell<bool>,
    interim: prometheus::IntCounter,
}

impl Freed {
    pub(super) fn new(upstream: &Arc<Upstream>, interim: &prometheus::IntCounter) -> Rc<Self> {
        Rc::new(Freed {
            upstream: upstream.clone(),
            notify: Notify::new(),
            waiting: Cell::new(0),
            gave: Cell::new(false),
            interim: interim.clone(),
        })
    }
}

impl Landlord for Freed {
    fn wants_back(&self) -> bool {
        let starving = self.upstream.breaker.connections().waiting();
        let own = self.waiting.get() as usize;
        if own == 0 || starving <= own {
            return starving > own;
        }
        // Calls wait here and elsewhere: every other connection goes to the others.
        !self.gave.replace(!self.gave.get())
    }

    fn freed(&self) {
        if self.waiting.get() > 0 {
            self.notify.notify_one();
        }
    }

    fn changed(&self) {
        self.notify.notify_waiters();
    }

    fn interim(&self, count: u16) {
        self.interim.inc_by(count.into());
    }
}

/// Counts a call that waits, however it stops.
pub(super) struct Waiting<'a>(&'a Cell<u32>);

impl<'a> Waiting<'a> {
    fn new(count: &'a Cell<u32>) -> Self {
        count.set(count.get() + 1);
        Waiting(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Another worker's call waits for a place: give up an idle connection of ours.
pub(super) async fn follow_hunger(cluster: Weak<Cluster>, mut hunger: watch::Receiver<u64>) {
    while hunger.changed().await.is_ok() {
        let Some(cluster) = cluster.upgrade() else {
            return;
        };
        if cluster.upstream.breaker.connections().is_starving() {
            cluster.shed();
        }
    }
}
