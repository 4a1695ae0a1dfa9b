//! Whole suites: h2spec, gRPC's interop cases, Autobahn's WebSocket cases; and WebSocket's peers, a browser among them.

use std::{
    collections::BTreeMap,
    process::{Command, Stdio},
};

use serde::Deserialize;
use tempfile::TempDir;

use super::{
    NODE, PARTS, Running, cached, on_a_free_port, output, program, python, script, spawn,
    that_tells_its_port,
};

/// h2spec against a port that speaks HTTP/2 with prior knowledge. Returns how many cases passed, and which did not.
pub fn h2spec(address: &str, arguments: &[&str]) -> (usize, Vec<String>) {
    let (host, port) = address.rsplit_once(':').expect("an address");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let report = folder.path().join("report.xml");
    let mut command = Command::new(cached("bin/h2spec"));
    command
        .args(["-h", host, "-p", port, "-o", "20", "-j"])
        .arg(&report)
        .args(arguments);
    let output = output(&mut command, PARTS);
    let report = std::fs::read_to_string(report);
    let report = report.unwrap_or_else(|_| String::from_utf8_lossy(&output.stderr).into_owned());
    let mut passed = 0;
    let mut failed = Vec::new();
    // JUnit's XML, one element a case.
    for case in report.split("<testcase").skip(1) {
        let attribute = |name: &str| {
            let from = case.find(&format!("{name}=\""))? + name.len() + 2;
            case[from..].split('"').next()
        };
        let case_of = |name| attribute(name).unwrap_or_default();
        if case.contains("<failure") || case.contains("<error") {
            let (package, name) = (case_of("package"), case_of("classname"));
            failed.push(format!("{package}: {name}"));
        } else if !case.contains("<skipped") {
            passed += 1;
        }
    }
    assert!(passed > 0, "h2spec ran nothing: {report}");
    (passed, failed)
}

/// gRPC's own interop server, on grpc-go.
pub struct GrpcInteropServer {
    _running: Running,
    port: u16,
}

impl GrpcInteropServer {
    pub fn start() -> Self {
        let (running, port) = on_a_free_port(|port| {
            let mut command = Command::new(cached("bin/grpc-interop-server"));
            command.arg(format!("--port={port}"));
            command.stdin(Stdio::null()).stderr(Stdio::null());
            spawn(&mut command, PARTS)
        });
        GrpcInteropServer {
            _running: running,
            port,
        }
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

/// The cases of gRPC's interop suite that need no cloud.
pub const GRPC_CASES: [&str; 18] = [
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "timeout_on_sleeping_server",
    "cancel_after_begin",
    "cancel_after_first_response",
    "status_code_and_message",
    "special_status_message",
    "unimplemented_method",
    "unimplemented_service",
    "custom_metadata",
    "orca_per_rpc",
    "orca_oob",
    "rpc_soak",
    "channel_soak",
];

/// Runs the interop client against `address`, case by case. Returns those that failed, with what the client says.
pub fn grpc_interop(address: &str) -> Vec<String> {
    let (host, port) = address.rsplit_once(':').expect("an address");
    let mut failed = Vec::new();
    for case in GRPC_CASES {
        let mut command = Command::new(cached("bin/grpc-interop-client"));
        command
            .arg(format!("--server_host={host}"))
            .arg(format!("--server_port={port}"))
            .arg(format!("--test_case={case}"));
        if case.starts_with("orca") {
            // The policy by which the client reads the load that a server reports.
            command.arg(
                "--service_config_json={\"loadBalancingConfig\":[{\"test_backend_metrics_load_balancer\":{}}]}",
            );
        }
        if case.ends_with("soak") {
            command.args([
                "--soak_iterations=100",
                "--soak_max_failures=0",
                "--soak_overall_timeout_seconds=60",
                "--soak_per_iteration_max_acceptable_latency_ms=10000",
            ]);
        }
        let output = output(&mut command, PARTS);
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            failed.push(format!("{case}: {}", said.lines().last().unwrap_or("")));
        }
    }
    failed
}

/// What Autobahn says of one case.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct AutobahnCase {
    /// OK, NON-STRICT, INFORMATIONAL, or FAILED.
    pub behaviour: String,
    /// The same of the close at its end.
    pub close: String,
    pub result: String,
}

impl AutobahnCase {
    /// Nothing could be better.
    pub fn is_fine(&self) -> bool {
        self.behaviour == "OK" && self.close == "OK"
    }

    /// `FAILED BY CLIENT` is the case's own doing: it broke the connection before the server could close it.
    pub fn failed(&self) -> bool {
        let closed = matches!(&self.close[..], "OK" | "INFORMATIONAL" | "FAILED BY CLIENT");
        self.behaviour == "FAILED" || !closed
    }
}

/// Autobahn's cases against the WebSocket server that says everything back behind `address`, by their numbers.
pub fn autobahn(address: &str) -> BTreeMap<String, AutobahnCase> {
    autobahn_cases(address, &[])
}

/// Some of them, by their numbers; none says all.
pub fn autobahn_cases(address: &str, numbers: &[String]) -> BTreeMap<String, AutobahnCase> {
    let mut command = Command::new(python());
    let client = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parts/autobahn");
    command
        .arg(client.join("client.py"))
        .arg(cached("python/autobahn"))
        .arg(format!("ws://{address}"))
        .args(numbers);
    let output = output(&mut command, PARTS);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        let stderr = String::from_utf8_lossy(&output.stderr);
        panic!("no report ({error}): {stderr}")
    })
}

/// A WebSocket server that says every message back.
pub struct WebSocketServer {
    _running: Running,
    port: u16,
}

impl WebSocketServer {
    /// On npm's `ws`.
    pub fn node() -> Self {
        let mut command = Command::new(program("node"));
        command.env("NODE_PATH", cached("node/node_modules"));
        command.arg(script("ws_echo.js"));
        Self::told(command, NODE)
    }

    /// On Python's `websockets`.
    pub fn python() -> Self {
        let mut command = Command::new(python());
        command.arg(script("ws_echo.py"));
        Self::told(command, PARTS)
    }

    fn told(mut command: Command, install: &str) -> Self {
        let (running, port) = that_tells_its_port(&mut command, install);
        WebSocketServer {
            _running: running,
            port,
        }
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

/// A conversation by a client that is not ours: `ws` (npm), `websockets` (PyPI). Texts, bytes, a ping, a close with a
/// code. Returns what the client has to tell: `ok` and the close's code, or the error it met.
pub fn websocket_conversation(client: &str, url: &str) -> String {
    let mut command = match client {
        "ws" => {
            let mut command = Command::new(program("node"));
            command.env("NODE_PATH", cached("node/node_modules"));
            command.arg(script("ws_client.js"));
            command
        }
        "websockets" => {
            let mut command = Command::new(python());
            command.arg(script("ws_client.py"));
            command
        }
        other => panic!("no client `{other}`"),
    };
    let output = output(command.arg(url), PARTS);
    let said = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&said).trim().to_owned()
}

const CHROMIUM: &str = "apt-get install chromium";

/// Chromium without a screen, showing one page until it is dropped. What a page has to tell, it must fetch.
pub struct Browser {
    _running: Running,
    _profile: TempDir,
}

impl Browser {
    pub fn open(url: &str) -> Self {
        let profile = tempfile::tempdir().expect("a temporary folder");
        let mut command = Command::new(program("chromium"));
        command.args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
        ]);
        command.arg(format!("--user-data-dir={}", profile.path().display()));
        command.arg(url).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Browser {
            _running: spawn(&mut command, CHROMIUM),
            _profile: profile,
        }
    }
}
