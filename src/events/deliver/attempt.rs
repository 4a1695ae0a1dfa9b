//! One delivery: the stored call made again, and what its answer makes of the event, written down before it counts.

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, header};

use super::{Call, Callee, WRITE_AGAIN};
use crate::{
    events::{
        event::Request,
        lanes::Start,
        metrics::Metrics,
        verdict::{self, Answer, Verdict},
    },
    outbox::{Courier, DeadReason, Event, Failure, OutboxError, Outcome, Seq, Store, Wall, crash},
};

/// What every delivery needs.
pub(super) struct Ctx<C> {
    pub(super) store: Store,
    pub(super) courier: Courier,
    pub(super) callee: Rc<C>,
    pub(super) metrics: Metrics,
}

/// What came of one delivery.
#[derive(Debug)]
pub(super) enum Landed {
    /// It is finished, and that is on disk.
    Done { reached: bool },
    /// It failed in a way that may pass.
    Later { attempts: u32, wait: Duration },
    /// The callee was not reached.
    Waits,
    /// Nothing was tried, for a reason of ours.
    PutBack,
}

impl<C: Callee> Ctx<C> {
    pub(super) async fn deliver(&self, start: &Start) -> Landed {
        let event = match self.courier.load(start.seq).await {
            Ok(Some(event)) => event,
            Ok(None) => return Landed::Done { reached: false },
            Err(OutboxError::Damaged { .. }) => {
                let (route, seq) = (&start.route, start.seq);
                self.metrics.died(route, seq, DeadReason::Damaged);
                return Landed::Done { reached: false };
            }
            Err(_) => return Landed::PutBack,
        };
        let now = Wall::now();
        if start.expired || event.expiry.is_some_and(|expiry| expiry <= now) {
            return self.expire(start, &event).await;
        }
        let request = match Request::decode(&event.head) {
            Ok(request) => request,
            Err(error) => {
                let failure = failure(DeadReason::Damaged, start.attempts, error.to_string());
                self.bury(start, failure).await;
                return Landed::Done { reached: false };
            }
        };
        let (grpc, dropped) = (request.grpc, request.dropped.clone());
        let call = call(request, &event, start.attempts + 1);
        crash::point("before-delivery");
        let ticket = self.store.flight().depart(start.seq);
        crash::point("in-flight");
        let began = Instant::now();
        let tried = self.callee.call(&start.upstream, call);
        let answered = tokio::time::timeout(start.rule.timeout, tried).await;
        let (verdict, answer) = match &answered {
            Ok(Ok(answer)) => (verdict::of_answer(answer, grpc, &dropped), Some(answer)),
            Ok(Err(fault)) => (verdict::of_fault(fault), None),
            Err(_) => {
                let why = format!("no answer within {:?}", start.rule.timeout);
                (Verdict::Later { after: None, why }, None)
            }
        };
        drop(ticket);
        crash::point("after-answer");
        self.metrics.seconds.observe(began.elapsed().as_secs_f64());
        self.conclude(start, &event, verdict, answer).await
    }

    /// Writes down what the verdict makes of the event.
    async fn conclude(
        &self,
        start: &Start,
        event: &Event,
        verdict: Verdict,
        answer: Option<&Answer>,
    ) -> Landed {
        let status = answer.map(|answer| answer.status);
        let attempts = start.attempts + 1;
        let count = |outcome| self.metrics.delivered(&start.route, outcome).inc();
        let dead = |reason, error| Failure {
            status,
            excerpt: answer
                .map(|answer| answer.excerpt.clone())
                .unwrap_or_default(),
            ..failure(reason, attempts, error)
        };
        match verdict {
            Verdict::Done => {
                let age = Wall::now().since(event.accepted);
                self.metrics.age.observe(age.as_secs_f64());
                let status = status.unwrap_or_default();
                self.write(start.seq, &Outcome::Delivered { attempts, status })
                    .await;
                count("done");
                Landed::Done { reached: true }
            }
            Verdict::Dead { why } => {
                self.bury(start, dead(DeadReason::Rejected, why)).await;
                Landed::Done { reached: true }
            }
            Verdict::Waits { why } => {
                count("waiting");
                tracing::debug!(id = %event.id, upstream = %start.upstream, %why, "the callee is not reached");
                Landed::Waits
            }
            Verdict::Later { after, .. } if start.probe => {
                count("waiting");
                let wait = start.rule.wait(start.attempts.max(1), after);
                let attempts = start.attempts;
                Landed::Later { attempts, wait }
            }
            Verdict::Later { why, .. } if attempts >= start.rule.attempts => {
                self.bury(start, dead(DeadReason::Exhausted, why)).await;
                Landed::Done { reached: false }
            }
            Verdict::Later { after, why } => {
                count("later");
                let wait = start.rule.wait(attempts, after);
                let due = Wall::now().after(wait);
                let error = why;
                let outcome = Outcome::Retry {
                    attempts,
                    due,
                    error,
                };
                self.write(start.seq, &outcome).await;
                Landed::Later { attempts, wait }
            }
        }
    }

    async fn expire(&self, start: &Start, event: &Event) -> Landed {
        let error = match &event.last_error {
            Some(last) => format!("its time ran out; last: {last}"),
            None => "its time ran out".to_owned(),
        };
        let failure = failure(DeadReason::Expired, start.attempts, error);
        self.bury(start, failure).await;
        Landed::Done { reached: false }
    }

    /// Makes a dead letter of it; returns once that is on disk.
    pub(super) async fn bury(&self, start: &Start, failure: Failure) {
        let reason = failure.reason;
        tracing::warn!(route = %start.route, upstream = %start.upstream, reason = reason.word(), error = %failure.error, "a deferred call is a dead letter");
        if self.write(start.seq, &Outcome::Dead(failure)).await {
            self.metrics.died(&start.route, start.seq, reason);
            self.metrics.delivered(&start.route, "dead").inc();
        }
    }

    /// Records an outcome, as often as it takes: the key waits, because what is not on disk did not happen.
    pub(super) async fn write(&self, seq: Seq, outcome: &Outcome) -> bool {
        let (mut wait, longest) = WRITE_AGAIN;
        loop {
            match self.courier.finish(seq, outcome.clone()).await {
                Ok(()) => return true,
                Err(OutboxError::Closed) => return false,
                Err(error) => {
                    tracing::error!(%error, "what came of a delivery cannot be written; its key waits");
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(longest);
                }
            }
        }
    }
}

fn failure(reason: DeadReason, attempts: u32, error: String) -> Failure {
    Failure {
        reason,
        attempts,
        status: None,
        error,
        excerpt: Bytes::new(),
    }
}

/// The stored call with what says that it is one.
fn call(request: Request, event: &Event, attempt: u32) -> Call {
    let kind = request.event_type();
    let mut headers = request.headers;
    let text =
        |text: &str| HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""));
    let id = text(&event.id.to_string());
    headers.insert(header::HOST, text(&request.authority));
    if request.grpc {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    // A call that is an event already keeps its own name.
    let ce_id = HeaderName::from_static("ce-id");
    if !headers.contains_key(&ce_id) {
        headers.insert(ce_id, id.clone());
        headers.insert("ce-source", text(&request.source));
        headers.insert("ce-type", HeaderValue::from_static(kind));
        headers.insert("ce-specversion", HeaderValue::from_static("1.0"));
    }
    // After an edit: the event that this one took the place of.
    if let Some(cause) = &event.cause {
        headers.insert("ce-causationid", text(&cause.to_string()));
    }
    headers.insert("idempotency-key", id);
    headers.insert("x-weft-attempt", HeaderValue::from(attempt));
    Call {
        method: request.method,
        target: request.target,
        headers,
        body: event.body.clone(),
        http2: request.http2,
        grpc: request.grpc,
    }
}
