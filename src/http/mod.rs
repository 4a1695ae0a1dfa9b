//! HTTP in and out: what hyper leaves to the proxy.
//!
//! In: `serve` runs hyper under `guard` and `frames`, with the timers of `connection`. Out: `client` sends one try on
//! one connection, by `wire` or `h2`. One `Exchange` is the record of one request; `respond` has the only table from
//! a fault to a status. Which request goes where is the flows' to say.

mod accept;
pub mod body;
mod budget;
mod chunks;
pub mod client;
mod connection;
mod credential;
mod cut;
pub mod dialer;
mod exchange;
pub mod frame_header;
pub mod frames;
pub mod guard;
#[cfg(test)]
mod guard_tests;
pub mod h2;
pub mod head;
pub mod headers;
mod hear;
mod meter;
mod octets;
pub mod passage;
pub mod path;
mod pulse;
pub mod replay;
pub mod respond;
mod serve;
mod settings;
mod strand;
pub mod target;
pub mod tcp;
pub mod tick;
pub mod upgrade;
pub mod watch;

pub use accept::{Cap, Entrance, Reception};
pub use body::{Body, RequestBody};
pub use connection::{Connection, Desk, Door, Facts, Order};
pub use credential::{Credential, Standing};
pub use cut::Cut;
pub use exchange::{Exchange, Trail};
pub use hear::{Heard, SILENCE, Word, hear};
pub use meter::{ListenerMeter, Metrics, RouteMeter};
pub use pulse::{Pace, Pulse};
pub use serve::{Handler, Opening, Server};
pub use settings::{BodyRate, OutboundTimers, Timers};
