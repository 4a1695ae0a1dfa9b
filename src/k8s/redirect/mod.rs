//! Hands a machine's TCP to its sidecar: an nf_tables table `weft`, written to the kernel over netlink.
//!
//! Inbound connections go to the sidecar's inbound port, outbound ones to its outbound port; both keep their original
//! address for the sidecar to read. The table is replaced whole and in one step, so applying twice is applying once,
//! and no connection ever meets half of it. Needs `CAP_NET_ADMIN` and nothing else: no `nft`, no shell.
//!
//! Connections that are open when a table comes or goes may be cut; it belongs before the application's start.

mod expression;
mod kernel;
mod loopback;
mod message;
mod plan;
mod privilege;
mod rule;
mod socket;
mod spelling;
mod table;

pub use plan::{MOST_EXCLUSIONS, Plan};
pub use rule::{Interface, Ports, User};

use kernel::Kernel;
use loopback::Ipv6;
use table::Table;

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error(
        "this process lacks CAP_NET_ADMIN: the container must add it, and a user other than root needs it on the file \
         as well (`setcap cap_net_admin+p weft`)"
    )]
    Privilege,
    /// The kernel, or its modules, cannot do it.
    #[error(
        "this kernel has no {what}: load the module `{module}` on the node, or take a kernel that has it"
    )]
    Missing {
        what: &'static str,
        module: &'static str,
    },
    #[error("there is no table `weft`: nothing is redirected")]
    Absent,
    #[error(
        "{given} exclusions are given; {MOST_EXCLUSIONS} are the most, because every new connection passes them all"
    )]
    TooMany { given: usize },
    #[error("port {0} cannot be inbound and outbound at once")]
    OnePort(u16),
    #[error("the kernel refused to {doing}")]
    Kernel {
        doing: &'static str,
        #[source]
        cause: std::io::Error,
    },
    /// Neither refused nor understood: another program, or another kernel than we know.
    #[error("the kernel's answer cannot be read: {0}")]
    Garbled(&'static str),
}

/// Writes the table in place of one that was there, and says what it wrote.
pub fn apply(plan: &Plan) -> Result<String, Refused> {
    let table = plan.table()?;
    privilege::raise()?;
    // First: without it the table would send IPv6 to a sidecar that cannot answer for the caller.
    let ipv6 = loopback::add()?;
    let replaced = Kernel::open().and_then(|kernel| kernel.replace(&table));
    if replaced.is_err() && ipv6 == Ipv6::New {
        // Why the table is refused says more than what may go wrong here.
        let _ = loopback::remove();
    }
    replaced?;
    let only = match ipv6 {
        Ipv6::New | Ipv6::Known => "",
        Ipv6::Off => "\nIPv6 is switched off here: there is only IPv4 to redirect.\n",
        Ipv6::Missing => {
            "\nThis kernel has no IPv6 (module `ipv6`): there is only IPv4 to redirect.\n"
        }
    };
    Ok(format!("{table}{only}"))
}

/// Says what [`apply`] would write, and touches nothing; needs no privilege.
pub fn describe(plan: &Plan) -> Result<String, Refused> {
    Ok(plan.table()?.to_string())
}

/// Takes the table away; false where there was none.
pub fn remove() -> Result<bool, Refused> {
    privilege::raise()?;
    let removed = Kernel::open()?.remove()?;
    loopback::remove()?;
    Ok(removed)
}

/// Says what stands in the kernel, with the connections that each redirection took so far.
pub fn show() -> Result<String, Refused> {
    privilege::raise()?;
    let table: Table<rule::Found> = Kernel::open()?.read()?;
    Ok(table.to_string())
}
