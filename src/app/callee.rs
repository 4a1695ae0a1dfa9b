//! The upstreams as delivery sees them: the same balancing, breakers and connections as for calls that are forwarded,
//! on a thread of their own, so that a backlog cannot delay a request.

use std::{cell::RefCell, rc::Rc, sync::Arc};

use bytes::BytesMut;
use http_body::Body as _;
use tokio::{
    runtime::{Builder, LocalOptions},
    sync::{mpsc, watch},
};

use crate::{
    drain::Drain,
    events::{Answer, Call, Callee, Delivery, EXCERPT, Metrics, Parked, Rules, Vault},
    fault::{Fault, Reason},
    http::{Body, RequestBody, Trail, client::Outgoing, tick::Tick},
    outbound::{self, Local, Plan, cluster},
    resilience::{Deadline, Policy},
};

/// What is read of an answer so that its connection can be used again.
const READ: usize = 64 * 1024;

/// The delivery thread, as the house holds it.
pub struct Deliverer {
    plans: mpsc::UnboundedSender<Arc<Plan>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// What the delivery thread is made with.
pub struct Start {
    pub plan: Arc<Plan>,
    pub vault: Vault,
    pub metrics: Metrics,
    pub parked: Parked,
    pub drain: Drain,
    pub interim: prometheus::IntCounter,
}

impl Deliverer {
    pub fn start(start: Start) -> std::io::Result<Self> {
        // Unbounded, but only reloads write.
        let (plans, mailbox) = mpsc::unbounded_channel();
        let thread = std::thread::Builder::new()
            .name("weft-delivery".to_owned())
            .spawn(move || {
                let runtime = Builder::new_current_thread()
                    .enable_all()
                    .build_local(LocalOptions::default());
                match runtime {
                    Ok(runtime) => runtime.block_on(deliver(start, mailbox)),
                    Err(error) => tracing::error!(%error, "nothing can be delivered"),
                }
            })?;
        Ok(Deliverer {
            plans,
            thread: Some(thread),
        })
    }

    /// Follows a new plan; what is stored keeps its upstream.
    pub fn follow(&self, plan: &Arc<Plan>) {
        // Lost where the thread has ended: then nothing is delivered any more.
        let _ = self.plans.send(plan.clone());
    }

    /// Waits for the thread; the drain must have been forced or empty.
    pub fn end(mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn rules(plan: &Plan) -> Rules {
    let deferred = plan.routes.iter().filter_map(|route| {
        let defer = route.settings.as_ref()?.defer.as_ref()?;
        Some((route.name.clone(), (&defer.deliver).into()))
    });
    deferred.collect()
}

async fn deliver(start: Start, mut plans: mpsc::UnboundedReceiver<Arc<Plan>>) {
    let (follows, followed) = watch::channel(rules(&start.plan));
    let tick = Tick::new();
    let local = Local::new(start.plan, None, &tick, &start.interim);
    let callees = Rc::new(Callees {
        local: RefCell::new(local),
        never: Policy::never(),
    });
    let delivery = Delivery {
        vault: start.vault,
        callee: callees.clone(),
        rules: followed,
        metrics: start.metrics,
        parked: start.parked,
        drain: start.drain,
    };
    let follow = async {
        while let Some(plan) = plans.recv().await {
            let before = callees.local.borrow().clone();
            let rules = rules(&plan);
            let local = Local::new(plan, Some(&before), &tick, &start.interim);
            *callees.local.borrow_mut() = local;
            // Only now: whoever hears of the rules asks who is known.
            follows.send_replace(rules);
        }
        std::future::pending::<()>().await
    };
    tokio::select! {
        () = delivery.run() => {}
        () = tick.run() => {}
        () = follow => {}
    }
}

struct Callees {
    local: RefCell<Rc<Local>>,
    /// The delivery's attempts are its own: the route's `retry` does not multiply them.
    never: Policy,
}

impl Callees {
    fn cluster(&self, upstream: &str) -> Option<Rc<cluster::Cluster>> {
        let local = self.local.borrow();
        let mut clusters = local.clusters().iter();
        clusters
            .find(|cluster| &*cluster.upstream().name == upstream)
            .cloned()
    }
}

impl Callee for Callees {
    fn knows(&self, upstream: &str) -> bool {
        let local = self.local.borrow();
        let mut upstreams = local.plan().upstreams.iter();
        upstreams.any(|known| &*known.name == upstream)
    }

    async fn call(&self, upstream: &str, call: Call) -> Result<Answer, Fault> {
        let Some(cluster) = self.cluster(upstream) else {
            let words = format!("the file names no upstream {upstream}");
            return Err(Fault::new(Reason::NoEndpoint, words));
        };
        let mut trail = Trail::default();
        let response = cluster
            .call(outbound::cluster::Call {
                outgoing: Outgoing {
                    method: &call.method,
                    target: &call.target,
                    headers: &call.headers,
                },
                wish: None,
                body: RequestBody::whole(call.body),
                http2: call.http2,
                grpc: call.grpc,
                retry: &self.never,
                backend_request: None,
                deadline: Deadline::NONE,
                trail: &mut trail,
            })
            .await?;
        let (head, body) = response.into_parts();
        let mut answer = Answer {
            status: head.status.as_u16(),
            headers: head.headers,
            ..Answer::default()
        };
        read(body, &mut answer, call.grpc).await?;
        Ok(answer)
    }
}

/// Reads an answer to its end, or as far as it matters.
async fn read(mut body: Body, answer: &mut Answer, grpc: bool) -> Result<(), Fault> {
    let (mut excerpt, mut seen) = (BytesMut::new(), 0);
    while let Some(frame) =
        std::future::poll_fn(|cx| std::pin::Pin::new(&mut body).poll_frame(cx)).await
    {
        match frame?.into_data() {
            Ok(data) => {
                seen += data.len();
                let room = EXCERPT.saturating_sub(excerpt.len()).min(data.len());
                excerpt.extend_from_slice(&data[..room]);
                // The rest of a long answer costs its connection; the status of a gRPC one stands behind it.
                if seen > READ && !grpc {
                    break;
                }
            }
            Err(frame) => answer.trailers = frame.into_trailers().ok(),
        }
    }
    answer.excerpt = excerpt.freeze();
    Ok(())
}
