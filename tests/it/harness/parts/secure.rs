//! TLS peers: openssl's client and server, Python's ssl, Envoy as a sidecar. None of them knows of SPIFFE but Envoy,
//! which matches the URI.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

use super::{
    super::IdentityFolder, PARTS, Running, cached, on_a_free_port, output, program, python, script,
    spawn, that_tells_its_port,
};

const OPENSSL: &str = "apt-get install openssl";

/// `openssl s_client` with these arguments, fed with `input` and closed when the server closes.
///
/// What the server said is in `stdout`, what openssl says of the connection in `stderr`.
pub fn openssl_client(address: &str, arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new(program("openssl"));
    command
        .args(["s_client", "-connect", address, "-brief", "-ign_eof"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut running = spawn(&mut command, OPENSSL);
    let mut stdin = running.0.stdin.take().expect("piped");
    // One who is refused may be gone by now.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    running.output()
}

/// `openssl s_server`: TLS 1.3, asks for a certificate, and answers each GET with a page about the connection.
pub struct OpensslServer {
    _running: Running,
    port: u16,
}

impl OpensslServer {
    /// `alpn` is what it takes, as `http/1.1`.
    pub fn start(identity: &IdentityFolder, alpn: &str) -> Self {
        let (running, port) = on_a_free_port(|port| {
            let mut command = Command::new(program("openssl"));
            command.args(["s_server", "-tls1_3", "-www", "-quiet", "-alpn", alpn]);
            command.args(["-accept", &format!("127.0.0.1:{port}")]);
            command.args(["-cert", &identity.certificate(), "-key", &identity.key()]);
            command.args(["-CAfile", &identity.roots(), "-Verify", "3"]);
            command.arg("-verify_return_error");
            command.stdin(Stdio::null()).stdout(Stdio::null());
            spawn(&mut command, OPENSSL)
        });
        OpensslServer {
            _running: running,
            port,
        }
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

/// An HTTPS server on Python's ssl that says each request back as JSON: method, path, headers, body, and the URIs of
/// the client's certificate.
pub struct PythonServer {
    _running: Running,
    port: u16,
}

impl PythonServer {
    /// It takes clients with a certificate under `identity`'s roots alone, whoever they are.
    pub fn start(identity: &IdentityFolder) -> Self {
        let mut command = Command::new(python());
        command.arg(script("tls_server.py")).args([
            identity.certificate(),
            identity.key(),
            identity.roots(),
        ]);
        let (running, port) = that_tells_its_port(&mut command, PARTS);
        PythonServer {
            _running: running,
            port,
        }
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

/// Calls by Python's ssl and http.client. Returns `{status, headers, body, uris}`, or `{error}`.
///
/// `told`: address, alpn, roots, and what it shows: certificate and key, if any; method, path, headers, body.
pub fn python_tls_call(told: &Value) -> Value {
    let mut command = Command::new(python());
    let output = output(
        command.arg(script("tls_client.py")).arg(told.to_string()),
        PARTS,
    );
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    serde_json::from_slice(&output.stdout).expect("the script prints JSON")
}

/// The HTTP version that Envoy speaks to what it calls.
#[derive(Debug, Clone, Copy)]
pub enum Speaks {
    Http1,
    Http2,
}

/// Envoy as a sidecar: HTTP on the one side, mutual TLS with a SPIFFE identity on the other. WebSocket passes, over HTTP/2
/// by extended CONNECT.
pub struct Envoy {
    _running: Running,
    folder: TempDir,
    port: u16,
}

impl Envoy {
    /// In front of the application at `app`: mutual TLS in, from `peer` alone; plaintext out.
    ///
    /// It adds `x-forwarded-client-cert` with the peer's URI.
    pub fn inbound(identity: &IdentityFolder, peer: &str, app: &str) -> Self {
        let tls = tls_context(
            "DownstreamTlsContext",
            "require_client_certificate: true,",
            identity,
            peer,
            "h2, http/1.1",
        );
        let socket = format!("transport_socket: {tls}");
        Envoy::start(&socket, &cluster(app, Speaks::Http1, ""))
    }

    /// In front of a caller: plaintext in, mutual TLS to `server` at `callee`.
    pub fn outbound(identity: &IdentityFolder, server: &str, callee: &str, speaks: Speaks) -> Self {
        let alpn = match speaks {
            Speaks::Http1 => "http/1.1",
            Speaks::Http2 => "h2",
        };
        let tls = tls_context("UpstreamTlsContext", "", identity, server, alpn);
        let socket = format!("transport_socket: {tls},");
        Envoy::start("", &cluster(callee, speaks, &socket))
    }

    fn start(listener: &str, cluster: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let conf = folder.path().join("envoy.yaml");
        let log = folder.path().join("log");
        let calls = folder.path().join("calls");
        let (running, port) = on_a_free_port(|port| {
            fs::write(&conf, config(port, &calls, listener, cluster)).expect("a file");
            let mut command = Command::new(cached("python/bin/envoy"));
            command
                .args([Path::new("-c"), &conf, Path::new("--log-path"), &log])
                .args(["--disable-hot-restart", "--concurrency", "1"])
                .args(["--file-flush-interval-msec", "50"])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            spawn(&mut command, PARTS)
        });
        Envoy {
            _running: running,
            folder,
            port,
        }
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The calls that have ended, a line each: the HTTP version they came in and the one they went on in, their status.
    pub fn calls(&self) -> String {
        fs::read_to_string(self.folder.path().join("calls")).unwrap_or_default()
    }

    /// Its log so far, which says why when a start is in vain.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

/// Envoy's file: one listener that forwards every request to one cluster.
fn config(port: u16, calls: &Path, listener: &str, cluster: &str) -> String {
    let calls = calls.display();
    format!(
        "
static_resources:
  listeners:
  - address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}
    filter_chains:
    - {{
        filters: [{{
          name: http,
          typed_config: {{
            '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager,
            stat_prefix: http, codec_type: AUTO,
            upgrade_configs: [{{ upgrade_type: websocket }}], http2_protocol_options: {{ allow_connect: true }},
            access_log: [{{ name: calls, typed_config: {{
              '@type': type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: {calls},
              log_format: {{ text_format_source: {{ inline_string: \"%PROTOCOL% %UPSTREAM_PROTOCOL% %RESPONSE_CODE%\\n\" }} }} }} }}],
            forward_client_cert_details: SANITIZE_SET, set_current_client_cert_details: {{ uri: true }},
            route_config: {{ virtual_hosts: [{{
              name: all, domains: ['*'],
              routes: [{{ match: {{ prefix: / }}, route: {{ cluster: callee }} }}] }}] }},
            http_filters: [{{ name: router, typed_config: {{
              '@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }} }}] }} }}],
        {listener}
      }}
  clusters: [{cluster}]
"
    )
}

/// The part of the file about whom it calls.
fn cluster(address: &str, speaks: Speaks, socket: &str) -> String {
    let (host, port) = address.rsplit_once(':').expect("an address");
    let protocol = match speaks {
        Speaks::Http1 => "http_protocol_options: {}",
        Speaks::Http2 => "http2_protocol_options: { allow_connect: true }",
    };
    format!(
        "{{ name: callee, type: STATIC, connect_timeout: 5s, {socket}
            typed_extension_protocol_options: {{ envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {{
              '@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions,
              explicit_http_config: {{ {protocol} }} }} }},
            load_assignment: {{ cluster_name: callee, endpoints: [{{ lb_endpoints: [{{ endpoint: {{
              address: {{ socket_address: {{ address: {host}, port_value: {port} }} }} }} }}] }}] }} }}"
    )
}

fn tls_context(
    kind: &str,
    more: &str,
    identity: &IdentityFolder,
    peer: &str,
    alpn: &str,
) -> String {
    let (certificate, key, roots) = (identity.certificate(), identity.key(), identity.roots());
    format!(
        "{{ name: tls, typed_config: {{
            '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{kind}, {more}
            common_tls_context: {{
              tls_params: {{ tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3 }},
              alpn_protocols: [{alpn}],
              tls_certificates: [{{ certificate_chain: {{ filename: {certificate} }}, private_key: {{ filename: {key} }} }}],
              validation_context: {{
                trusted_ca: {{ filename: {roots} }},
                match_typed_subject_alt_names: [{{ san_type: URI, matcher: {{ exact: '{peer}' }} }}] }} }} }} }}"
    )
}
