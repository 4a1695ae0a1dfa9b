//! Reads HTTP/2 frame headers from bytes as they pass, however they are cut, without touching payloads.
//!
//! Keeps at most 13 bytes. Checks nothing: `h2` parses the same bytes and is the judge of them.

const HEADER: usize = 9;
/// A GOAWAY's last stream id follows its header.
const LAST_STREAM: usize = 4;

pub const HEADERS: u8 = 1;
pub const SETTINGS: u8 = 4;
pub const GOAWAY: u8 = 7;
pub const CONTINUATION: u8 = 9;
/// The ACK flag of SETTINGS and PING.
pub const ACK: u8 = 1;

/// One frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    /// Bytes of payload.
    pub length: u32,
    /// In a GOAWAY: the last stream that its sender may have acted on.
    pub last_stream: Option<u32>,
}

/// Where in the frames the bytes stand.
#[derive(Debug, Default)]
pub struct Scan {
    held: [u8; HEADER + LAST_STREAM],
    have: usize,
    skip: usize,
}

impl Scan {
    /// A scan that first passes over `bytes`: the client's preface.
    pub fn after(bytes: usize) -> Self {
        Scan {
            skip: bytes,
            ..Scan::default()
        }
    }

    /// Takes the next bytes; says each frame as soon as its header is whole.
    pub fn read(&mut self, mut bytes: &[u8], mut on_frame: impl FnMut(Frame)) {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let passed = self.skip.min(bytes.len());
                self.skip -= passed;
                bytes = &bytes[passed..];
                continue;
            }
            let taken = (self.wanted() - self.have).min(bytes.len());
            self.held[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have == self.wanted() {
                let frame = self.frame();
                self.skip = frame.length as usize - (self.have - HEADER);
                self.have = 0;
                on_frame(frame);
            }
        }
    }

    /// Bytes that make the frame at hand known.
    fn wanted(&self) -> usize {
        if self.have >= HEADER && self.held[3] == GOAWAY && self.length() as usize >= LAST_STREAM {
            HEADER + LAST_STREAM
        } else {
            HEADER
        }
    }

    fn length(&self) -> u32 {
        u32::from_be_bytes([0, self.held[0], self.held[1], self.held[2]])
    }

    fn frame(&self) -> Frame {
        let number = |at: usize| {
            u32::from_be_bytes([
                self.held[at],
                self.held[at + 1],
                self.held[at + 2],
                self.held[at + 3],
            ]) & 0x7fff_ffff
        };
        Frame {
            kind: self.held[3],
            flags: self.held[4],
            stream: number(5),
            length: self.length(),
            last_stream: (self.have > HEADER).then(|| number(HEADER)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    fn sample() -> (Vec<u8>, Vec<Frame>) {
        let mut bytes = frame(SETTINGS, 0, 0, &[0; 6]);
        bytes.extend(frame(HEADERS, 4, 5, &[7; 300]));
        bytes.extend(frame(GOAWAY, 0, 0, &[0x80, 0, 0, 5, 0, 0, 0, 0, b'x']));
        bytes.extend(frame(SETTINGS, ACK, 0, &[]));
        let seen = |kind, flags, stream, length, last_stream| Frame {
            kind,
            flags,
            stream,
            length,
            last_stream,
        };
        let frames = vec![
            seen(SETTINGS, 0, 0, 6, None),
            seen(HEADERS, 4, 5, 300, None),
            seen(GOAWAY, 0, 0, 9, Some(5)),
            seen(SETTINGS, ACK, 0, 0, None),
        ];
        (bytes, frames)
    }

    #[test]
    fn frames_are_seen_however_the_bytes_are_cut() {
        let (bytes, frames) = sample();
        for piece in 1..=bytes.len() {
            let (mut scan, mut seen) = (Scan::default(), Vec::new());
            for part in bytes.chunks(piece) {
                scan.read(part, |frame| seen.push(frame));
            }
            assert_eq!(seen, frames, "cut every {piece} bytes");
        }
    }

    #[test]
    fn the_preface_is_passed_over() {
        let (bytes, frames) = sample();
        let (mut scan, mut seen) = (Scan::after(24), Vec::new());
        scan.read(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", |frame| {
            seen.push(frame)
        });
        scan.read(&bytes, |frame| seen.push(frame));
        assert_eq!(seen, frames);
    }

    #[test]
    fn a_cut_short_goaway_names_no_stream() {
        let mut seen = Vec::new();
        let mut bytes = frame(GOAWAY, 0, 0, &[0, 0, 1]);
        bytes.extend(frame(SETTINGS, 0, 0, &[]));
        Scan::default().read(&bytes, |frame| seen.push((frame.kind, frame.last_stream)));
        assert_eq!(seen, [(GOAWAY, None), (SETTINGS, None)]);
    }
}
