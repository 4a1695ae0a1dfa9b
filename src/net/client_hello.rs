//! What a TLS client says before anything is encrypted: the name it wants and the protocols it speaks.
//!
//! Reads the bytes alone and changes none: a ClientHello (RFC 8446 §4.1.2), in one record or several. Nothing it
//! says is proven.

/// A ClientHello longer than this is none. Post-quantum key shares take 1.2 KiB, padded hellos 4 KiB.
pub const LONGEST: usize = 16 * 1024;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// In lower case; none where it was left out or is no DNS name.
    pub server_name: Option<Box<str>>,
    /// In the client's order.
    pub alpn: Vec<Box<[u8]>>,
}

impl ClientHello {
    pub fn speaks(&self, protocol: &[u8]) -> bool {
        self.alpn.iter().any(|offered| **offered == *protocol)
    }
}

/// What the first bytes of a connection turn out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read {
    /// So far a ClientHello; its end is still to come.
    More,
    Hello(ClientHello),
    /// No ClientHello.
    Other,
}

/// Reads the first bytes of a connection, `LONGEST` of them at most.
pub fn read(bytes: &[u8]) -> Read {
    match hello(bytes) {
        Ok(hello) => Read::Hello(hello),
        Err(Stop::Short) if bytes.len() < LONGEST => Read::More,
        Err(_) => Read::Other,
    }
}

enum Stop {
    Short,
    Wrong,
}

fn hello(bytes: &[u8]) -> Result<ClientHello, Stop> {
    let message = handshake(bytes)?;
    // The message is whole: from here on an early end is a mistake, not a wait.
    body(&message).ok_or(Stop::Wrong)
}

/// The body of the first handshake message, put together from its records.
fn handshake(mut bytes: &[u8]) -> Result<Vec<u8>, Stop> {
    let mut message = Vec::new();
    loop {
        if bytes.is_empty() {
            return Err(Stop::Short);
        }
        if bytes[0] != HANDSHAKE || bytes.get(1).is_some_and(|major| *major != 3) {
            return Err(Stop::Wrong);
        }
        let Some((head, rest)) = bytes.split_first_chunk::<5>() else {
            return Err(Stop::Short);
        };
        let length = usize::from(u16::from_be_bytes([head[3], head[4]]));
        if length == 0 || length > LONGEST {
            return Err(Stop::Wrong);
        }
        message.extend_from_slice(&rest[..length.min(rest.len())]);
        if message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
            return Err(Stop::Wrong);
        }
        if let Some([_, a, b, c]) = message.first_chunk() {
            let whole = 4 + u32::from_be_bytes([0, *a, *b, *c]) as usize;
            if whole > LONGEST {
                return Err(Stop::Wrong);
            }
            if message.len() >= whole {
                message.truncate(whole);
                message.drain(..4);
                return Ok(message);
            }
        }
        bytes = rest.get(length..).ok_or(Stop::Short)?;
    }
}

fn body(message: &[u8]) -> Option<ClientHello> {
    let mut hello = ClientHello::default();
    let mut at = Reader(message);
    at.take(2 + 32)?;
    at.short()?; // session id
    at.long()?; // cipher suites
    at.short()?; // compression
    if at.0.is_empty() {
        return Some(hello);
    }
    let mut extensions = Reader(at.long()?);
    while !extensions.0.is_empty() {
        let kind = extensions.number()?;
        let mut body = Reader(extensions.long()?);
        match kind {
            SERVER_NAME => {
                let mut names = Reader(body.long()?);
                while !names.0.is_empty() {
                    let kind = names.take(1)?[0];
                    let name = names.long()?;
                    if kind == 0 && hello.server_name.is_none() {
                        hello.server_name = dns_name(name);
                    }
                }
            }
            ALPN => {
                let mut protocols = Reader(body.long()?);
                while !protocols.0.is_empty() {
                    hello.alpn.push(protocols.short()?.into());
                }
            }
            _ => {}
        }
    }
    Some(hello)
}

fn dns_name(name: &[u8]) -> Option<Box<str>> {
    let sign = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > 253 || !name.iter().all(sign) {
        return None;
    }
    let name = std::str::from_utf8(name).ok()?;
    Some(name.to_ascii_lowercase().into())
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u16> {
        self.take(2).map(|two| u16::from_be_bytes([two[0], two[1]]))
    }

    /// Behind a length of one byte.
    fn short(&mut self) -> Option<&'a [u8]> {
        let length = self.take(1)?[0];
        self.take(length.into())
    }

    /// Behind a length of two bytes.
    fn long(&mut self) -> Option<&'a [u8]> {
        let length = self.number()?;
        self.take(length.into())
    }
}

/// A ClientHello, for tests.
#[cfg(test)]
pub(super) fn written(server_name: Option<&str>, alpn: &[&str]) -> Vec<u8> {
    let long = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes(), bytes].concat();
    let mut extensions = Vec::new();
    if let Some(name) = server_name {
        let names = long(&[&[0], &long(name.as_bytes())[..]].concat());
        extensions.extend([&[0, 0], &long(&names)[..]].concat());
    }
    if !alpn.is_empty() {
        let list: Vec<u8> = alpn
            .iter()
            .flat_map(|name| [&[name.len() as u8], name.as_bytes()].concat())
            .collect();
        extensions.extend([&[0, 16], &long(&long(&list))[..]].concat());
    }
    let mut body = vec![3, 3];
    body.extend([9; 32]);
    body.push(0);
    body.extend(long(&[0x13, 0x01]));
    body.extend([1, 0]);
    body.extend(long(&extensions));
    let length = (body.len() as u32).to_be_bytes();
    let message = [&[1, length[1], length[2], length[3]], &body[..]].concat();
    [&[22, 3, 1], &long(&message)[..]].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn name_and_protocols_are_read() {
        let bytes = written(Some("Shop.Example"), &["h2", "http/1.1"]);
        let Read::Hello(hello) = read(&bytes) else {
            panic!("a whole hello")
        };
        assert_eq!(hello.server_name.as_deref(), Some("shop.example"));
        assert!(hello.speaks(b"h2") && !hello.speaks(b"weft/h2"));
    }

    #[test]
    fn a_hello_without_either_is_a_hello() {
        assert_eq!(
            read(&written(None, &[])),
            Read::Hello(ClientHello::default())
        );
    }

    #[test]
    fn every_beginning_of_a_hello_waits_for_more() {
        let bytes = written(Some("a.b"), &["h2"]);
        for end in 1..bytes.len() {
            assert_eq!(read(&bytes[..end]), Read::More, "{end}");
        }
    }

    #[test]
    fn a_hello_in_small_records_is_the_same_hello() {
        let whole = written(Some("shop.example"), &["weft/h2"]);
        let pieces: Vec<u8> = whole[5..]
            .chunks(7)
            .flat_map(|piece| [&[22, 3, 1, 0, piece.len() as u8], piece].concat())
            .collect();
        assert_eq!(read(&pieces), read(&whole));
        assert_eq!(read(&pieces[..pieces.len() - 1]), Read::More);
    }

    #[test]
    fn other_records_and_lengths_that_do_not_fit_are_no_hello() {
        assert_eq!(read(b"GET / HTTP/1.1\r\n"), Read::Other);
        assert_eq!(read(&[22, 2, 0]), Read::Other);
        assert_eq!(read(&[22, 3, 1, 0, 0]), Read::Other);
        // A ServerHello, and a message of 16 MiB.
        assert_eq!(read(&[22, 3, 3, 0, 90, 2]), Read::Other);
        assert_eq!(read(&[22, 3, 3, 0, 90, 1, 255, 255, 255]), Read::Other);
        let mut bytes = written(Some("shop.example"), &[]);
        let last = bytes.len() - 13;
        bytes[last] = 200;
        assert_eq!(read(&bytes), Read::Other);
    }

    #[test]
    fn a_name_that_is_no_dns_name_is_no_name() {
        let Read::Hello(hello) = read(&written(Some("a b\n"), &[])) else {
            panic!("a whole hello")
        };
        assert_eq!(hello.server_name, None);
    }

    proptest! {
        #[test]
        fn no_bytes_are_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600), cut in 0..300usize) {
            read(&bytes);
            let mut hello = written(Some("shop.example"), &["h2", "weft/tcp"]);
            for (at, byte) in bytes.iter().enumerate().take(3) {
                let length = hello.len();
                hello[(at * 97 + cut) % length] = *byte;
            }
            read(&hello);
            read(&hello[..cut.min(hello.len())]);
        }
    }
}
