//! How long a call may take: one deadline, from the route's `request` timeout and the caller's `grpc-timeout`.
//!
//! The deadline is a point in time, so that it shrinks on its way: each try gets what is left, and so does the next
//! hop. No deadline is the default. Watching the clock is the caller's job.

use std::{
    fmt,
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderValue};

const GRPC_TIMEOUT: &str = "grpc-timeout";

/// The point at which a call is over, if there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    at: Option<Instant>,
    /// The caller set it, not the operator.
    callers: bool,
}

impl Deadline {
    pub const NONE: Deadline = Deadline {
        at: None,
        callers: false,
    };

    /// The earlier of the two, counted from `now`; without either, none.
    pub fn new(now: Instant, request: Option<Duration>, grpc: Option<GrpcTimeout>) -> Self {
        let grpc = grpc.map(GrpcTimeout::duration);
        let shorter = [request, grpc].into_iter().flatten().min();
        Deadline {
            at: shorter.and_then(|time| now.checked_add(time)),
            callers: grpc.is_some_and(|grpc| request.is_none_or(|request| grpc < request)),
        }
    }

    /// The end of a call that began at `began`: the route's timeout or, in a gRPC call's headers, the caller's;
    /// `grpc-timeout` then says to the callee what is left of it.
    pub fn of_call(
        began: Instant,
        request: Option<Duration>,
        grpc: Option<&mut HeaderMap>,
    ) -> Self {
        let said = grpc.as_ref().and_then(|headers| headers.get(GRPC_TIMEOUT));
        let said = said.and_then(|value| GrpcTimeout::parse(value.as_bytes()));
        if request.is_none() && said.is_none() {
            return Deadline::NONE;
        }
        let deadline = Deadline::new(began, request, said);
        if let Some(headers) = grpc
            && let Some(left) = deadline.left(Instant::now())
            && let Ok(value) = HeaderValue::from_str(&GrpcTimeout::new(left).to_string())
        {
            headers.insert(GRPC_TIMEOUT, value);
        }
        deadline
    }

    pub fn at(self) -> Option<Instant> {
        self.at
    }

    /// True where it is the caller's `grpc-timeout`: that it passed says nothing of the callee.
    pub fn is_callers(self) -> bool {
        self.callers
    }

    /// What is left; nothing once it is over.
    pub fn left(self, now: Instant) -> Option<Duration> {
        self.at.map(|at| at.saturating_duration_since(now))
    }

    pub fn is_over(self, now: Instant) -> bool {
        self.at.is_some_and(|at| at <= now)
    }

    /// When one try that starts now is over: its own timeout, or the call's end where that is earlier.
    pub fn of_try(self, now: Instant, backend_request: Option<Duration>) -> Deadline {
        let own = backend_request.and_then(|time| now.checked_add(time));
        Deadline {
            at: [self.at, own].into_iter().flatten().min(),
            ..self
        }
    }
}

/// The value of a `grpc-timeout` header: at most eight digits and a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GrpcTimeout(Duration);

impl GrpcTimeout {
    pub const fn new(time: Duration) -> Self {
        GrpcTimeout(time)
    }

    /// `None` for what is no gRPC timeout; such a header is passed on and means nothing to us.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (unit, digits) = value.split_last()?;
        if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let fold = |sum: u64, digit: &u8| sum * 10 + u64::from(digit - b'0');
        let count = digits.iter().fold(0, fold);
        Some(GrpcTimeout(match unit {
            b'H' => Duration::from_secs(count * 3600),
            b'M' => Duration::from_secs(count * 60),
            b'S' => Duration::from_secs(count),
            b'm' => Duration::from_millis(count),
            b'u' => Duration::from_micros(count),
            b'n' => Duration::from_nanos(count),
            _ => return None,
        }))
    }

    pub fn duration(self) -> Duration {
        self.0
    }
}

/// In the finest unit that fits in eight digits, rounded down: a hop never promises time that it has not got.
impl fmt::Display for GrpcTimeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MAX: u128 = 99_999_999;
        let nanos = self.0.as_nanos();
        let units = [
            (1, "n"),
            (1_000, "u"),
            (1_000_000, "m"),
            (1_000_000_000, "S"),
            (60_000_000_000, "M"),
        ];
        for (scale, unit) in units {
            if nanos / scale <= MAX {
                return write!(f, "{}{unit}", nanos / scale);
            }
        }
        write!(f, "{}H", (nanos / 3_600_000_000_000).min(MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SEC: fn(u64) -> Duration = Duration::from_secs;

    #[test]
    fn the_earlier_deadline_counts_and_none_is_none() {
        let now = Instant::now();
        let grpc = GrpcTimeout::parse(b"2S");
        let left = |request, grpc| Deadline::new(now, request, grpc).left(now);
        assert_eq!(left(Some(SEC(3)), grpc), Some(SEC(2)));
        assert_eq!(left(Some(SEC(1)), grpc), Some(SEC(1)));
        assert_eq!(left(None, None), None);
        assert!(!Deadline::NONE.is_over(now + SEC(1 << 30)));
    }

    #[test]
    fn it_is_known_whose_deadline_it_is() {
        let now = Instant::now();
        let grpc = GrpcTimeout::parse(b"2S");
        let callers = |request, grpc| Deadline::new(now, request, grpc).is_callers();
        assert!(callers(None, grpc));
        assert!(callers(Some(SEC(3)), grpc));
        assert!(!callers(Some(SEC(1)), grpc));
        assert!(!callers(Some(SEC(1)), None));
    }

    #[test]
    fn a_deadline_shrinks_and_ends() {
        let now = Instant::now();
        let deadline = Deadline::new(now, Some(SEC(3)), None);
        assert_eq!(deadline.left(now + SEC(2)), Some(SEC(1)));
        assert_eq!(deadline.left(now + SEC(4)), Some(SEC(0)));
        assert!(deadline.is_over(now + SEC(3)));
    }

    #[test]
    fn a_try_ends_with_its_call() {
        let now = Instant::now();
        let call = Deadline::new(now, Some(SEC(3)), None);
        let tries = |at, own| call.of_try(now + SEC(at), own).left(now + SEC(at));
        assert_eq!(tries(0, Some(SEC(1))), Some(SEC(1)));
        assert_eq!(tries(2, Some(SEC(5))), Some(SEC(1)));
        assert_eq!(tries(1, None), Some(SEC(2)));
        assert_eq!(
            Deadline::NONE.of_try(now, Some(SEC(1))).left(now),
            Some(SEC(1))
        );
    }

    #[test]
    fn grpc_timeouts_are_read_as_the_protocol_says() {
        for (text, time) in [
            ("1H", SEC(3600)),
            ("2M", SEC(120)),
            ("99999999S", SEC(99_999_999)),
            ("250m", Duration::from_millis(250)),
            ("7u", Duration::from_micros(7)),
            ("0n", Duration::ZERO),
        ] {
            assert_eq!(
                GrpcTimeout::parse(text.as_bytes()),
                Some(GrpcTimeout(time)),
                "{text}"
            );
        }
        for bad in ["", "S", "5", "1s", "-1S", "1.5S", "123456789S", "1 S"] {
            assert_eq!(GrpcTimeout::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again_and_never_longer(nanos: u64) {
            let time = GrpcTimeout::new(Duration::from_nanos(nanos));
            let back = GrpcTimeout::parse(time.to_string().as_bytes()).unwrap();
            prop_assert!(back.0 <= time.0);
            prop_assert!(time.0 - back.0 < time.0 / 1000 + Duration::from_nanos(1));
        }
    }
}
