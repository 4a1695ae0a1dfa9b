//! One endpoint as one worker sees it, and the seat that a call has there until its answer is over.

use std::{rc::Rc, sync::Arc, time::Instant};

use super::upstream::{Member, Upstream};
use crate::{
    balance::{Ewma, Flight},
    fault::{Fault, Reason, Side},
    http::{body, client::Peer},
    resilience::{Deadline, Health, Pass, Probe, Verdict},
};

pub struct Endpoint {
    pub peer: Rc<Peer>,
    pub ewma: Rc<Ewma>,
    pub health: Arc<Health>,
    upstream: Arc<Upstream>,
}

impl Endpoint {
    pub fn new(member: &Member, peer: Rc<Peer>, upstream: &Arc<Upstream>) -> Rc<Self> {
        Rc::new(Endpoint {
            peer,
            ewma: Ewma::new(Instant::now()),
            health: member.health.clone(),
            upstream: upstream.clone(),
        })
    }
}

/// A try at an endpoint, from its choice to the last byte of its answer.
pub struct Try {
    endpoint: Rc<Endpoint>,
    flight: Flight,
    probe: Option<Probe>,
    /// No answer has come and no fault.
    open: bool,
    /// The answer's gRPC status is still to come.
    undecided: bool,
    deadline: Deadline,
    pass: Option<Pass>,
}

impl Try {
    pub fn new(
        endpoint: Rc<Endpoint>,
        probe: Option<Probe>,
        deadline: Deadline,
        now: Instant,
    ) -> Self {
        let flight = endpoint.ewma.start(now);
        Try {
            endpoint,
            flight,
            probe,
            open: true,
            undecided: false,
            deadline,
            pass: None,
        }
    }

    pub fn endpoint(&self) -> &Rc<Endpoint> {
        &self.endpoint
    }

    /// Keeps the call's place under `limits.requests` until its answer is over.
    pub fn holds(&mut self, pass: Pass) {
        self.pass = Some(pass);
    }

    /// An answer's head came.
    pub fn answered(&mut self, status: u16, grpc: Option<Option<u16>>) {
        let now = Instant::now();
        self.open = false;
        self.endpoint.upstream.meter.answered.inc();
        let verdict = match grpc {
            Some(None) if status == 200 => {
                // Its status stands in the trailers; the latency is known now.
                self.undecided = true;
                return self.flight.answered(now);
            }
            Some(Some(code)) if status == 200 => of_grpc(code),
            _ => Verdict::of_status(status),
        };
        match verdict {
            Verdict::Failure => self.flight.failed(now),
            _ => self.flight.answered(now),
        }
        self.settle(verdict, now);
    }

    /// A connection for bytes stands; this stays its seat until it closes.
    pub fn connected(&mut self) {
        let now = Instant::now();
        self.open = false;
        self.endpoint.upstream.meter.answered.inc();
        self.flight.answered(now);
        self.settle(Verdict::Success, now);
    }

    /// No answer came.
    pub fn failed(mut self, fault: &Fault) {
        self.unanswered(Verdict::of_fault(fault), Instant::now());
    }

    fn unanswered(&mut self, verdict: Verdict, now: Instant) {
        self.open = false;
        match verdict {
            Verdict::Failure => {
                self.endpoint.upstream.meter.failed.inc();
                self.flight.failed(now);
            }
            _ => self.flight.abandoned(now),
        }
        self.settle(verdict, now);
    }

    fn settle(&mut self, verdict: Verdict, now: Instant) {
        let ejection = match self.probe.take() {
            Some(probe) => probe.settle(verdict, now),
            None => self.endpoint.health.record(verdict, now),
        };
        if let Some(ejection) = ejection {
            tracing::warn!(
                upstream = %self.endpoint.upstream.name,
                endpoint = %self.endpoint.peer.address(),
                penalty = ?ejection.penalty,
                times = ejection.times,
                "endpoint ejected"
            );
        }
    }
}

/// A try that is dropped at the call's deadline was too slow for the operator, or for the caller: the first counts
/// against the endpoint.
impl Drop for Try {
    fn drop(&mut self) {
        if !self.open {
            return;
        }
        let now = Instant::now();
        let verdict = match self.deadline.is_over(now) && !self.deadline.is_callers() {
            true => Verdict::Failure,
            false => Verdict::Neither,
        };
        self.unanswered(verdict, now);
    }
}

impl body::Source for Try {
    fn broke(&mut self, fault: &Fault) {
        let callers = fault.reason() == Reason::RequestTimeout && self.deadline.is_callers();
        if fault.side() == Side::Upstream && !callers {
            self.undecided = false;
            self.settle(Verdict::Failure, Instant::now());
        }
    }

    fn grpc_ended(&mut self, status: u16) {
        if std::mem::take(&mut self.undecided) {
            self.settle(of_grpc(status), Instant::now());
        }
    }
}

/// A code that gRPC does not know is UNKNOWN.
fn of_grpc(code: u16) -> Verdict {
    Verdict::of_grpc(u8::try_from(code).unwrap_or(2))
}
