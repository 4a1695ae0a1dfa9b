//! weft: a sidecar proxy that forwards a call now, or keeps it, durably, and delivers it later.
//!
//! The rooms, top floor first; imports go down only (`docs/ARCHITECTURE.md`, checked by `tests/architecture.rs`).

#![forbid(unsafe_code)]

pub mod app;
pub mod cli;
pub mod config;

pub mod admin;
pub mod k8s;

pub mod events;
pub mod inbound;
pub mod outbound;

pub mod balance;
pub mod discover;
pub mod http;
pub mod net;
pub mod outbox;
pub mod resilience;
pub mod route;
pub mod telemetry;
pub mod tls;
pub mod wire;

pub mod drain;
pub mod fault;
pub mod units;
