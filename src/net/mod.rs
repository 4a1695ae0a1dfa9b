//! Sockets: listen, accept, dial.
