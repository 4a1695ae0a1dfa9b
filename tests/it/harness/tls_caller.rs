//! A caller over TLS under a test's hand: shows the certificate that it is told to, believes every server, keeps the
//! tickets that it is given.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    sync::{Arc, Mutex},
};

use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, HandshakeKind, SignatureScheme,
    StreamOwned,
    client::{
        ResolvesClientCert,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    sign::CertifiedKey,
    version::TLS13,
};

use super::{
    Answer, Call, DEADLINE, Leaf,
    call::{dial, read_answer},
};

/// One caller, with one memory of tickets.
pub struct TlsCaller {
    config: Arc<ClientConfig>,
    shown: Arc<Shown>,
}

/// What is shown to who asks.
#[derive(Debug, Default)]
struct Shown(Mutex<Option<Arc<CertifiedKey>>>);

impl TlsCaller {
    /// Shows this certificate, or none, and offers these protocols.
    pub fn new(leaf: Option<&Leaf>, offers: &[&str]) -> Self {
        let shown = Arc::<Shown>::default();
        let builder = ClientConfig::builder_with_provider(provider());
        let mut config = builder
            .with_protocol_versions(&[&TLS13])
            .expect("the provider knows TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone(provider())))
            .with_client_cert_resolver(shown.clone());
        config.alpn_protocols = offers.iter().map(|one| one.as_bytes().to_vec()).collect();
        let caller = TlsCaller {
            config: Arc::new(config),
            shown,
        };
        if let Some(leaf) = leaf {
            caller.shows(leaf);
        }
        caller
    }

    /// Shows another certificate from now on; tickets are kept.
    pub fn shows(&self, leaf: &Leaf) {
        let chain = CertificateDer::pem_slice_iter(leaf.certificate.as_bytes());
        let chain = chain.collect::<Result<Vec<_>, _>>().expect("PEM");
        let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).expect("PEM");
        let key = provider()
            .key_provider
            .load_private_key(key)
            .expect("a key");
        let shown = Arc::new(CertifiedKey::new(chain, key));
        *self.shown.0.lock().expect("no panic here") = Some(shown);
    }

    /// Shakes hands. In TLS 1.3 a server's refusal of what was shown comes with the first read.
    pub fn connect(&self, address: &str) -> io::Result<TlsConnection> {
        let name = ServerName::try_from("weft.test").expect("a name");
        let session = ClientConnection::new(self.config.clone(), name).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(session, dial(address)?);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(TlsConnection {
            stream,
            kept: Vec::new(),
        })
    }

    /// The first bytes of a handshake, for a caller that goes no further.
    pub fn hello(&self) -> Vec<u8> {
        let name = ServerName::try_from("weft.test").expect("a name");
        let mut session = ClientConnection::new(self.config.clone(), name).expect("a session");
        let mut bytes = Vec::new();
        session.write_tls(&mut bytes).expect("memory");
        bytes
    }

    /// One call on a connection of its own.
    pub fn call(&self, address: &str, call: &Call) -> io::Result<Answer> {
        self.connect(address)?.call(call, address)
    }
}

pub struct TlsConnection {
    stream: StreamOwned<ClientConnection, TcpStream>,
    kept: Vec<u8>,
}

impl TlsConnection {
    /// The handshake was done by a ticket: no certificate was shown.
    pub fn is_resumed(&self) -> bool {
        self.stream.conn.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    #[track_caller]
    pub fn read_exact(&mut self, count: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        heard(self.stream.read_exact(&mut bytes))?;
        Ok(bytes)
    }

    /// True when the peer closes, or has closed, without another byte; a reset is a close as well.
    #[track_caller]
    pub fn is_closed_by_peer(&mut self) -> bool {
        match self.stream.read(&mut [0]) {
            Ok(count) => count == 0,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                panic!("still open at the deadline")
            }
            Err(_) => true,
        }
    }

    /// Sends the call and reads its answer; the connection stays open.
    #[track_caller]
    pub fn call(&mut self, call: &Call, host: &str) -> io::Result<Answer> {
        self.send(call.bytes(host))?;
        heard(read_answer(&mut self.stream, &mut self.kept, "GET"))
    }
}

/// Silence to the deadline is neither an answer nor a refusal.
#[track_caller]
fn heard<T>(read: io::Result<T>) -> io::Result<T> {
    match read {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            panic!("nothing was heard for {DEADLINE:?}")
        }
        read => read,
    }
}

impl Read for TlsConnection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buffer)
    }
}

impl Write for TlsConnection {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.lock().expect("no panic here").clone()
    }

    fn has_certs(&self) -> bool {
        self.0.lock().expect("no panic here").is_some()
    }
}

/// Believes that a server is whom it says.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
