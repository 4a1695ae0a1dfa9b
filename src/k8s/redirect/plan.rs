//! What to redirect and what to leave alone, and the rules that follow from it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    Refused, loopback,
    rule::{End, Family, Interface, Is, Match, Ports, Rule, User, Verdict},
    table::{Chain, Hook, Table},
};
use crate::units::Cidr;

/// The most exclusions of all kinds together.
pub const MOST_EXCLUSIONS: usize = 256;

/// Where the sidecar dials the application from. The rules let it pass, for it has been through the sidecar already.
const FROM_SIDECAR: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 6);

/// What to redirect, and where to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The sidecar's own connections leave as they are: it runs as this user, and nothing else does.
    pub sidecar: User,
    /// The sidecar's port for what comes in.
    pub inbound: u16,
    /// The sidecar's port for what leaves.
    pub outbound: u16,
    /// Inbound connections to these ports are left alone: the sidecar's admin and metrics ports, and others.
    pub inbound_ports: Vec<Ports>,
    /// Outbound connections to these ports are left alone.
    pub outbound_ports: Vec<Ports>,
    /// Outbound connections to these addresses are left alone.
    pub outbound_ranges: Vec<Cidr>,
    /// What comes in by these interfaces is left alone: bridges of containers within the pod, for example.
    pub interfaces: Vec<Interface>,
}

impl Plan {
    /// The rules, in the order in which they are asked.
    pub(super) fn table(&self) -> Result<Table<Rule>, Refused> {
        let given = self.inbound_ports.len()
            + self.outbound_ports.len()
            + self.outbound_ranges.len()
            + self.interfaces.len();
        if given > MOST_EXCLUSIONS {
            return Err(Refused::TooMany { given });
        }
        if self.inbound == self.outbound {
            return Err(Refused::OnePort(self.inbound));
        }
        Ok(Table {
            chains: vec![self.arriving(), self.leaving(), self.inbound_chain()],
        })
    }

    fn arriving(&self) -> Chain<Rule> {
        let mut rules = vec![leave([Match::NotTcp])];
        rules.push(leave([Match::ComesBy(Interface::loopback())]));
        for interface in &self.interfaces {
            rules.push(leave([Match::ComesBy(interface.clone())]));
        }
        rules.push(ask(INBOUND, []));
        Chain {
            name: "arriving".to_owned(),
            hook: Some(Hook::Prerouting),
            rules,
        }
    }

    fn leaving(&self) -> Chain<Rule> {
        let mut rules = vec![leave([Match::NotTcp])];
        let loopback = || Match::LeavesBy(Interface::loopback());
        let sidecar = || Match::User(self.sidecar);
        // The sidecar calls the pod it stands in, as one of a service's endpoints: a caller like any other.
        rules.push(ask(
            INBOUND,
            [
                loopback(),
                sidecar(),
                Match::Family(Family::V4),
                outside(End::Destination, Ipv4Addr::LOCALHOST, 8),
                outside(End::Source, FROM_SIDECAR, 32),
            ],
        ));
        rules.push(ask(
            INBOUND,
            [
                loopback(),
                sidecar(),
                Match::Family(Family::V6),
                outside(End::Destination, Ipv6Addr::LOCALHOST, 128),
                outside(End::Source, loopback::FROM_SIDECAR, 128),
            ],
        ));
        rules.push(leave([loopback()]));
        rules.push(leave([sidecar()]));
        for ports in &self.outbound_ports {
            rules.push(leave([Match::Port(*ports)]));
        }
        for range in &self.outbound_ranges {
            let family = match range.first() {
                IpAddr::V4(_) => Family::V4,
                IpAddr::V6(_) => Family::V6,
            };
            let address = Match::Address {
                end: End::Destination,
                is: Is::Within,
                range: *range,
            };
            rules.push(leave([Match::Family(family), address]));
        }
        rules.push(redirect(self.outbound));
        Chain {
            name: "leaving".to_owned(),
            hook: Some(Hook::Output),
            rules,
        }
    }

    fn inbound_chain(&self) -> Chain<Rule> {
        let ports = self.inbound_ports.iter();
        let mut rules: Vec<Rule> = ports.map(|ports| leave([Match::Port(*ports)])).collect();
        rules.push(redirect(self.inbound));
        Chain {
            name: INBOUND.to_owned(),
            hook: None,
            rules,
        }
    }
}

const INBOUND: &str = "inbound";

fn leave<const N: usize>(fits: [Match; N]) -> Rule {
    Rule {
        fits: fits.into(),
        verdict: Verdict::Leave,
    }
}

fn ask<const N: usize>(chain: &str, fits: [Match; N]) -> Rule {
    Rule {
        fits: fits.into(),
        verdict: Verdict::Ask(chain.to_owned()),
    }
}

fn redirect(port: u16) -> Rule {
    Rule {
        fits: Vec::new(),
        verdict: Verdict::Redirect { port, taken: 0 },
    }
}

fn outside(end: End, ip: impl Into<IpAddr>, bits: u8) -> Match {
    Match::Address {
        end,
        is: Is::Outside,
        range: Cidr::around(ip.into(), bits),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn plan() -> Plan {
        Plan {
            sidecar: User(15001),
            inbound: 15006,
            outbound: 15001,
            inbound_ports: vec![Ports::one(15000), Ports::one(15020)],
            outbound_ports: vec!["9000-9100".parse().unwrap()],
            outbound_ranges: vec!["10.1.0.0/16".parse().unwrap(), "fd00::/9".parse().unwrap()],
            interfaces: vec!["docker0".parse().unwrap()],
        }
    }

    #[test]
    fn the_plan_reads_as_its_rules() {
        assert_eq!(
            plan().table().unwrap().to_string(),
            "\
Table `weft`, IPv4 and IPv6; the first rule that fits decides.

arriving: new connections that come in
  anything but TCP: left alone
  in by lo: left alone
  in by docker0: left alone
  everything else: as `inbound` says

leaving: new connections that leave
  anything but TCP: left alone
  out by lo, of user 15001, not to 127.0.0.0/8, not from 127.0.0.6: as `inbound` says
  out by lo, of user 15001, not to ::1, not from ::6: as `inbound` says
  out by lo: left alone
  of user 15001: left alone
  to ports 9000-9100: left alone
  to 10.1.0.0/16: left alone
  to fd00::/9: left alone
  everything else: to our port 15001

inbound:
  to port 15000: left alone
  to port 15020: left alone
  everything else: to our port 15006
"
        );
    }

    #[test]
    fn exclusions_have_a_bound() {
        let mut plan = plan();
        plan.outbound_ports = vec![Ports::one(1); MOST_EXCLUSIONS];
        let refused = plan.table().unwrap_err().to_string();
        assert!(
            refused.starts_with("261 exclusions are given; 256"),
            "{refused}"
        );
    }

    #[test]
    fn one_port_cannot_be_both() {
        let mut plan = plan();
        plan.inbound = plan.outbound;
        assert!(matches!(plan.table(), Err(Refused::OnePort(15001))));
    }
}
