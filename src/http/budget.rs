//! How many frames that cost us work and carry nothing a peer may send on one HTTP/2 connection, and how many resets.
//!
//! Tokens come with time and open streams, with new streams and with bytes we send: a peer may acknowledge what it was
//! given, as busily as it likes.

use std::cell::Cell;

use super::frame_header::{self as frame, FrameHeader};

/// What a connection begins with, in control frames.
const CONTROL_START: u32 = 1_000;
/// And at most saves.
const CONTROL_MOST: u32 = 10_000;
/// Granted a tick: 100 a second.
const CONTROL_PER_TICK: u32 = 10;
/// And for each stream that is open.
const CONTROL_PER_TICK_AND_STREAM: u32 = 2;
/// Granted a stream when it begins: its window updates, its priority.
const CONTROL_PER_STREAM: u32 = 20;
/// Granted for so many bytes sent: two updates for each DATA frame of a small gRPC message.
const BYTES_PER_CONTROL: u64 = 32;
/// A long payload costs like so many bytes a frame.
const PAYLOAD_PER_CONTROL: u32 = 256;

/// What a connection begins with and at most saves, in resets.
const RESETS_MOST: u32 = 500;
/// Granted a tick: 100 a second.
const RESETS_PER_TICK: u32 = 10;

/// One connection's tokens.
#[derive(Debug)]
pub struct Budget {
    control: Cell<u32>,
    resets: Cell<u32>,
    unpaid: Cell<u64>,
}

impl Default for Budget {
    fn default() -> Self {
        Budget {
            control: Cell::new(CONTROL_START),
            resets: Cell::new(RESETS_MOST),
            unpaid: Cell::default(),
        }
    }
}

impl Budget {
    fn grant(&self, tokens: u32) {
        self.control
            .set(self.control.get().saturating_add(tokens).min(CONTROL_MOST));
    }

    /// Time's share: for so many ticks of 100 ms, with so many streams open.
    pub fn ticks(&self, ticks: u32, open: u32) {
        let each =
            CONTROL_PER_TICK.saturating_add(open.saturating_mul(CONTROL_PER_TICK_AND_STREAM));
        self.grant(each.saturating_mul(ticks));
        let resets = self.resets.get();
        let more = RESETS_PER_TICK.saturating_mul(ticks);
        self.resets
            .set(resets.saturating_add(more).min(RESETS_MOST));
    }

    /// A stream begins.
    pub fn stream(&self) {
        self.grant(CONTROL_PER_STREAM);
    }

    /// The peer may reset one stream more.
    pub fn reset(&self) {
        self.resets.set((self.resets.get() + 1).min(RESETS_MOST));
    }

    /// So many bytes were sent.
    pub fn sent(&self, bytes: u64) {
        let unpaid = self.unpaid.get() + bytes;
        self.unpaid.set(unpaid % BYTES_PER_CONTROL);
        self.grant(u32::try_from(unpaid / BYTES_PER_CONTROL).unwrap_or(CONTROL_MOST));
    }

    /// Takes what a frame costs, or says what there are too many of.
    #[inline]
    pub fn take(&self, header: FrameHeader) -> Result<(), &'static str> {
        let (tokens, cost) = match header.kind {
            frame::HEADERS => return Ok(()),
            frame::DATA if header.len > 0 || header.flags & frame::END_STREAM != 0 => return Ok(()),
            frame::RST_STREAM => (&self.resets, 1),
            _ => (&self.control, 1 + header.len / PAYLOAD_PER_CONTROL),
        };
        match tokens.get().checked_sub(cost) {
            Some(left) => {
                tokens.set(left);
                Ok(())
            }
            None => Err(words(header.kind)),
        }
    }
}

#[cold]
fn words(kind: u8) -> &'static str {
    match kind {
        frame::DATA => "too many empty DATA frames",
        frame::PRIORITY => "too many PRIORITY frames",
        frame::RST_STREAM => "too many RST_STREAM frames",
        frame::SETTINGS => "too many SETTINGS frames",
        frame::PING => "too many PING frames",
        frame::WINDOW_UPDATE => "too many WINDOW_UPDATE frames",
        frame::CONTINUATION => "too many CONTINUATION frames",
        _ => "too many frames of other kinds",
    }
}
