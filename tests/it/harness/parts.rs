//! Clients and servers that no one here wrote: nginx, nghttp2's tools, curl, Node's http, Python's grpcio; TLS peers in
//! `secure`, the Workload API and go-spiffe in `spiffe`, other protocols' servers in `stores`, whole suites in `suites`.
//!
//! Each runs on a free port and ends with its handle. One that is missing fails the test with what installs it.

mod secure;
mod spiffe;
mod stores;
mod suites;

use std::{
    env, fs,
    io::{BufRead, BufReader, Read},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex, OnceLock},
    thread,
};

use serde_json::Value;
use tempfile::TempDir;

use super::{free_port, wait_for};

pub use secure::{Envoy, OpensslServer, PythonServer, Speaks, openssl_client, python_tls_call};
pub use spiffe::{Offers, SpiffeServer, Told, WorkloadApi, spiffe_post};
pub use stores::{Kind, Store, converse};
pub use suites::{
    AutobahnCase, Browser, GrpcInteropServer, WebSocketServer, autobahn, autobahn_cases,
    grpc_interop, h2spec, websocket_conversation,
};

/// A child process that ends with its handle.
struct Running(Child);

impl Running {
    fn stop(&mut self) {
        // An error says that it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    /// What it prints from now on, line by line; its output must be piped.
    fn lines(&mut self) -> Arc<Mutex<Vec<String>>> {
        let lines = Arc::<Mutex<Vec<String>>>::default();
        let (kept, output) = (Arc::clone(&lines), self.0.stdout.take().expect("piped"));
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                kept.lock().expect("no panic here").push(line);
            }
        });
        lines
    }

    /// What it says until it ends by itself; killed at the harness's deadline. Both outputs must be piped.
    fn output(mut self) -> Output {
        fn all(mut from: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
            thread::spawn(move || {
                let mut read = Vec::new();
                // A read that fails leaves what came before it.
                let _ = from.read_to_end(&mut read);
                read
            })
        }
        let stdout = all(self.0.stdout.take().expect("piped"));
        let stderr = all(self.0.stderr.take().expect("piped"));
        let status = wait_for("a program to end", || {
            self.0.try_wait().expect("our own child")
        });
        Output {
            status,
            stdout: stdout.join().expect("no panic here"),
            stderr: stderr.join().expect("no panic here"),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

/// How often a program may lose its port to another before we give up.
const PORT_TRIES: usize = 5;

fn spawn(command: &mut Command, install: &str) -> Running {
    match command.spawn() {
        Ok(child) => Running(child),
        Err(error) => missing(command, install, &error),
    }
}

fn output(command: &mut Command, install: &str) -> Output {
    match command.stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(error) => missing(command, install, &error),
    }
}

fn missing(command: &Command, install: &str, error: &std::io::Error) -> ! {
    let program = command.get_program().to_string_lossy();
    panic!("{program}: {error}; install it with `{install}` (`make test` does)")
}

/// Where Debian keeps what only root usually calls.
pub fn program(name: &str) -> PathBuf {
    let path = env::var_os("PATH").unwrap_or_default();
    let extra = ["/usr/sbin".into(), "/usr/local/sbin".into()];
    env::split_paths(&path)
        .chain(extra)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .unwrap_or_else(|| name.into())
}

/// Starts a server that is told its port; again with another port when it ends at once.
fn on_a_free_port(mut start: impl FnMut(u16) -> Running) -> (Running, u16) {
    for _ in 0..PORT_TRIES {
        let port = free_port();
        let mut running = start(port);
        let up = wait_for("a server to listen", || {
            if running.0.try_wait().expect("our own child").is_some() {
                return Some(false);
            }
            TcpStream::connect(("127.0.0.1", port)).ok().map(|_| true)
        });
        if up {
            return (running, port);
        }
    }
    panic!("the server ended at once, {PORT_TRIES} times");
}

/// Starts a server that prints its port as its first line.
fn that_tells_its_port(command: &mut Command, install: &str) -> (Running, u16) {
    let mut running = spawn(command.stdout(Stdio::piped()), install);
    let stdout = running.0.stdout.take().expect("piped");
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line).expect("text");
    let port = line.trim().parse();
    (
        running,
        port.unwrap_or_else(|_| panic!("no port but {line:?}")),
    )
}

/// Where a script of `tests/it/parts` stands.
fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/it/parts")
        .join(name)
}

const NGINX: &str = "apt-get install nginx";
const NGHTTP2: &str = "apt-get install nghttp2-client nghttp2-server";
const CURL: &str = "apt-get install curl";
const NODE: &str = "apt-get install nodejs";

/// nginx with one server block.
pub struct Nginx {
    _running: Running,
    folder: TempDir,
    port: u16,
}

impl Nginx {
    /// `server` goes into the server block; files put into [`Nginx::root`] are served where it says nothing else.
    ///
    /// `http` goes beside it: `upstream` blocks, maps.
    pub fn start(server: &str, http: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let root = folder.path().join("root");
        fs::create_dir(&root).expect("a new folder");
        let (running, port) = on_a_free_port(|port| {
            let path = folder.path().display();
            let text = format!(
                "daemon off; master_process off; pid {path}/pid; error_log {path}/error.log;\n\
                 events {{ worker_connections 512; }}\n\
                 http {{\n\
                   access_log {path}/access.log; client_body_temp_path {path}/body; proxy_temp_path {path}/proxy;\n\
                   fastcgi_temp_path {path}/f; uwsgi_temp_path {path}/u; scgi_temp_path {path}/s;\n\
                   {http}\n\
                   server {{ listen 127.0.0.1:{port}; root {path}/root; {server} }}\n\
                 }}\n"
            );
            let conf = folder.path().join("nginx.conf");
            fs::write(&conf, text).expect("the folder can be written");
            let mut command = Command::new(program("nginx"));
            command.arg("-c").arg(&conf).arg("-p").arg(folder.path());
            command.arg("-e").arg(folder.path().join("error.log"));
            spawn(command.stdin(Stdio::null()), NGINX)
        });
        Nginx {
            _running: running,
            folder,
            port,
        }
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    /// Its access log so far.
    pub fn access_log(&self) -> String {
        fs::read_to_string(self.folder.path().join("access.log")).unwrap_or_default()
    }

    pub fn error_log(&self) -> String {
        fs::read_to_string(self.folder.path().join("error.log")).unwrap_or_default()
    }
}

/// nghttpd: nghttp2's server, HTTP/2 with prior knowledge.
pub struct Nghttpd {
    _running: Running,
    folder: TempDir,
    port: u16,
}

impl Nghttpd {
    /// Serves [`Nghttpd::root`]; `arguments` as `-m 10` for ten streams at a time, `--echo-upload`.
    pub fn start(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (running, port) = on_a_free_port(|port| {
            let mut command = Command::new(program("nghttpd"));
            command
                .arg("--no-tls")
                .args(["-a", "127.0.0.1", "-d"])
                .arg(folder.path());
            command.args(arguments).arg(port.to_string());
            spawn(command.stdin(Stdio::null()).stdout(Stdio::null()), NGHTTP2)
        });
        Nghttpd {
            _running: running,
            folder,
            port,
        }
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn root(&self) -> &Path {
        self.folder.path()
    }
}

/// nghttp: nghttp2's client.
pub fn nghttp(arguments: &[&str]) -> Output {
    output(Command::new(program("nghttp")).args(arguments), NGHTTP2)
}

/// h2load: nghttp2's load generator, HTTP/2 and (`--h1`) HTTP/1.1.
pub fn h2load(arguments: &[&str]) -> Output {
    output(Command::new(program("h2load")).args(arguments), NGHTTP2)
}

/// curl, silent but for errors, without the user's own settings.
pub fn curl(arguments: &[&str]) -> Output {
    let mut command = Command::new(program("curl"));
    for name in ["http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY"] {
        command.env_remove(name);
    }
    output(
        command
            .args(["-q", "-sS", "--max-time", "20"])
            .args(arguments),
        CURL,
    )
}

/// A server on Node's http that tells each request back as JSON: method, url, headers, body, trailers.
pub struct NodeServer {
    _running: Running,
    port: u16,
}

impl NodeServer {
    pub fn start() -> Self {
        let mut command = Command::new(program("node"));
        let (running, port) = that_tells_its_port(command.arg(script("echo.js")), NODE);
        NodeServer {
            _running: running,
            port,
        }
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

/// Calls with Node's http client on kept-alive connections: `count` requests, so many at a time.
///
/// Returns each answer as `{status, headers, body}`, or `{error}`, in the order of the requests.
pub fn node_calls(
    address: &str,
    host: &str,
    path: &str,
    count: usize,
    at_once: usize,
) -> Vec<Value> {
    let (count, at_once) = (count.to_string(), at_once.to_string());
    let mut command = Command::new(program("node"));
    command
        .arg(script("calls.js"))
        .args([address, host, path, &count, &at_once]);
    let output = output(&mut command, NODE);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    serde_json::from_slice(&output.stdout).expect("the script prints JSON")
}

/// What fetches and builds the parts that Debian does not have.
const PARTS: &str = "tests/install ~/.cache/weft";

/// A file that `tests/install` put into the cache: `$WEFT_TEST_CACHE`, or where `make test` keeps it.
fn cached(name: &str) -> PathBuf {
    if let Some(cache) = env::var_os("WEFT_TEST_CACHE") {
        return Path::new(&cache).join(name);
    }
    let home = || Path::new(&env::var_os("HOME").unwrap_or_default()).join(".cache");
    let cache = env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from);
    cache.join("weft").join(name)
}

/// The Python that has what `tests/parts/requirements.txt` names.
fn python() -> PathBuf {
    cached("python/bin/python")
}

/// The shim under libc's file calls (`tests/shim/fault.c`), to be preloaded; compiled once a run.
pub fn fault_shim() -> &'static Path {
    static SHIM: OnceLock<PathBuf> = OnceLock::new();
    SHIM.get_or_init(|| {
        let name = format!("fault-it-{}.so", std::process::id());
        let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/shim/fault.c");
        let mut compile = Command::new("cc");
        compile.args(["-shared", "-fPIC", "-O1", "-o"]);
        compile.args([&library, &source]);
        let compiled = output(&mut compile, "apt-get install gcc");
        let stderr = String::from_utf8_lossy(&compiled.stderr);
        assert!(compiled.status.success(), "{stderr}");
        library
    })
}

/// Python's grpcio, serving `/weft.test.Echo/{Unary,ClientStream,ServerStream,BiDi}` on bytes.
///
/// Unary says back what came; ClientStream joins the messages with `,`; ServerStream splits at `,`; BiDi says each
/// back at once. The metadata `x-fail: 14` makes it fail with that code; with `x-fail-after: 1`, after one message.
pub struct GrpcServer {
    _running: Running,
    port: u16,
}

impl GrpcServer {
    pub fn start() -> Self {
        let mut command = Command::new(python());
        let (running, port) = that_tells_its_port(command.arg(script("grpc_server.py")), PARTS);
        GrpcServer {
            _running: running,
            port,
        }
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

/// One call of Python's grpcio client.
#[derive(Debug, Clone)]
pub struct GrpcCall<'a> {
    /// Unary, ClientStream, ServerStream or BiDi; or a whole method as `/mail.v1.Mailer/Send`, called as unary.
    pub method: &'a str,
    pub authority: &'a str,
    pub messages: &'a [&'a str],
    pub metadata: &'a [(&'a str, &'a str)],
    /// Seconds; none is no deadline.
    pub deadline: Option<f64>,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct GrpcAnswer {
    pub code: u16,
    pub details: String,
    pub messages: Vec<String>,
    pub initial: Vec<(String, String)>,
    pub trailing: Vec<(String, String)>,
}

impl GrpcAnswer {
    pub fn metadata(&self, name: &str) -> Option<&str> {
        let mut all = self.initial.iter().chain(&self.trailing);
        all.find(|(found, _)| found == name)
            .map(|(_, value)| value.as_str())
    }
}

/// Calls by grpcio at `address`; BiDi sends a message only when the one before came back.
pub fn grpc(address: &str, call: &GrpcCall<'_>) -> GrpcAnswer {
    let told = serde_json::json!({
        "address": address, "method": call.method, "authority": call.authority, "messages": call.messages,
        "metadata": call.metadata, "deadline": call.deadline,
    });
    let mut command = Command::new(python());
    let output = output(
        command.arg(script("grpc_client.py")).arg(told.to_string()),
        PARTS,
    );
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let answer: Value = serde_json::from_slice(&output.stdout).expect("the script prints JSON");
    let pairs = |name: &str| serde_json::from_value(answer[name].clone()).expect("pairs");
    GrpcAnswer {
        code: answer["code"]
            .as_u64()
            .and_then(|code| u16::try_from(code).ok())
            .expect("a code"),
        details: answer["details"].as_str().unwrap_or_default().to_owned(),
        messages: serde_json::from_value(answer["messages"].clone()).expect("texts"),
        initial: pairs("initial"),
        trailing: pairs("trailing"),
    }
}
