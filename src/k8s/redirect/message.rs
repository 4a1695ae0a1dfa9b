//! Netlink's shape: messages in a row, each with attributes that may nest, all aligned to four bytes.
//!
//! Numbers in headers are the machine's; numbers in nf_tables' attributes are the network's. What is read comes from
//! the kernel, and still every length is checked.

/// Messages, ready to be sent.
#[derive(Debug, Default)]
pub(super) struct Messages {
    bytes: Vec<u8>,
    count: u32,
}

/// The attributes of one message, or of one attribute.
#[derive(Debug, Default)]
pub(super) struct Attributes(Vec<u8>);

/// One message that came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Message<'a> {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    pub body: &'a [u8],
}

pub(super) const REQUEST: u16 = 1;
pub(super) const ACK: u16 = 4;
pub(super) const REPLACE: u16 = 0x100;
pub(super) const EXCLUSIVE: u16 = 0x200;
pub(super) const DUMP: u16 = 0x300;
pub(super) const CREATE: u16 = 0x400;
pub(super) const APPEND: u16 = 0x800;
/// In an answer: what was listed changed while it was.
pub(super) const INTERRUPTED: u16 = 0x10;

pub(super) const ERROR: u16 = 2;
pub(super) const DONE: u16 = 3;

const NESTED: u16 = 0x8000;
const KIND: u16 = 0x3fff;
const HEADER: usize = 16;

impl Messages {
    /// Adds one and returns its sequence number: the first is 0.
    pub fn push(
        &mut self,
        kind: u16,
        flags: u16,
        family_header: &[u8],
        attributes: &Attributes,
    ) -> u32 {
        let sequence = self.count;
        self.count += 1;
        let length = HEADER + aligned(family_header.len()) + attributes.0.len();
        let length = u32::try_from(length)
            .expect("a plan has a bounded number of rules, each of a few matches");
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes
            .extend_from_slice(&(REQUEST | flags).to_ne_bytes());
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self.bytes.extend_from_slice(family_header);
        pad(&mut self.bytes);
        self.bytes.extend_from_slice(&attributes.0);
        sequence
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl Attributes {
    pub fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(4 + value.len()).expect("no attribute holds more than a rule");
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        pad(&mut self.0);
        self
    }

    /// With the zero at its end.
    pub fn text(self, kind: u16, text: &str) -> Self {
        let mut value = text.as_bytes().to_vec();
        value.push(0);
        self.bytes(kind, &value)
    }

    pub fn number(self, kind: u16, number: u32) -> Self {
        self.bytes(kind, &number.to_be_bytes())
    }

    pub fn nest(self, kind: u16, inner: Attributes) -> Self {
        self.bytes(kind | NESTED, &inner.0)
    }
}

/// The messages of one datagram; ends early at one that is cut.
pub(super) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32::from_ne_bytes(*bytes.first_chunk()?)).ok()?;
        let whole = bytes.get(..length).filter(|whole| whole.len() >= HEADER)?;
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
        Some(Message {
            kind: u16::from_ne_bytes([whole[4], whole[5]]),
            flags: u16::from_ne_bytes([whole[6], whole[7]]),
            sequence: u32::from_ne_bytes([whole[8], whole[9], whole[10], whole[11]]),
            body: &whole[HEADER..],
        })
    })
}

/// Kinds and values; ends early at one that is cut.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let [a, b, c, d] = *bytes.first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let value = bytes.get(4..length)?;
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
        Some((u16::from_ne_bytes([c, d]) & KIND, value))
    })
}

pub(super) fn attribute(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes)
        .find(|(kind, _)| *kind == wanted)
        .map(|(_, value)| value)
}

pub(super) fn text(bytes: &[u8], wanted: u16) -> Option<&str> {
    let value = attribute(bytes, wanted)?;
    std::str::from_utf8(value)
        .ok()
        .map(|text| text.trim_end_matches('\0'))
}

pub(super) fn number(bytes: &[u8], wanted: u16) -> Option<u32> {
    let value = attribute(bytes, wanted)?;
    value.try_into().ok().map(u32::from_be_bytes)
}

/// What an answer of kind [`ERROR`] says: none is an acknowledgement.
pub(super) fn refusal(body: &[u8]) -> Option<rustix::io::Errno> {
    let code = body
        .first_chunk()
        .map_or(-1, |code| i32::from_ne_bytes(*code));
    (code != 0).then(|| rustix::io::Errno::from_raw_os_error(code.saturating_neg()))
}

const fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(aligned(bytes.len()), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let inner = Attributes::default().number(1, 7).text(2, "redir");
        let outer = Attributes::default().text(1, "weft").nest(4, inner);
        let mut sent = Messages::default();
        sent.push(6, ACK, &[1, 0, 0, 0], &outer);
        sent.push(7, 0, &[], &Attributes::default());
        let read: Vec<Message<'_>> = messages(sent.bytes()).collect();
        assert_eq!(read.len(), 2);
        assert_eq!(
            (read[0].kind, read[0].flags, read[0].sequence),
            (6, REQUEST | ACK, 0)
        );
        assert_eq!(
            (read[1].kind, read[1].sequence, read[1].body),
            (7, 1, &[][..])
        );
        let body = &read[0].body[4..];
        assert_eq!(text(body, 1), Some("weft"));
        let inner = attribute(body, 4).unwrap();
        assert_eq!((number(inner, 1), text(inner, 2)), (Some(7), Some("redir")));
    }

    #[test]
    fn what_is_cut_ends_the_reading() {
        let mut sent = Messages::default();
        sent.push(
            6,
            0,
            &[],
            &Attributes::default().number(1, 7).text(2, "redir"),
        );
        let whole = sent.bytes();
        for length in 0..whole.len() {
            assert_eq!(messages(&whole[..length]).count(), 0, "{length}");
            let _ = attributes(whole.get(16..length).unwrap_or_default()).count();
        }
        // Lengths that lie: shorter than their own header, or nothing at all.
        assert_eq!(
            messages(&[3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).count(),
            0
        );
        assert_eq!(attributes(&[0, 0, 1, 0]).count(), 0);
    }
}
