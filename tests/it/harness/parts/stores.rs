//! What speaks other protocols than HTTP: Redis, PostgreSQL, MariaDB, NATS, SMTP, Thrift; each a real server, and a real client.

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
    /// The server speaks first. MariaDB, by MySQL's protocol.
    Mysql,
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
            Kind::Mysql => "mysql",
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
        match kind {
            Kind::Postgres => initdb(path),
            Kind::Mysql => bootstrap(path),
            Kind::Redis | Kind::Nats | Kind::Smtp | Kind::Thrift => {}
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
        Kind::Mysql => {
            command = mariadbd(folder);
            command.args(["--bind-address=127.0.0.1", "--port", &port]);
            command.args(["--socket=socket", "--skip-name-resolve"]);
            MARIADB
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

const MARIADB: &str = "apt-get install mariadb-server-core";

/// MariaDB's server alone, without the programs around it. It refuses root unless root is named.
fn mariadbd(folder: &Path) -> Command {
    let mut command = Command::new(program("mariadbd"));
    command.args(["--no-defaults", "--user=root", "--innodb-log-file-size=4M"]);
    command.arg("--datadir").arg(folder.join("data"));
    command.current_dir(folder);
    command
}

/// Makes the tables of its users and rights: what `mariadb-install-db` does, which wants the client installed too.
fn bootstrap(folder: &Path) {
    const TABLES: [&str; 2] = ["mysql_system_tables.sql", "mysql_system_tables_data.sql"];
    let mut sql = "create database mysql;\nuse mysql;\nset @auth_root_socket = null;\n".to_owned();
    for name in TABLES {
        let path = Path::new("/usr/share/mysql").join(name);
        let text = fs::read_to_string(path);
        sql += &text.unwrap_or_else(|error| panic!("{name}: {error}; install it with `{MARIADB}`"));
    }
    let told = folder.join("bootstrap.sql");
    fs::create_dir(folder.join("data")).expect("a new folder");
    fs::write(&told, sql).expect("the folder can be written");
    let mut command = mariadbd(folder);
    command.arg("--bootstrap");
    command.stdin(fs::File::open(told).expect("just written"));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let done = spawn(&mut command, MARIADB).output();
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
