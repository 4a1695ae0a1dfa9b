//! Request to route, as a value: no I/O.

mod settings;

pub use settings::{GrpcMatch, GrpcName, HostName, HostPattern, Match, PathMatch, ValueMatch};
