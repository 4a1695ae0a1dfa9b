//! The commands, one file each. A command returns its exit code: 0 done, 1 it failed, 2 it was asked wrongly.

mod certs;
mod check;
mod completions;
mod config;
mod demo;
mod dlq;
mod explain;
mod outbox;
mod place;
mod redirect;
mod run;
mod schema;
mod sidecar;
mod table;
mod version;

use std::{io::Write, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

use crate::config::{Config, Diagnostics, Loaded};

/// weft: a sidecar proxy that forwards a call now, or keeps it, durably, and delivers it later.
#[derive(Debug, Parser)]
#[command(name = "weft", version, about, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Run),
    Check(check::Check),
    Explain(explain::Explain),
    Config(config::Print),
    Outbox(outbox::Outbox),
    Dlq(dlq::Dlq),
    Certs(certs::Certs),
    Redirect(redirect::Redirect),
    Schema(schema::Print),
    Version(version::Print),
    Completions(completions::Print),
    /// Shows the main job on this machine: two small services, their sidecars, calls now and calls kept for later.
    Demo {
        /// Ends after the last act instead of staying up.
        #[arg(long)]
        once: bool,
    },
    /// The demo's own service.
    #[command(hide = true)]
    DemoService {
        replica: usize,
        address: std::net::SocketAddr,
        fails: PathBuf,
    },
}

/// Where the routing file is.
#[derive(Debug, Args)]
struct File {
    /// The routing file.
    #[arg(
        short = 'c',
        global = true,
        long = "config",
        value_name = "FILE",
        default_value = "weft.yaml"
    )]
    config: PathBuf,
}

impl File {
    fn load(&self) -> anyhow::Result<Loaded> {
        Ok(Config::load(&self.config)?)
    }
}

/// Reads the arguments and does what they say.
pub fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Run(command) => command.run(),
        Command::Check(command) => command.run(),
        Command::Explain(command) => command.run(),
        Command::Config(command) => command.run(),
        Command::Outbox(command) => command.run(),
        Command::Dlq(command) => command.run(),
        Command::Certs(command) => command.run(),
        Command::Redirect(command) => command.run(),
        Command::Schema(command) => command.run(),
        Command::Version(command) => command.run(),
        Command::Completions(command) => command.run(),
        Command::Demo { once } => demo::play(once).map(|()| ExitCode::SUCCESS),
        Command::DemoService {
            replica,
            address,
            fails,
        } => demo::serve(replica, address, fails).map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        // Diagnostics are whole sentences with their place already.
        match error.downcast_ref::<Diagnostics>() {
            Some(diagnostics) => {
                eprintln!("{diagnostics}");
                ExitCode::from(2)
            }
            None => {
                eprintln!("weft: {error:#}");
                ExitCode::FAILURE
            }
        }
    })
}

/// Prints what a command found. A reader that has seen enough (`| head`) is no error.
fn print(text: &str) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_arguments_make_sense() {
        super::Arguments::command().debug_assert();
    }
}
