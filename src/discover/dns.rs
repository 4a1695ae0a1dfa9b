//! The addresses of a name: looked up, kept for their TTL, looked up again.
//!
//! The hosts file comes first. Else each name of the search list is asked for A and AAAA at once, until one has an
//! address. What the answers add up to is `answer`'s to say.

use std::{net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use hickory_resolver::proto::rr::RecordType;
use tokio::{
    sync::watch::{self, Sender},
    time::{sleep, timeout},
};
use tracing::{info, warn};

use super::{
    Endpoints, Shared, Watched,
    answer::{Answer, Heard, Memory, Outcome},
    hosts_file::HostsFile,
    metrics::UpstreamMetrics,
    system::Resolvers,
};
use crate::units::Address;

/// How long an entry of the hosts file holds until the file is looked at again.
const HOSTS_TTL: Duration = Duration::from_secs(5);
/// How much longer than a found half the other half of an answer may take.
const PATIENCE: Duration = Duration::from_millis(200);

pub(super) fn watch(address: &Address, upstream: &str, shared: &Shared) -> Watched {
    let (sender, endpoints) = watch::channel(Endpoints::waiting(None));
    let name = Followed {
        address: address.clone(),
        upstream: upstream.into(),
        metrics: shared.metrics.of(upstream),
        memory: Memory::new(shared.bounds),
        settled: None,
        failing: false,
    };
    let task = tokio::spawn(name.follow(shared.clone(), sender));
    Watched {
        endpoints,
        task: Some(task),
    }
}

struct Followed {
    address: Address,
    upstream: Box<str>,
    metrics: UpstreamMetrics,
    memory: Memory,
    /// The place in the search list of the name that had addresses last.
    settled: Option<usize>,
    failing: bool,
}

impl Followed {
    async fn follow(mut self, shared: Shared, sender: Sender<Endpoints>) {
        loop {
            let answer = match self.in_hosts(&shared.system.hosts()) {
                Some(answer) => answer,
                None => self.ask(&shared.system.resolvers()).await,
            };
            let heard = answer.heard();
            self.metrics.count(&heard);
            let holds = self.memory.take(answer);
            self.publish(&heard, &sender);
            self.tell(&heard);
            // Upstreams that failed together do not ask again together.
            let wait = match heard {
                Heard::Failed(_) => holds.mul_f64(fastrand::f64() / 2.0 + 0.5),
                Heard::Found | Heard::None => holds,
            };
            sleep(wait).await;
        }
    }

    fn in_hosts(&self, hosts: &HostsFile) -> Option<Answer> {
        let known = hosts.find(self.address.host.as_str())?;
        let (v4, v6): (Vec<_>, Vec<_>) = known.iter().partition(|ip| ip.is_ipv4());
        let found = |addresses: Vec<_>| match addresses.is_empty() {
            true => Outcome::None(None),
            false => Outcome::Found(addresses, HOSTS_TTL),
        };
        Some(Answer {
            v4: found(v4),
            v6: found(v6),
        })
    }

    /// Goes down the search list, as glibc does: past names without addresses and past failures, up to the first found.
    ///
    /// A failure of the name that had the addresses last ends the search: another name's would be another service's.
    async fn ask(&mut self, resolvers: &Resolvers) -> Answer {
        let mut failed = None;
        let mut without: Option<Answer> = None;
        for (place, name) in resolvers
            .candidates(self.address.host.as_str())
            .iter()
            .enumerate()
        {
            let answer = both(
                resolvers.ask(name, RecordType::A),
                resolvers.ask(name, RecordType::AAAA),
            )
            .await;
            match answer.heard() {
                Heard::Found => {
                    self.settled = Some(place);
                    return answer;
                }
                Heard::Failed(_) if self.settled == Some(place) => return answer,
                Heard::Failed(_) => failed = failed.or(Some(answer)),
                Heard::None => without = Some(answer),
            }
        }
        let unreadable =
            || Answer::both(Outcome::Failed("not a name that DNS can carry".to_owned()));
        failed.or(without).unwrap_or_else(unreadable)
    }

    fn publish(&self, heard: &Heard, sender: &Sender<Endpoints>) {
        let port = self.address.port;
        let endpoints = match (self.memory.addresses(), heard) {
            (Some(ips), _) => Endpoints::known(ips.map(|ip| SocketAddr::new(ip, port)).collect()),
            (None, Heard::Failed(why)) => Endpoints::waiting(Some(Arc::from(why.as_str()))),
            (None, _) => Endpoints::waiting(None),
        };
        let changed = sender.send_if_modified(|current| {
            let changed = *current != endpoints;
            if changed {
                current.clone_from(&endpoints);
            }
            changed
        });
        if changed && endpoints.is_known() {
            let addresses = &*endpoints.addresses;
            info!(upstream = %self.upstream, name = %self.address.host, ?addresses, "endpoints have changed");
        }
    }

    /// One line when lookups begin to fail and one when they work again.
    fn tell(&mut self, heard: &Heard) {
        let failing = matches!(heard, Heard::Failed(_));
        match heard {
            Heard::Failed(why) if !self.failing => {
                warn!(upstream = %self.upstream, name = %self.address.host, %why, "name lookups fail, the last answer stays");
            }
            Heard::Found | Heard::None if self.failing => {
                info!(upstream = %self.upstream, name = %self.address.host, "name lookups work again");
            }
            _ => {}
        }
        self.failing = failing;
    }
}

/// Both halves of an answer. Once one is found, the other is not waited for much longer.
async fn both(v4: impl Future<Output = Outcome>, v6: impl Future<Output = Outcome>) -> Answer {
    let (mut v4, mut v6) = (pin!(v4), pin!(v6));
    tokio::select! {
        first = &mut v4 => Answer { v6: second(&first, v6).await, v4: first },
        first = &mut v6 => Answer { v4: second(&first, v4).await, v6: first },
    }
}

async fn second(first: &Outcome, second: impl Future<Output = Outcome>) -> Outcome {
    match first {
        Outcome::Found(..) => {
            let late =
                || Outcome::Failed("no answer in time for the other address family".to_owned());
            timeout(PATIENCE, second).await.unwrap_or_else(|_| late())
        }
        Outcome::None(_) | Outcome::Failed(_) => second.await,
    }
}
