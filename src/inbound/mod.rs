//! From a peer to the application beside us.
