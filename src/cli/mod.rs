//! One file a command.

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::app;

mod demo;

/// weft: a sidecar proxy that forwards a call now, or keeps it, durably, and delivers it later.
#[derive(Debug, Parser)]
#[command(name = "weft", version, about, max_term_width = 100)]
struct Arguments {
    /// What is logged: error, warn, info, debug or trace, or a list of `target=level`.
    #[arg(long, global = true, env = "WEFT_LOG", default_value = "info")]
    log_level: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the sidecar.
    Run {
        /// The routing file.
        #[arg(short, long, default_value = "weft.yaml")]
        config: PathBuf,
    },
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

/// Reads the arguments and does what they say.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.command {
        Command::Run { config } => app::run(&config, &arguments.log_level),
        Command::Demo { once } => demo::play(once),
        Command::DemoService {
            replica,
            address,
            fails,
        } => demo::serve(replica, address, fails),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weft: {error:#}");
            ExitCode::FAILURE
        }
    }
}
