//! What speaks other protocols than HTTP: Redis, PostgreSQL, NATS, SMTP, Thrift; each a real server, and a real client.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use tempfile::TempDir;

use super::{PARTS, Running, cached, on_a_free_port, output, program, python, script, spawn};

/// Which server. A client of the same kind speaks to it by [`converse`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The client speaks first, in text.
    Redis,
    /// The client speaks first: `SSLRequest`, then its startup.
    Postgres,
    /// The server speaks first.
    Nats,
    /// The server speaks first.
    Smtp,
    /// The client speaks first, in bytes.
    Thrift,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Kind::Redis => "redis",
            Kind::Postgres => "postgres",
            Kind::Nats => "nats",
            Kind::Smtp => "smtp",
            Kind::Thrift => "thrift",
        }
    }
}

/// A running server on a free port of loopback, with an empty store.
pub struct Store {
    _running: Running,
    _folder: TempDir,
    port: u16,
}

impl Store {
    pub fn start(kind: Kind) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path();
        if kind == Kind::Postgres {
            initdb(path);
        }
        let (running, port) = on_a_free_port(|port| {
            let (mut command, install) = serving(kind, path, port);
            command.current_dir(path).stdin(Stdio::null());
            command.stdout(Stdio::null()).stderr(log(path));
            spawn(&mut command, install)
        });
        Store {
            _running: running,
            _folder: folder,
            port,
        }
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }
}

fn serving(kind: Kind, folder: &Path, port: u16) -> (Command, &'static str) {
    let port = port.to_string();
    let mut command;
    let install = match kind {
        Kind::Redis => {
            command = Command::new(program("redis-server"));
            command.args(["--bind", "127.0.0.1", "--port", &port, "--save", ""]);
            "apt-get install redis-server"
        }
        Kind::Postgres => {
            command = postgres("postgres", folder);
            command.args(["-h", "127.0.0.1", "-p", &port, "-c", "fsync=off", "-k"]);
            command.arg(folder).arg("-D").arg(folder.join("data"));
            POSTGRES
        }
        Kind::Nats => {
            command = Command::new(cached("python/bin/nats-server"));
            command.args(["-a", "127.0.0.1", "-p", &port]);
            PARTS
        }
        Kind::Smtp | Kind::Thrift => {
            command = Command::new(python());
            command.arg(script(&format!("{}_server.py", kind.word())));
            command.arg(port);
            PARTS
        }
    };
    (command, install)
}

const POSTGRES: &str = "apt-get install postgresql";

/// PostgreSQL refuses root, so root starts it as nobody.
fn postgres(name: &str, folder: &Path) -> Command {
    const NOBODY: u32 = 65534;
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let found = versions
        .flatten()
        .map(|version| version.path().join("bin").join(name))
        .find(|path| path.is_file());
    let mut command = Command::new(found.unwrap_or_else(|| PathBuf::from(name)));
    if rustix::process::geteuid().is_root() {
        chown(folder, Some(NOBODY), Some(NOBODY)).expect("root may");
        command.uid(NOBODY).gid(NOBODY);
    }
    command.current_dir(folder);
    command
}

fn initdb(folder: &Path) {
    let mut command = postgres("initdb", folder);
    command.args(["-U", "postgres", "-A", "trust", "--no-sync", "-D", "data"]);
    let done = output(&mut command, POSTGRES);
    let stderr = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{stderr}");
}

fn log(folder: &Path) -> Stdio {
    let file = fs::File::create(folder.join("log"));
    file.expect("the folder can be written").into()
}

/// A conversation of that kind's own client with the server behind `address`: some kilobytes there and back again.
///
/// Returns what the client has to tell: `ok` and what it read back, or the error it met.
pub fn converse(kind: Kind, address: &str) -> String {
    converse_with(kind, address, [""; 0])
}

/// The same with arguments of the script's own.
pub fn converse_with(
    kind: Kind,
    address: &str,
    arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
) -> String {
    let mut command = Command::new(python());
    let script = script(&format!("{}_client.py", kind.word()));
    command.arg(script).arg(address).args(arguments);
    let output = output(&mut command, PARTS);
    let said = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&said).trim().to_owned()
}
