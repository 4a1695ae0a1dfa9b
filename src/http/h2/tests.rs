//! The client against real peers.
