//! The Workload API, and HTTP peers on go-spiffe (`tests/parts`).

use std::{
    fs,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
};

use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;

use super::{
    super::{Authority, wait_until},
    PARTS, Running, cached, output, spawn, that_tells_its_port,
};

/// A Workload API with a socket a workload, on go-spiffe's stubs. Not SPIRE.
pub struct WorkloadApi {
    running: Running,
    folder: TempDir,
    said: Arc<Mutex<Vec<String>>>,
    arguments: Vec<String>,
    workloads: Vec<String>,
}

/// The file with the roots of the trust domain that a [`WorkloadApi`] is federated with.
const PARTNER: &str = "partner.pem";

impl WorkloadApi {
    /// The trust domain is `cluster.local`; a workload is a service account of the namespace `shop`.
    ///
    /// Certificates live so many seconds and are replaced at half of it.
    pub fn start(lifetime: u32, workloads: &[&str]) -> Self {
        WorkloadApi::serve(folder(), vec![format!("-lifetime={lifetime}s")], workloads)
    }

    /// One that signs with `own`, whose trust domain is `cluster.local`, and hands out the root of `partner` as well.
    pub fn federated(own: &Authority, partner: &Authority, workloads: &[&str]) -> Self {
        let folder = folder();
        let write = |name, text: &str| {
            fs::write(folder.path().join(name), text).expect("the folder can be written");
        };
        write("root.pem", &own.root_and_key());
        write(PARTNER, partner.root());
        let arguments = vec![
            "-root=root.pem".to_owned(),
            format!("-federate={PARTNER}={}", partner.domain()),
        ];
        WorkloadApi::serve(folder, arguments, workloads)
    }

    fn serve(folder: TempDir, arguments: Vec<String>, workloads: &[&str]) -> Self {
        let workloads: Vec<String> = workloads.iter().map(|&name| name.to_owned()).collect();
        let (running, said) = serve(&folder, &arguments, &workloads);
        let api = WorkloadApi {
            running,
            folder,
            said,
            arguments,
            workloads,
        };
        api.wait_for("serving");
        api
    }

    /// Ends it. Its sockets stay as files that nobody serves.
    pub fn stop(&mut self) {
        self.running.stop();
    }

    /// A new process at the same sockets, with another authority.
    pub fn start_again(&mut self) {
        self.stop();
        for name in &self.workloads {
            let _ = fs::remove_file(self.socket(name));
        }
        (self.running, self.said) = serve(&self.folder, &self.arguments, &self.workloads);
        self.wait_for("serving");
    }

    /// The socket's path.
    pub fn socket(&self, workload: &str) -> String {
        let path = self.folder.path().join(format!("{workload}.sock"));
        path.display().to_string()
    }

    /// The value of `identity:` in a routing file, on one line.
    pub fn yaml(&self, workload: &str) -> String {
        format!("{{ workloadApi: \"unix://{}\" }}", self.socket(workload))
    }

    pub fn id(&self, workload: &str) -> String {
        format!("spiffe://cluster.local/ns/shop/sa/{workload}")
    }

    /// Another root: trusted beside the old one at once, signing later, alone at last.
    pub fn rotate_the_root(&self) {
        self.signal(Signal::HUP);
        self.wait_for("both roots are trusted");
    }

    /// Waits until the root before [`WorkloadApi::rotate_the_root`] is no longer in anyone's bundle.
    pub fn wait_until_the_old_root_is_gone(&self) {
        self.wait_for("the old root is gone");
    }

    /// Revokes every certificate issued so far; each workload gets the list and a new certificate.
    pub fn revoke_all(&self) {
        self.signal(Signal::USR1);
        self.wait_for("revoked");
    }

    /// Hands out these roots of the partner instead, or none of them any more.
    pub fn federates(&self, roots: Option<&str>) {
        const READ: &str = "the federated bundles are read";
        let file = self.folder.path().join(PARTNER);
        match roots {
            Some(roots) => fs::write(file, roots),
            None => fs::remove_file(file),
        }
        .expect("our own folder");
        let before = self.times(READ);
        self.signal(Signal::USR2);
        wait_until(READ, || self.times(READ) > before);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.running.0), signal).expect("it runs");
    }

    fn wait_for(&self, step: &str) {
        wait_until(step, || self.times(step) > 0);
    }

    fn times(&self, step: &str) -> usize {
        let said = self.said.lock().expect("no panic here");
        said.iter().filter(|line| *line == step).count()
    }
}

fn folder() -> TempDir {
    tempfile::Builder::new()
        .prefix("weft-workload-api-")
        .tempdir()
        .expect("a temporary folder")
}

fn serve(
    folder: &TempDir,
    arguments: &[String],
    workloads: &[String],
) -> (Running, Arc<Mutex<Vec<String>>>) {
    let mut command = Command::new(cached("bin/workload-api"));
    command.args(arguments);
    for name in workloads {
        command.arg(format!("{name}.sock=/ns/shop/sa/{name}"));
    }
    command.current_dir(folder.path()).stdout(Stdio::piped());
    let mut running = spawn(&mut command, PARTS);
    let said = running.lines();
    (running, said)
}

/// What a peer on go-spiffe saw of an answer, or what came to it.
#[derive(Debug, Deserialize)]
pub struct Told {
    /// Why there is no answer.
    #[serde(default)]
    pub error: String,
    #[serde(default)]
    pub status: u16,
    #[serde(default)]
    pub method: String,
    #[serde(default)]
    pub target: String,
    /// `HTTP/1.1` or `HTTP/2.0`.
    #[serde(default)]
    pub protocol: String,
    /// The other side's SPIFFE id, as go-spiffe has verified it.
    #[serde(default)]
    pub peer: String,
    #[serde(default)]
    pub headers: std::collections::BTreeMap<String, String>,
    pub body: String,
}

impl Told {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// Whether a peer on go-spiffe offers HTTP/2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offers {
    Http1,
    Http2,
}

/// An HTTP server whose mutual TLS is go-spiffe's; it answers every request with what came, as JSON ([`Told`]).
pub struct SpiffeServer {
    _running: Running,
    port: u16,
}

impl SpiffeServer {
    /// Its identity comes from `socket`; it lets in `client` alone.
    pub fn start(socket: &str, client: &str, offers: Offers) -> Self {
        let mut command = Command::new(cached("bin/spiffe-peer"));
        command.args(["serve", "-socket", socket, "-expect", client]);
        if offers == Offers::Http1 {
            command.arg("-http1");
        }
        let (running, port) = that_tells_its_port(&mut command, PARTS);
        SpiffeServer {
            _running: running,
            port,
        }
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

/// One POST with go-spiffe's client to `https://address/path`, whose server must be `server`.
pub fn spiffe_post(
    socket: &str,
    server: &str,
    offers: Offers,
    address: &str,
    path: &str,
    body: &str,
) -> Told {
    let mut command = Command::new(cached("bin/spiffe-peer"));
    command.args(["call", "-socket", socket, "-expect", server]);
    if offers == Offers::Http1 {
        command.arg("-http1");
    }
    command.args(["POST", &format!("https://{address}{path}"), body]);
    let output = output(&mut command, PARTS);
    let stderr = String::from_utf8_lossy(&output.stderr);
    let told: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no JSON: {stderr}"));
    serde_json::from_value(told).expect("as the program's doc says")
}
