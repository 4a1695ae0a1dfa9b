//! The nine bytes before every HTTP/2 frame (RFC 9113 §4.1), and finding them in a stream that comes in pieces.

/// Bytes of a frame header.
pub const LEN: usize = 9;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    pub len: u32,
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
}

impl FrameHeader {
    pub fn read(bytes: &[u8; LEN]) -> Self {
        let [a, b, c, kind, flags, s0, s1, s2, s3] = *bytes;
        FrameHeader {
            len: u32::from_be_bytes([0, a, b, c]),
            kind,
            flags,
            stream: u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]),
        }
    }
}

/// The place between two frame headers.
#[derive(Debug, Default)]
pub struct Cursor {
    /// Payload bytes to come before the next header.
    skip: usize,
    part: [u8; LEN],
    have: usize,
}

impl Cursor {
    /// Begins `skip` bytes before the first frame header: a client's preface is 24.
    pub fn after(skip: usize) -> Self {
        Cursor {
            skip,
            ..Cursor::default()
        }
    }

    /// Takes the next header out of `bytes`, advancing over what was before it. None: `bytes` is used up.
    ///
    /// After a header `bytes` stands at its payload, as far as it has come.
    #[inline]
    pub fn next(&mut self, bytes: &mut &[u8]) -> Option<FrameHeader> {
        let skipped = self.skip.min(bytes.len());
        *bytes = &bytes[skipped..];
        self.skip -= skipped;
        let header = match (self.have, bytes.split_first_chunk::<LEN>()) {
            (0, Some((header, rest))) => {
                *bytes = rest;
                FrameHeader::read(header)
            }
            _ => self.piece(bytes)?,
        };
        self.skip = header.len as usize;
        Some(header)
    }

    #[cold]
    fn piece(&mut self, bytes: &mut &[u8]) -> Option<FrameHeader> {
        let n = (LEN - self.have).min(bytes.len());
        self.part[self.have..self.have + n].copy_from_slice(&bytes[..n]);
        *bytes = &bytes[n..];
        self.have += n;
        if self.have < LEN {
            return None;
        }
        self.have = 0;
        Some(FrameHeader::read(&self.part))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_found_however_the_stream_is_cut() {
        let mut stream = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        stream.extend([0, 0, 0, SETTINGS, 0, 0, 0, 0, 0]);
        stream.extend([0, 0, 8, PING, 0, 0x80, 0, 0, 0]);
        stream.extend([7; 8]);
        stream.extend([0, 1, 2, DATA, END_STREAM, 0xff, 1, 2, 3]);
        stream.extend([9; 258]);
        stream.extend([0, 0, 4, RST_STREAM, 0, 0, 0, 0, 5]);
        let seen = |size: usize| {
            let mut cursor = Cursor::after(24);
            let mut seen = Vec::new();
            for mut piece in stream.chunks(size) {
                while let Some(header) = cursor.next(&mut piece) {
                    seen.push(header);
                }
            }
            seen
        };
        let whole = seen(stream.len());
        assert_eq!(
            whole.iter().map(|h| (h.kind, h.len)).collect::<Vec<_>>(),
            [(4, 0), (6, 8), (0, 258), (3, 4)]
        );
        assert_eq!((whole[1].stream, whole[2].stream), (0, 0x7f01_0203));
        for size in 1..stream.len() {
            assert_eq!(seen(size), whole, "pieces of {size}");
        }
    }
}
