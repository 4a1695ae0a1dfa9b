//! Takes up the one capability that the kernel asks for.
//!
//! Kubernetes gives a process that is not root no effective capability, and no ambient one. A file with
//! `cap_net_admin+p` gives it the permitted one, which it raises here by itself. The file must not have `+e`: then it
//! could not be started at all where the container has no capability, as the sidecar's.

use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

use super::Refused;

pub(super) fn raise() -> Result<(), Refused> {
    let mut sets = capabilities(None).map_err(|_| Refused::Privilege)?;
    if sets.effective.contains(CapabilitySet::NET_ADMIN) {
        return Ok(());
    }
    if !sets.permitted.contains(CapabilitySet::NET_ADMIN) {
        return Err(Refused::Privilege);
    }
    sets.effective |= CapabilitySet::NET_ADMIN;
    set_capabilities(None, sets).map_err(|_| Refused::Privilege)
}
