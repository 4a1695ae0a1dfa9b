//! Stories over real sockets, starting from YAML. One module a story; `harness` is what they stand on.

mod balance;
mod breaker;
mod dns;
mod forward;
mod harness;
mod harness_stands;
mod life;
mod retry;
mod timeout;
