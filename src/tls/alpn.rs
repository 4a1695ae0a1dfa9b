//! What the two ends of a TLS connection agree to speak inside it.

/// An application protocol, as TLS names it.
///
/// The first three are the mesh's own words: by them a sidecar's TLS is told apart from an application's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Alpn {
    /// `weft/h2`
    Http2,
    /// `weft/http1.1`
    Http1,
    /// `weft/tcp`: the bytes of a connection as they are.
    Tcp,
    /// `h2`, as a foreign peer says it.
    ForeignHttp2,
    /// `http/1.1`, as a foreign peer says it.
    ForeignHttp1,
}

impl Alpn {
    /// The mesh's own.
    pub const MESH: [Alpn; 3] = [Alpn::Http2, Alpn::Http1, Alpn::Tcp];
    /// In the order of our choice where the peer leaves it to us.
    pub const ALL: [Alpn; 5] = [
        Alpn::Http2,
        Alpn::Http1,
        Alpn::Tcp,
        Alpn::ForeignHttp2,
        Alpn::ForeignHttp1,
    ];

    pub const fn wire(self) -> &'static [u8] {
        match self {
            Alpn::Http2 => b"weft/h2",
            Alpn::Http1 => b"weft/http1.1",
            Alpn::Tcp => b"weft/tcp",
            Alpn::ForeignHttp2 => b"h2",
            Alpn::ForeignHttp1 => b"http/1.1",
        }
    }

    pub fn from_wire(wire: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|alpn| alpn.wire() == wire)
    }

    pub const fn is_mesh(self) -> bool {
        matches!(self, Alpn::Http2 | Alpn::Http1 | Alpn::Tcp)
    }

    pub const fn is_http2(self) -> bool {
        matches!(self, Alpn::Http2 | Alpn::ForeignHttp2)
    }
}

pub(super) fn wires(offer: &[Alpn]) -> Vec<Vec<u8>> {
    offer.iter().map(|alpn| alpn.wire().to_vec()).collect()
}
