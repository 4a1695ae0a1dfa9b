//! Stories over real sockets, starting from YAML. One module a story; `harness` is what they stand on.

mod balance;
mod breaker;
mod commands;
mod dns;
mod forward;
mod harness;
mod harness_stands;
mod life;
mod metrics;
mod operate;
mod pages;
mod retry;
mod timeout;
