//! An event's row: its columns, its checksum, its weight.

use rusqlite::{Row, types::ValueRef};

use super::{
    id::Seq,
    record::{Record, Wall},
};

/// What a row costs besides its bytes: what a count of bytes must not forget for tiny events.
const ROW: u64 = 64;

/// What an event counts against the limits.
pub(super) fn size(record: &Record) -> u64 {
    let key = record.key.as_ref().map_or(0, bytes::Bytes::len);
    let bytes = record.head.len() + record.body.len() + record.upstream.len() + record.route.len();
    (bytes + key) as u64 + ROW
}

/// The record's checksum is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Damaged;

/// An event's row, borrowed from whoever holds it.
pub(super) struct Fields<'a> {
    pub upstream: &'a str,
    pub route: &'a str,
    pub key: Option<&'a [u8]>,
    pub accepted: Wall,
    pub due: Wall,
    pub expiry: Option<Wall>,
    pub cause: Option<&'a str>,
    pub replays: u32,
    pub size: u64,
    pub head: &'a [u8],
    pub body: &'a [u8],
}

impl<'a> Fields<'a> {
    /// Reads the eleven columns in this struct's order.
    pub(super) fn read(row: &'a Row<'_>) -> rusqlite::Result<Self> {
        Ok(Fields {
            upstream: row.get_ref(0)?.as_str()?,
            route: row.get_ref(1)?.as_str()?,
            key: row.get_ref(2)?.as_blob_or_null()?,
            accepted: Wall(row.get(3)?),
            due: Wall(row.get(4)?),
            expiry: row.get::<_, Option<i64>>(5)?.map(Wall),
            cause: row.get_ref(6)?.as_str_or_null()?,
            replays: row.get(7)?,
            size: row.get::<_, i64>(8)? as u64,
            head: blob(row.get_ref(9)?)?,
            body: blob(row.get_ref(10)?)?,
        })
    }

    /// CRC-32 over every field, each with its length, and over the place: a row that was moved is damaged too.
    pub(super) fn checksum(&self, seq: Seq) -> i64 {
        let mut sum = crc32fast::Hasher::new();
        let numbers = [
            seq.0,
            self.accepted.0,
            self.due.0,
            self.expiry.map_or(i64::MIN, |e| e.0),
            i64::from(self.replays),
            self.size as i64,
        ];
        for number in numbers {
            sum.update(&number.to_le_bytes());
        }
        let texts = [
            Some(self.upstream.as_bytes()),
            Some(self.route.as_bytes()),
            self.key,
            self.cause.map(str::as_bytes),
            Some(self.head),
            Some(self.body),
        ];
        for text in texts {
            let length = text.map_or(u64::MAX, |text| text.len() as u64);
            sum.update(&length.to_le_bytes());
            sum.update(text.unwrap_or_default());
        }
        i64::from(sum.finalize())
    }
}

fn blob(value: ValueRef<'_>) -> rusqlite::Result<&[u8]> {
    Ok(value.as_blob()?)
}
