//! Stories over real sockets, starting from YAML. One module a story; `harness` is what they stand on.

mod authorize;
mod balance;
mod breaker;
mod commands;
mod deferred;
mod delivery;
mod demo;
mod dns;
mod forward;
mod hardening;
mod harness;
mod harness_stands;
mod http2;
mod letters;
mod life;
mod metrics;
mod operate;
mod pages;
mod peers;
mod privilege;
mod redirect;
mod retry;
mod routes;
mod store;
mod stream;
mod timeout;
