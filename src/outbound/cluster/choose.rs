//! Which endpoint a call goes to, and why there is none.

use std::{rc::Rc, time::Instant};

use super::Cluster;
use crate::{
    balance::Policy as Balancing,
    fault::{Fault, Reason},
    outbound::{Panic, endpoint::Endpoint},
    resilience::{self, Deadline, Probe},
};

impl Cluster {
    /// An endpoint that may be asked now, and whether this call is its probation.
    pub(super) fn choose(
        &self,
        avoid: Option<&Rc<Endpoint>>,
        now: Instant,
    ) -> Option<(Rc<Endpoint>, Option<Probe>)> {
        let endpoints = self.endpoints.borrow();
        if let [only] = &**endpoints
            && only.health.is_usable()
        {
            return Some((only.clone(), None));
        }
        if let Some((at, probe)) =
            self.upstream
                .outlier
                .probe(endpoints.len(), |at| &endpoints[at].health, now)
        {
            return Some((endpoints[at].clone(), Some(probe)));
        }
        let load = |at: usize| match self.picker.policy() {
            Balancing::LeastRequest => f64::from(endpoints[at].ewma.in_flight()),
            _ => endpoints[at].ewma.load(now),
        };
        let avoided = |at: usize| avoid.is_some_and(|avoid| Rc::ptr_eq(avoid, &endpoints[at]));
        let usable = |at: usize| endpoints[at].health.is_usable();
        let chosen = self
            .picker
            .pick(endpoints.len(), load, usable, avoided)
            .or_else(|| {
                (self.upstream.settings.panic == Panic::RouteAll)
                    .then(|| self.picker.pick(endpoints.len(), load, |_| true, avoided))
                    .flatten()
            })?;
        Some((endpoints[chosen].clone(), None))
    }

    /// No endpoint was usable: waits for the source's first answer, at most the connect timeout, or says why.
    pub(super) async fn await_endpoint(
        &self,
        deadline: Deadline,
    ) -> Result<(Rc<Endpoint>, Option<Probe>), Fault> {
        let mut members = self.upstream.members();
        if !members.borrow().known {
            let wait = deadline.of_try(Instant::now(), Some(self.connect_timeout()));
            let left = wait.left(Instant::now()).unwrap_or(self.connect_timeout());
            let _pending = self.upstream.breaker.pending()?;
            let known = async { members.wait_for(|members| members.known).await.is_ok() };
            let known = tokio::time::timeout(left, known).await.unwrap_or(false);
            if !known {
                return Err(Fault::new(
                    Reason::Unresolved,
                    format!(
                        "no address is known yet for {}: its name has not been resolved",
                        self.upstream.name
                    ),
                ));
            }
        }
        // What the process knows, this worker may not have heard yet.
        let now = members.borrow().clone();
        self.follow(&now);
        self.choose(None, Instant::now())
            .ok_or_else(|| self.nowhere())
    }

    #[cold]
    pub(super) fn nowhere(&self) -> Fault {
        let members = self.upstream.members().borrow().clone();
        let name = &self.upstream.name;
        if members.list.is_empty() && !members.loops.is_empty() {
            return Fault::new(Reason::Loop, format!("{name} is this sidecar itself"))
                .inside(format!("{:?} are listeners of its own", members.loops));
        }
        let now = Instant::now();
        let count = |ejected: bool| {
            members
                .list
                .iter()
                .filter(|member| {
                    matches!(member.health.state(now), resilience::State::Healthy { .. }) != ejected
                })
                .count()
        };
        let words = format!(
            "no usable endpoint for {name}: {} known, {} ejected",
            members.list.len(),
            count(true)
        );
        Fault::new(Reason::NoEndpoint, words)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use prometheus::{IntCounter, Registry};
    use tokio::runtime::{Builder, LocalOptions};

    use super::*;
    use crate::{
        discover::Source,
        http::tick::Tick,
        outbound::{Metrics, UpstreamSettings, secure::Security, upstream::Upstream},
    };

    /// What a worker chooses among two endpoints that the process has just lost, before it hears who came for them.
    fn chosen(panic: Panic) -> Option<SocketAddr> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build_local(LocalOptions::default())
            .unwrap();
        runtime.block_on(async {
            let said = UpstreamSettings {
                panic,
                ..UpstreamSettings::to(Source::Static(Vec::new()))
            };
            let metrics = Metrics::new(&Registry::new()).unwrap();
            let upstream = Upstream::new("payments", "payments", &said, Security::Plain, &metrics);
            let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
            upstream.endpoints_are(&[address(1), address(2)], |_| false);
            let interim = IntCounter::new("a", "A").unwrap();
            let cluster = Cluster::new(&upstream, &Tick::new(), &interim);
            upstream.endpoints_are(&[], |_| false);
            let chosen = cluster.choose(None, Instant::now());
            chosen.map(|(endpoint, _)| endpoint.peer.address())
        })
    }

    #[test]
    fn where_none_is_usable_all_are_tried_or_none_as_the_file_says() {
        assert!(chosen(Panic::RouteAll).is_some());
        assert_eq!(chosen(Panic::Fail), None);
    }
}
