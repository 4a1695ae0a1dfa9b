//! What becomes of a try: its answer passes, another try replaces it, or the caller is told why there is none.

use std::time::{Duration, Instant};

use http::{Response, header};
use http_body::Body as _;

use super::{Call, Cluster};
use crate::{
    fault::{Class, Fault, Reason, Side},
    http::{
        Body, RequestBody,
        body::{Peek, Source, grpc_status},
        client,
        replay::Record,
    },
    outbound::endpoint::Try,
    resilience::{self, Decision, Kept},
};

/// How long a gRPC answer's head is held to see whether the trailers follow at once.
const PEEK: Duration = Duration::from_millis(100);
/// What is read of an answer that another try replaces, so that its connection can be kept.
const DRAIN: (usize, Duration) = (64 * 1024, Duration::from_secs(1));

impl Cluster {
    /// The wait before another try replaces this answer; none where it passes.
    pub(super) async fn judge(
        &self,
        attempt: &mut Try,
        response: &mut Response<Body>,
        call: &Call<'_>,
        replayable: bool,
    ) -> Option<Duration> {
        let status = response.status().as_u16();
        let code = if call.grpc {
            Some(grpc_status(response.headers()))
        } else {
            None
        };
        let failure = match code {
            Some(Some(code)) if code != 0 => {
                Some(resilience::Failure::Grpc(u8::try_from(code).unwrap_or(2)))
            }
            _ if status >= 400 => Some(resilience::Failure::Status(status)),
            Some(None) if status == 200 && call.retry.wants_grpc_trailers() => {
                match Box::pin(tokio::time::timeout(PEEK, response.body_mut().peek())).await {
                    Ok(Peek::Trailers(Some(code))) if code != 0 => {
                        let code = u8::try_from(code).unwrap_or(2);
                        Some(resilience::Failure::Grpc(code))
                    }
                    _ => None,
                }
            }
            _ => None,
        };
        attempt.answered(status, code);
        // A handshake that was answered was processed, whatever the route would try again.
        let failure = failure.filter(|_| call.wish.is_none())?;
        match self.ask(call, failure, replayable, retry_after(response)) {
            Decision::Retry { after } => {
                if let (resilience::Failure::Grpc(code), Some(None)) = (failure, code) {
                    Source::grpc_ended(attempt, code.into());
                }
                Some(after)
            }
            _ => None,
        }
    }

    /// What becomes of a call that got no answer: how to go on, or the fault that the caller is told.
    pub(super) fn decide(
        &self,
        failed: client::Failed,
        call: &Call<'_>,
        bodiless: bool,
        record: Option<&Record>,
    ) -> Result<Refused, Fault> {
        let client::Failed { fault, body, stale } = failed;
        if fault.side() == Side::Client {
            return Err(fault);
        }
        if call.wish.is_some() && !fault.is_unprocessed() {
            return Err(self.told(fault, call));
        }
        let replayable = bodiless || body.is_some() || record.is_some_and(Record::is_whole);
        match self.ask(
            call,
            resilience::Failure::of(&fault, stale),
            replayable,
            None,
        ) {
            Decision::Retry { after } => Ok(Refused { after, body }),
            Decision::Pass | Decision::Keep(_) => Err(self.told(fault, call)),
        }
    }

    pub(super) fn ask(
        &self,
        call: &Call<'_>,
        failure: resilience::Failure,
        replayable: bool,
        retry_after: Option<Duration>,
    ) -> Decision {
        let now = Instant::now();
        let facts = resilience::Call {
            method: call.outgoing.method,
            tries: call.trail.tries,
            retry_after,
            left: call.deadline.left(now),
            replayable,
        };
        let decision = call.retry.decide(
            failure,
            facts,
            &self.upstream.budget,
            now,
            &mut self.rng.borrow_mut(),
        );
        if let Decision::Keep(why) = decision {
            self.upstream.meter.resilience.kept(why).inc();
            if why == Kept::Replay {
                tracing::info!(upstream = %self.upstream.name, "retry given up: the body is longer than the replay buffer");
            }
        }
        decision
    }

    /// The last try's fault, with what was tried.
    #[cold]
    pub(super) fn told(&self, fault: Fault, call: &Call<'_>) -> Fault {
        let tries = call.trail.tries;
        let name = &self.upstream.name;
        let members = self.upstream.members().borrow().clone();
        let out = self.upstream.outlier.out();
        let known = members.list.len();
        let public = match fault.class() {
            Class::Connect => {
                let how = match fault.reason() {
                    Reason::ConnectTimeout => "too slow to accept",
                    _ if fault.public_words().contains("refuses") => "refused",
                    _ => "unreachable",
                };
                let failed = call.trail.unconnected;
                format!(
                    "no usable endpoint for {name}: {known} known, {out} ejected, {failed} {how}"
                )
            }
            _ => format!("{name}: {} ({tries} tried)", fault.public_words()),
        };
        let last = fault.inside_words().map(|inside| format!("last: {inside}"));
        let told = Fault::new(fault.reason(), public).processed(if fault.is_unprocessed() {
            crate::fault::Processed::No
        } else {
            crate::fault::Processed::Perhaps
        });
        match last {
            Some(last) => told.inside(last),
            None => told,
        }
    }
}

pub(super) struct Refused {
    pub(super) after: Duration,
    pub(super) body: Option<RequestBody>,
}

pub(super) async fn within(
    limit: Duration,
    once: impl Future<Output = Result<Response<Body>, client::Failed>>,
) -> Result<Response<Body>, client::Failed> {
    match tokio::time::timeout(limit, once).await {
        Ok(tried) => tried,
        Err(_) => {
            let fault = Fault::new(
                Reason::TryTimeout,
                format!("no answer within {limit:?} (timeouts.backendRequest)"),
            );
            Err(client::Failed {
                fault,
                body: None,
                stale: false,
            })
        }
    }
}

/// `Retry-After` in seconds or as a date (RFC 9110 §10.2.3).
pub fn retry_after<T>(response: &Response<T>) -> Option<Duration> {
    let value = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?;
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(
        date.duration_since(std::time::SystemTime::now())
            .unwrap_or_default(),
    )
}

/// Reads what is left of an answer that nobody wants, so that its connection can be used again.
pub(super) async fn drain(mut body: Body) {
    let read = async {
        let mut left = DRAIN.0;
        while let Some(Ok(frame)) =
            std::future::poll_fn(|cx| std::pin::Pin::new(&mut body).poll_frame(cx)).await
        {
            let Some(rest) = left.checked_sub(frame.data_ref().map_or(0, bytes::Bytes::len)) else {
                return;
            };
            left = rest;
        }
    };
    let _ = tokio::time::timeout(DRAIN.1, read).await;
}
