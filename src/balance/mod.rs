//! Endpoints in, the next one out.
//!
//! A worker keeps an `Ewma` for each endpoint and asks its `Picker`; who may be chosen is the caller's to say. All of
//! it belongs to one worker: no atomics, no locks.

mod ewma;
mod pick;
mod settings;

pub use ewma::{Ewma, Flight};
pub use pick::Picker;
pub use settings::{Policy, Settings};
