//! `weft redirect`: hands this machine's TCP to the sidecar, and shows and takes back what it did.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};

use super::print;
use crate::{
    config::Config,
    k8s::redirect::{self, Interface, Plan, Ports, User},
    units::{Cidr, Listen},
};

/// Redirects the TCP of a pod, or of a network namespace, to its sidecar. Needs CAP_NET_ADMIN.
#[derive(Debug, Args)]
pub(super) struct Redirect {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Writes the rules, in place of those that are there, and says them.
    Apply(Box<Apply>),
    /// Takes the rules away.
    Remove {
        /// Only says what would be done.
        #[arg(long)]
        dry_run: bool,
    },
    /// Says the rules that are in force, and how many connections they took.
    Show,
}

#[derive(Debug, Args)]
struct Apply {
    /// Takes the sidecar's ports from this routing file.
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    config: Option<PathBuf>,
    /// The user that the sidecar runs as, and no one else: its connections leave as they are.
    #[arg(long, value_name = "UID", default_value_t = 15001)]
    user: u32,
    /// The sidecar's port for what comes in [default: `inbound.listen` of the file, 15006].
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    inbound_port: Option<u16>,
    /// The sidecar's port for what leaves [default: `outbound.listen` of the file, 15001].
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    outbound_port: Option<u16>,
    /// Leaves inbound connections to these alone: `22,9000-9100`. The sidecar's admin and metrics ports always are.
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    exclude_inbound_ports: Vec<Ports>,
    /// Leaves outbound connections to these ports alone.
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    exclude_outbound_ports: Vec<Ports>,
    /// Leaves outbound connections to these addresses alone: `10.1.0.0/16,fd00::7`.
    #[arg(long, value_name = "RANGES", value_delimiter = ',')]
    exclude_outbound_ranges: Vec<Cidr>,
    /// Leaves alone what comes in by these: `docker0`.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    exclude_interfaces: Vec<Interface>,
    /// Only says the rules.
    #[arg(long)]
    dry_run: bool,
}

impl Redirect {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.verb {
            Verb::Apply(apply) => {
                let plan = apply.plan()?;
                let words = match apply.dry_run {
                    true => redirect::describe(&plan)?,
                    false => redirect::apply(&plan)?,
                };
                print(&words)
            }
            Verb::Remove { dry_run: true } => {
                print("would remove the table `weft`, and ::6 from lo\n")
            }
            Verb::Remove { dry_run: false } => print(match redirect::remove()? {
                true => "removed: nothing is redirected any more\n",
                false => "there was no table `weft`: nothing is redirected\n",
            }),
            Verb::Show => print(&redirect::show()?),
        }
    }
}

impl Apply {
    fn plan(&self) -> anyhow::Result<Plan> {
        let config = match &self.config {
            Some(file) => Config::load(file)?.config,
            None => Config::default(),
        };
        let (admin, metrics) = (config.admin.listen.port(), config.admin.metrics.port());
        let mut inbound_ports = vec![Ports::one(admin), Ports::one(metrics)];
        // Ports of the application that have a listener of ours already.
        let listeners = config.inbound.ports.values();
        let listeners = listeners.flat_map(|port| port.listen.addresses());
        inbound_ports.extend(listeners.map(|own| Ports::one(own.port())));
        inbound_ports.extend(&self.exclude_inbound_ports);
        Ok(Plan {
            sidecar: User(self.user),
            inbound: match self.inbound_port {
                Some(port) => port,
                None => port_of(&config.inbound.listen).context("inbound.listen")?,
            },
            outbound: match self.outbound_port {
                Some(port) => port,
                None => port_of(&config.outbound.listen).context("outbound.listen")?,
            },
            inbound_ports,
            outbound_ports: self.exclude_outbound_ports.clone(),
            outbound_ranges: self.exclude_outbound_ranges.clone(),
            interfaces: self.exclude_interfaces.clone(),
        })
    }
}

/// The one port of all addresses: connections of both families are redirected to it.
fn port_of(listen: &Listen) -> anyhow::Result<u16> {
    let mut ports = listen.addresses().map(|address: SocketAddr| address.port());
    let Some(port) = ports.next().filter(|port| *port != 0) else {
        bail!("there is no port to redirect to");
    };
    match ports.all(|other| other == port) {
        true => Ok(port),
        false => bail!("its addresses have different ports: traffic can be redirected to one"),
    }
}
