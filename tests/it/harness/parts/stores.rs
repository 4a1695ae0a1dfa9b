//! What speaks other protocols than HTTP: Redis, PostgreSQL, MariaDB, NATS, SMTP, Thrift; each a real server, and a real client.

use std::{
    ffi::OsStr,
    fs,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use tempfile::TempDir;

use super::{
    super::wait_until, PARTS, Running, cached, on_a_free_port, output, program, python, script,
    spawn,
};

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

/// A running server with an empty store.
pub struct Store {
    _running: Running,
    _folder: TempDir,
    address: SocketAddr,
}

impl Store {
    /// On a free port of loopback.
    pub fn start(kind: Kind) -> Self {
        let folder = prepared(kind);
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let (running, port) = on_a_free_port(|port| serve(kind, folder.path(), at(port)));
        Store {
            _running: running,
            _folder: folder,
            address: at(port),
        }
    }

    /// At an address of our choice, in a namespace that has it and where nobody else takes it.
    pub fn at(kind: Kind, address: SocketAddr) -> Self {
        let folder = prepared(kind);
        let running = serve(kind, folder.path(), address);
        wait_until("a server to listen", || TcpStream::connect(address).is_ok());
        Store {
            _running: running,
            _folder: folder,
            address,
        }
    }

    pub fn address(&self) -> String {
        self.address.to_string()
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }
}

fn prepared(kind: Kind) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    match kind {
        Kind::Postgres => initdb(folder.path()),
        Kind::Mysql => bootstrap(folder.path()),
        Kind::Redis | Kind::Nats | Kind::Smtp | Kind::Thrift => {}
    }
    folder
}

fn serve(kind: Kind, folder: &Path, address: SocketAddr) -> Running {
    let (host, port) = (address.ip().to_string(), address.port().to_string());
    let mut command;
    let install = match kind {
        Kind::Redis => {
            command = Command::new(program("redis-server"));
            command.args(["--bind", &host, "--port", &port, "--save", ""]);
            "apt-get install redis-server"
        }
        Kind::Postgres => {
            command = postgres("postgres", folder);
            command.args(["-h", &host, "-p", &port, "-c", "fsync=off", "-k"]);
            command.arg(folder).arg("-D").arg(folder.join("data"));
            POSTGRES
        }
        Kind::Mysql => {
            command = mariadbd(folder);
            command.args(["--bind-address", &host, "--port", &port]);
            command.args(["--socket=socket", "--skip-name-resolve"]);
            MARIADB
        }
        Kind::Nats => {
            command = Command::new(cached("python/bin/nats-server"));
            command.args(["-a", &host, "-p", &port]);
            PARTS
        }
        Kind::Smtp | Kind::Thrift => {
            command = Command::new(python());
            command.arg(script(&format!("{}_server.py", kind.word())));
            command.args([host, port]);
            PARTS
        }
    };
    command.current_dir(folder).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(log(folder));
    spawn(&mut command, install)
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
    // Sidecars call from 127.0.0.6.
    sql += "\nupdate global_priv set host = '%' where host = '127.0.0.1';\n";
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
