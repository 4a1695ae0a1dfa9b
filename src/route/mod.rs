//! Request to route, as a value: no I/O.
