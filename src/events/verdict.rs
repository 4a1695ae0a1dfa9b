//! What an application's answer means for a delivery. The table of answers; no I/O.

use std::{borrow::Cow, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, header};

use crate::{
    fault::{Fault, Reason},
    http::{body::grpc_status, respond::REASON_HEADER},
};

/// The callee's own word on what its answer means.
pub const OUTCOME: &str = "x-weft-outcome";
/// The most that is kept of an answer's body.
pub const EXCERPT: usize = 4096;

/// A callee's answer, read to its end.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub trailers: Option<HeaderMap>,
    /// The beginning of the body, at most [`EXCERPT`] bytes.
    pub excerpt: Bytes,
}

/// What becomes of the event.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    Done,
    /// Tried again; an attempt is burned. `after` is what the callee asked for.
    Later {
        after: Option<Duration>,
        why: String,
    },
    /// The callee was not reached: the upstream rests, no attempt is burned.
    Waits {
        why: String,
    },
    Dead {
        why: String,
    },
}

/// Judges an answer. `dropped` are the names of credentials that were not kept with the call.
pub fn of_answer(answer: &Answer, grpc: bool, dropped: &[String]) -> Verdict {
    let said = answer.headers.get(OUTCOME).map(|word| word.as_bytes());
    let later = |why: String| Verdict::Later {
        after: retry_after(&answer.headers),
        why,
    };
    let code = match grpc {
        true => code(answer),
        false => None,
    };
    let why = words(answer, code, dropped);
    match said {
        Some(b"retry") => return later(format!("{why}, and x-weft-outcome: retry")),
        Some(b"reject") => {
            let why = format!("{why}, and x-weft-outcome: reject");
            return Verdict::Dead { why };
        }
        _ => {}
    }
    match (answer.status, code) {
        (200, Some(0)) => Verdict::Done,
        // UNKNOWN 2, DEADLINE_EXCEEDED 4, RESOURCE_EXHAUSTED 8, ABORTED 10, INTERNAL 13, UNAVAILABLE 14.
        (200, Some(2 | 4 | 8 | 10 | 13 | 14)) => later(why),
        (200, Some(_)) => Verdict::Dead { why },
        (200..=299, None) => Verdict::Done,
        (503, _) if is_from_an_idle_sidecar(answer) => Verdict::Waits { why },
        (408 | 409 | 425 | 429 | 500..=599, _) => later(why),
        _ => Verdict::Dead { why },
    }
}

/// True where the callee's own sidecar answered because its application was not reached: the same as a refused
/// connection to the application itself.
fn is_from_an_idle_sidecar(answer: &Answer) -> bool {
    let said = answer
        .headers
        .get(REASON_HEADER)
        .map(|word| word.as_bytes());
    let unreached = [
        Reason::ConnectFailed,
        Reason::ConnectTimeout,
        Reason::NoApp,
        Reason::Draining,
        Reason::Refused,
    ];
    said.is_some_and(|said| {
        unreached
            .iter()
            .any(|reason| reason.word().as_bytes() == said)
    })
}

/// Judges a call that got no whole answer.
pub fn of_fault(fault: &Fault) -> Verdict {
    let why = fault.to_string();
    let unreached = fault.is_unprocessed()
        || matches!(
            fault.reason(),
            Reason::NoEndpoint
                | Reason::Unresolved
                | Reason::PendingOverflow
                | Reason::RequestsOverflow
                | Reason::Draining
                | Reason::Loop
        );
    match unreached {
        true => Verdict::Waits { why },
        false => Verdict::Later { after: None, why },
    }
}

/// A gRPC answer's status: in its trailers, or in its head; none is UNKNOWN.
fn code(answer: &Answer) -> Option<u16> {
    let trailers = answer.trailers.as_ref().and_then(grpc_status);
    Some(trailers.or(grpc_status(&answer.headers)).unwrap_or(2))
}

fn words(answer: &Answer, code: Option<u16>, dropped: &[String]) -> String {
    let status = answer.status;
    let mut words = match code {
        Some(code) if status == 200 => {
            let fields = answer.trailers.as_ref().unwrap_or(&answer.headers);
            let message = fields.get("grpc-message");
            let message = message.map(|text| String::from_utf8_lossy(text.as_bytes()));
            match message.filter(|text| !text.is_empty()) {
                Some(message) => format!("grpc-status {code}: {message}"),
                None => format!("grpc-status {code}"),
            }
        }
        _ => format!("answered {status}"),
    };
    // UNAUTHENTICATED 16, PERMISSION_DENIED 7.
    let wants_credentials =
        matches!(status, 401 | 403) || (status == 200 && matches!(code, Some(7 | 16)));
    if wants_credentials && !dropped.is_empty() {
        words += &format!(
            "; not kept with the call: {} (defer.keepHeaders)",
            dropped.join(", ")
        );
    }
    words
}

/// `Retry-After` in seconds or as a date (RFC 9110 §10.2.3).
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    date.duration_since(std::time::SystemTime::now()).ok()
}

/// Text of an excerpt, whatever its bytes.
pub fn text(excerpt: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(excerpt)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, fields: &[(&'static str, &str)]) -> Answer {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        Answer {
            status,
            headers,
            ..Answer::default()
        }
    }

    fn word(verdict: &Verdict) -> &'static str {
        match verdict {
            Verdict::Done => "done",
            Verdict::Later { .. } => "later",
            Verdict::Waits { .. } => "waits",
            Verdict::Dead { .. } => "dead",
        }
    }

    #[test]
    fn a_sidecar_whose_application_is_down_burns_no_attempt() {
        let meant = |reason| {
            word(&of_answer(
                &answer(503, &[(REASON_HEADER, reason)]),
                false,
                &[],
            ))
        };
        assert_eq!(meant("connect_failed"), "waits");
        assert_eq!(meant("draining"), "waits");
        assert_eq!(meant("reset"), "later");
        assert_eq!(word(&of_answer(&answer(503, &[]), false, &[])), "later");
    }

    #[test]
    fn http_answers_mean_what_the_table_says() {
        for (status, meant) in [
            (200, "done"),
            (204, "done"),
            (299, "done"),
            (301, "dead"),
            (304, "dead"),
            (400, "dead"),
            (401, "dead"),
            (404, "dead"),
            (408, "later"),
            (409, "later"),
            (410, "dead"),
            (422, "dead"),
            (425, "later"),
            (429, "later"),
            (500, "later"),
            (503, "later"),
            (599, "later"),
        ] {
            let verdict = of_answer(&answer(status, &[]), false, &[]);
            assert_eq!(word(&verdict), meant, "{status}");
        }
    }

    #[test]
    fn grpc_answers_mean_what_the_table_says() {
        for code in 0..=16u16 {
            let meant = match code {
                0 => "done",
                2 | 4 | 8 | 10 | 13 | 14 => "later",
                _ => "dead",
            };
            let code = code.to_string();
            let head = answer(200, &[("grpc-status", &code)]);
            assert_eq!(word(&of_answer(&head, true, &[])), meant, "{code}");
            let mut trailed = answer(200, &[]);
            trailed.trailers = Some(head.headers);
            assert_eq!(word(&of_answer(&trailed, true, &[])), meant, "{code}");
        }
        assert_eq!(word(&of_answer(&answer(200, &[]), true, &[])), "later");
        assert_eq!(word(&of_answer(&answer(503, &[]), true, &[])), "later");
        assert_eq!(word(&of_answer(&answer(404, &[]), true, &[])), "dead");
    }

    #[test]
    fn the_callee_has_the_last_word() {
        let retry = answer(200, &[(OUTCOME, "retry"), ("retry-after", "7")]);
        let Verdict::Later { after, .. } = of_answer(&retry, false, &[]) else {
            panic!("not later");
        };
        assert_eq!(after, Some(Duration::from_secs(7)));
        let reject = answer(503, &[(OUTCOME, "reject")]);
        assert_eq!(word(&of_answer(&reject, false, &[])), "dead");
    }

    #[test]
    fn who_asks_for_credentials_is_told_which_were_not_kept() {
        let dropped = ["authorization".to_owned()];
        for (answer, grpc) in [
            (answer(401, &[]), false),
            (answer(403, &[]), false),
            (answer(200, &[("grpc-status", "16")]), true),
        ] {
            let Verdict::Dead { why } = of_answer(&answer, grpc, &dropped) else {
                panic!("not dead");
            };
            assert!(why.contains("authorization"), "{why}");
        }
        let Verdict::Dead { why } = of_answer(&answer(404, &[]), false, &dropped) else {
            panic!("not dead");
        };
        assert!(!why.contains("authorization"), "{why}");
    }

    #[test]
    fn who_was_not_reached_burns_nothing() {
        for (reason, meant) in [
            (Reason::ConnectFailed, "waits"),
            (Reason::ConnectTimeout, "waits"),
            (Reason::Refused, "waits"),
            (Reason::NoEndpoint, "waits"),
            (Reason::RequestsOverflow, "waits"),
            (Reason::Reset, "later"),
            (Reason::TryTimeout, "later"),
            (Reason::BadAnswer, "later"),
        ] {
            let verdict = of_fault(&Fault::new(reason, "x"));
            assert_eq!(word(&verdict), meant, "{reason}");
        }
    }
}
