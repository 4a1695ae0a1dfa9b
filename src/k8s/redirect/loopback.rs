//! The address `::6` on `lo`, so that the sidecar may dial the application from it.
//!
//! IPv4 needs nothing: all of 127.0.0.0/8 is there already.

use std::net::Ipv6Addr;

use rustix::io::Errno;

use super::{
    Refused,
    message::{ACK, Attributes, CREATE, EXCLUSIVE, Messages, REPLACE},
    socket::{No, Socket},
};

pub(super) const FROM_SIDECAR: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6);

// linux/rtnetlink.h and linux/if_addr.h.
const NEW_ADDRESS: u16 = 20;
const DELETE_ADDRESS: u16 = 21;
const ADDRESS: u16 = 1;
const LOCAL: u16 = 2;
const LIFETIMES: u16 = 6;
const INET6: u8 = 10;
const NO_DUPLICATE_DETECTION: u8 = 2;
const HOST_SCOPE: u8 = 254;
/// `lo` is the first interface of every network namespace.
const LOOPBACK_INDEX: u32 = 1;

/// Whether there is an IPv6 to redirect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ipv6 {
    /// The address was not there before.
    New,
    Known,
    /// By `net.ipv6.conf.*.disable_ipv6`.
    Off,
    /// The kernel was started or built without it.
    Missing,
}

pub(super) fn add() -> Result<Ipv6, Refused> {
    let told = match tell(NEW_ADDRESS, CREATE | EXCLUSIVE) {
        Ok(()) => return Ok(Ipv6::New),
        // As it was left, or as someone else wants it: ours is what counts.
        Err(no) if no.why == Errno::EXIST => tell(NEW_ADDRESS, CREATE | REPLACE),
        told => told,
    };
    match told {
        Ok(()) => Ok(Ipv6::Known),
        Err(no) => match no.why {
            Errno::ACCESS => Ok(Ipv6::Off),
            Errno::OPNOTSUPP | Errno::AFNOSUPPORT => Ok(Ipv6::Missing),
            _ => Err(refused("add ::6 to lo", no)),
        },
    }
}

/// No matter whether it was there.
pub(super) fn remove() -> Result<(), Refused> {
    match tell(DELETE_ADDRESS, 0) {
        Ok(()) => Ok(()),
        Err(no) => match no.why {
            Errno::ADDRNOTAVAIL | Errno::OPNOTSUPP | Errno::AFNOSUPPORT => Ok(()),
            _ => Err(refused("take ::6 from lo", no)),
        },
    }
}

fn tell(what: u16, flags: u16) -> Result<(), No> {
    let mut header = vec![INET6, 128, NO_DUPLICATE_DETECTION, HOST_SCOPE];
    header.extend_from_slice(&LOOPBACK_INDEX.to_ne_bytes());
    let address = FROM_SIDECAR.octets();
    // Preferred for no time and valid for ever: it is there to be asked for, and no connection gets it unasked.
    let mut lifetimes = 0u32.to_ne_bytes().to_vec();
    lifetimes.extend_from_slice(&u32::MAX.to_ne_bytes());
    lifetimes.extend_from_slice(&[0; 8]);
    let attributes = Attributes::default()
        .bytes(ADDRESS, &address)
        .bytes(LOCAL, &address)
        .bytes(LIFETIMES, &lifetimes);
    let mut messages = Messages::default();
    messages.push(what, flags | ACK, &header, &attributes);
    Socket::open(None)?.tell(&messages)
}

fn refused(doing: &'static str, no: No) -> Refused {
    match no.why {
        Errno::PERM => Refused::Privilege,
        _ => Refused::Kernel {
            doing,
            cause: no.cause(),
        },
    }
}
