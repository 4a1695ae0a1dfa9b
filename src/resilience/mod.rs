//! Whether to try, how long, how often: pure state machines over plain facts and an explicit `now`.
//!
//! They know neither sockets nor messages: a caller tells what happened and does what they decide. A budget, a
//! breaker and an ejection are facts of the process: made at load, shared by all workers behind an `Arc`, kept in
//! atomics. Times are std `Instant`s; a test that stops tokio's clock passes `tokio::time::Instant::now().into_std()`.

mod backoff;
mod breaker;
mod budget;
mod limit;
mod metrics;
mod outlier;
mod retry;
pub mod settings;
mod timeout;

pub use backoff::{Backoff, Wait};
pub use breaker::{Breaker, Load};
pub use budget::Budget;
pub use limit::{ConnectionPermit, Connections, Gate, Pass};
pub use metrics::{Metrics, UpstreamMetrics};
pub use outlier::{Ejection, Health, Outlier, Probe, State, Verdict};
pub use retry::{Call, Decision, Failure, Kept, Policy, is_idempotent};
pub use timeout::{Deadline, GrpcTimeout};
