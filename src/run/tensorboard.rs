//! TensorBoard event files, written by hand: a dozen fields of protocol buffers in a simple framing.
//!
//! A file is a sequence of records: `u64` length, masked CRC-32C of those eight bytes, an `Event` message,
//! masked CRC-32C of the message. Field numbers are those of TensorFlow's `event.proto` and `summary.proto`.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::{Error, Result};

/// Field numbers of `Event`.
mod event {
    pub const WALL_TIME: u32 = 1;
    pub const STEP: u32 = 2;
    pub const FILE_VERSION: u32 = 3;
    pub const SUMMARY: u32 = 5;
    pub const SESSION_LOG: u32 = 7;
}
/// Field number of the one repeated field of `Summary`.
const SUMMARY_VALUE: u32 = 1;
/// Field numbers of `Summary.Value`.
const VALUE_TAG: u32 = 1;
const VALUE_SIMPLE: u32 = 2;
/// Field number and value of `SessionLog.status` for a session that starts.
const SESSION_STATUS: u32 = 1;
const SESSION_START: u64 = 1;

/// Wire types of protocol buffers.
const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const BYTES: u32 = 2;
const FIXED32: u32 = 5;

/// A new event file in a run folder. TensorBoard reads all event files of a folder as one run.
#[derive(Debug)]
pub struct EventFile {
    file: File,
    path: PathBuf,
    /// Reused, so that writing allocates nothing once they have grown.
    message: Vec<u8>,
    record: Vec<u8>,
}

impl EventFile {
    /// Makes `events.out.tfevents.<Unix seconds>.residuum` in `folder` for the steps after `step`.
    ///
    /// TensorBoard then hides what earlier files of the folder logged after `step`: a resumed run logs it
    /// anew.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be made or written.
    pub fn create(folder: &Path, step: u64) -> Result<EventFile> {
        let mut seconds = unix_seconds() as u64;
        let (file, path) = loop {
            let path = folder.join(format!("events.out.tfevents.{seconds:010}.residuum"));
            match OpenOptions::new().append(true).create_new(true).open(&path) {
                Ok(file) => break (file, path),
                // A run that was resumed within the second; the later file must sort later.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => seconds += 1,
                Err(error) => return Err(Error::io("create", path)(error)),
            }
        };
        let mut events = EventFile { file, path, message: Vec::new(), record: Vec::new() };
        events.write(|message| put_bytes(message, event::FILE_VERSION, b"brain.Event:2"))?;
        events.write(|message| {
            put_varint_field(message, event::STEP, step + 1);
            put_message(message, event::SESSION_LOG, |log| {
                put_varint_field(log, SESSION_STATUS, SESSION_START);
            });
        })?;
        Ok(events)
    }

    /// Logs `values`, pairs of a tag such as `train/loss` and a number, at `step`.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be written.
    pub fn scalars(&mut self, step: u64, values: &[(&str, f64)]) -> Result<()> {
        self.write(|message| {
            put_varint_field(message, event::STEP, step);
            put_message(message, event::SUMMARY, |summary| {
                for (tag, number) in values {
                    put_message(summary, SUMMARY_VALUE, |value| {
                        put_bytes(value, VALUE_TAG, tag.as_bytes());
                        put_key(value, VALUE_SIMPLE, FIXED32);
                        value.extend((*number as f32).to_le_bytes());
                    });
                }
            });
        })
    }

    /// Writes the event whose fields beside the time `fill` writes, as one record with one call.
    fn write(&mut self, fill: impl FnOnce(&mut Vec<u8>)) -> Result<()> {
        self.message.clear();
        put_key(&mut self.message, event::WALL_TIME, FIXED64);
        self.message.extend(unix_seconds().to_le_bytes());
        fill(&mut self.message);

        let length = (self.message.len() as u64).to_le_bytes();
        self.record.clear();
        self.record.extend(length);
        self.record.extend(masked_crc32c(&length).to_le_bytes());
        self.record.extend(&self.message);
        self.record.extend(masked_crc32c(&self.message).to_le_bytes());
        self.file.write_all(&self.record).map_err(|source| Error::io("append to", &self.path)(source))
    }
}

fn unix_seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// The checksum of the record framing: rotated and offset, so that a CRC of data holding CRCs stays strong.
fn masked_crc32c(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_key(out: &mut Vec<u8>, field: u32, wire_type: u32) {
    put_varint(out, u64::from(field << 3 | wire_type));
}

fn put_varint_field(out: &mut Vec<u8>, field: u32, value: u64) {
    put_key(out, field, VARINT);
    put_varint(out, value);
}

fn put_bytes(out: &mut Vec<u8>, field: u32, bytes: &[u8]) {
    put_key(out, field, BYTES);
    put_varint(out, bytes.len() as u64);
    out.extend(bytes);
}

/// A nested message: written in place, its length put before it afterwards.
fn put_message(out: &mut Vec<u8>, field: u32, fill: impl FnOnce(&mut Vec<u8>)) {
    put_key(out, field, BYTES);
    let start = out.len();
    fill(out);
    let length = out.len() - start;
    put_varint(out, length as u64);
    let length_bytes = out.len() - start - length;
    out[start..].rotate_right(length_bytes);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;

    use super::*;

    /// A field of a message, as any protocol buffer parser sees it.
    #[derive(Debug, Clone, PartialEq)]
    enum Field {
        Number(u64),
        Bytes(Vec<u8>),
    }

    impl Field {
        fn number(&self) -> u64 {
            match self {
                Field::Number(value) => *value,
                Field::Bytes(_) => panic!("bytes where a number belongs"),
            }
        }

        fn message(&self) -> BTreeMap<u64, Vec<Field>> {
            match self {
                Field::Bytes(bytes) => parse(bytes),
                Field::Number(_) => panic!("a number where a message belongs"),
            }
        }
    }

    /// Takes a varint off the front of `bytes`.
    fn varint(bytes: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let byte = bytes[0];
            *bytes = &bytes[1..];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        value
    }

    fn parse(mut bytes: &[u8]) -> BTreeMap<u64, Vec<Field>> {
        let mut fields: BTreeMap<u64, Vec<Field>> = BTreeMap::new();
        while !bytes.is_empty() {
            let key = varint(&mut bytes);
            let mut take = |count: usize| {
                let (head, tail) = bytes.split_at(count);
                bytes = tail;
                head.to_vec()
            };
            let field = match key & 7 {
                0 => Field::Number(varint(&mut bytes)),
                1 => Field::Number(u64::from_le_bytes(take(8).try_into().unwrap())),
                5 => Field::Number(u32::from_le_bytes(take(4).try_into().unwrap()).into()),
                2 => {
                    let length = varint(&mut bytes) as usize;
                    let (head, tail) = bytes.split_at(length);
                    bytes = tail;
                    Field::Bytes(head.to_vec())
                }
                other => panic!("wire type {other}"),
            };
            fields.entry(key >> 3).or_default().push(field);
        }
        fields
    }

    /// CRC-32C bit by bit from its polynomial, then the mask as TensorFlow defines it.
    fn reference_masked_crc(bytes: &[u8]) -> u32 {
        let mut crc = !0_u32;
        for byte in bytes {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
            }
        }
        // TensorFlow's mask: the lower 15 bits move to the top, then a constant is added modulo 2^32.
        let crc = u64::from(!crc);
        let turned = (crc >> 15) + (crc % (1 << 15)) * (1 << 17);
        ((turned + 0xa282_ead8) % (1 << 32)) as u32
    }

    fn events_in(mut bytes: &[u8]) -> Vec<BTreeMap<u64, Vec<Field>>> {
        let mut events = Vec::new();
        while !bytes.is_empty() {
            let word = |from: usize| u32::from_le_bytes(bytes[from..from + 4].try_into().unwrap());
            let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            assert_eq!(word(8), reference_masked_crc(&bytes[..8]));
            let message = &bytes[12..12 + length];
            assert_eq!(word(12 + length), reference_masked_crc(message));
            events.push(parse(message));
            bytes = &bytes[16 + length..];
        }
        events
    }

    #[test]
    fn an_independent_parser_reads_the_scalars_back() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = EventFile::create(folder.path(), 0).unwrap();
        let long_tag = "eval/".to_string() + &"x".repeat(200);
        file.scalars(300, &[("train/loss", 0.75), (&long_tag, -1e-3)]).unwrap();
        file.scalars(u64::from(u32::MAX), &[("lr", f64::NAN)]).unwrap();

        let events = events_in(&fs::read(&file.path).unwrap());
        assert_eq!(events.len(), 4);
        assert_eq!(events[0][&3], [Field::Bytes(b"brain.Event:2".to_vec())]);
        assert_eq!(events[1][&2][0].number(), 1);
        assert_eq!(events[1][&7][0].message()[&1][0].number(), 1);

        assert!(f64::from_bits(events[2][&1][0].number()) > 1.7e9, "wall time in seconds");
        assert_eq!(events[2][&2][0].number(), 300);
        let values: Vec<_> = events[2][&5][0].message()[&1].iter().map(Field::message).collect();
        assert_eq!(values.len(), 2);
        assert_eq!(values[0][&1], [Field::Bytes(b"train/loss".to_vec())]);
        assert_eq!(values[0][&2][0].number(), u64::from(0.75_f32.to_bits()));
        assert_eq!(values[1][&1], [Field::Bytes(long_tag.into_bytes())]);
        assert_eq!(values[1][&2][0].number(), u64::from((-1e-3_f32).to_bits()));

        assert_eq!(events[3][&2][0].number(), u64::from(u32::MAX));
        let value = events[3][&5][0].message()[&1][0].message();
        assert!(f32::from_bits(value[&2][0].number() as u32).is_nan());
    }

    #[test]
    fn a_resumed_run_gets_a_later_file_that_names_its_first_step() {
        let folder = tempfile::tempdir().unwrap();
        let first = EventFile::create(folder.path(), 0).unwrap();
        let second = EventFile::create(folder.path(), 41).unwrap();
        assert!(first.path < second.path, "{:?} {:?}", first.path, second.path);
        let events = events_in(&fs::read(&second.path).unwrap());
        assert_eq!(events[1][&2][0].number(), 42);
    }

    #[test]
    fn the_checksum_is_the_published_one() {
        // CRC-32C of 32 zero bytes, RFC 3720 section B.4.
        assert_eq!(crc32c::crc32c(&[0; 32]), 0x8a91_36aa);
        for bytes in [&b""[..], b"a", b"123456789"] {
            assert_eq!(masked_crc32c(bytes), reference_masked_crc(bytes));
        }
    }
}
