//! A call becomes an event, and an event a call.
