//! TensorBoard event files: a dozen fields of protocol buffers in a simple framing.
//!
//! A file is a sequence of records: `u64` length, masked CRC-32C of those eight bytes, an `Event` message,
//! masked CRC-32C of the message. The fields are those of TensorFlow's `event.proto` and `summary.proto`.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use prost::{Message, Oneof};

use crate::error::{Error, Result};

/// `Event` of TensorFlow's `event.proto`, as much of it as is written here.
#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(oneof = "What", tags = "3, 5, 7")]
    what: Option<What>,
}

#[derive(Clone, PartialEq, Oneof)]
enum What {
    #[prost(string, tag = "3")]
    FileVersion(String),
    #[prost(message, tag = "5")]
    Summary(Summary),
    #[prost(message, tag = "7")]
    SessionLog(SessionLog),
}

/// `Summary` of `summary.proto`.
#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    /// One of several kinds of value in the schema, so it is written where it is 0, too.
    #[prost(float, required, tag = "2")]
    simple_value: f32,
}

#[derive(Clone, PartialEq, Message)]
struct SessionLog {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// `SessionLog.SessionStatus` of a session that starts.
const START: i32 = 1;

/// A new event file in a run folder. TensorBoard reads all event files of a folder as one run.
#[derive(Debug)]
pub struct EventFile {
    file: File,
    path: PathBuf,
    /// Length of the records so far; what a write that failed left behind them is cut off.
    num_bytes: u64,
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
        let mut events = EventFile { file, path, num_bytes: 0 };
        events.write(0, What::FileVersion("brain.Event:2".into()))?;
        events.write(step + 1, What::SessionLog(SessionLog { status: START }))?;
        Ok(events)
    }

    /// Logs `values`, pairs of a tag such as `train/loss` and a number, at `step`.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be written.
    pub fn scalars(&mut self, step: u64, values: &[(&str, f64)]) -> Result<()> {
        let value = |&(tag, number): &(&str, f64)| Value { tag: tag.into(), simple_value: number as f32 };
        self.write(step, What::Summary(Summary { value: values.iter().map(value).collect() }))
    }

    /// Appends an event as one record with one call.
    fn write(&mut self, step: u64, what: What) -> Result<()> {
        let event = Event { wall_time: unix_seconds(), step: step as i64, what: Some(what) };
        let record = record(&event);
        let written = self.file.set_len(self.num_bytes).and_then(|()| self.file.write_all(&record));
        written.map_err(|source| Error::io("append to", &self.path)(source))?;
        self.num_bytes += record.len() as u64;
        Ok(())
    }
}

fn record(event: &Event) -> Vec<u8> {
    let message = event.encode_to_vec();
    let length = (message.len() as u64).to_le_bytes();
    let checksum = |bytes| masked_crc32c(bytes).to_le_bytes();
    [&length[..], &checksum(&length), &message, &checksum(&message)].concat()
}

fn unix_seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// The checksum of the record framing: rotated and offset, so that a CRC of data holding CRCs stays strong.
fn masked_crc32c(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// The events in a file, each held to the bytes of its record.
    fn events_in(path: &Path) -> Vec<Event> {
        let file = fs::read(path).unwrap();
        let (mut rest, mut events) = (&file[..], Vec::new());
        while let Some((length, _)) = rest.split_first_chunk() {
            let event = Event::decode(&rest[12..][..u64::from_le_bytes(*length) as usize]).unwrap();
            rest = rest.strip_prefix(&record(&event)[..]).unwrap();
            events.push(event);
        }
        events
    }

    #[test]
    fn records_have_the_bytes_that_tensorboard_writes() {
        // Written by TensorBoard 2.21: RecordWriter over event_pb2.Event(wall_time=1.5, ..).SerializeToString().
        let summary = Summary {
            value: vec![
                Value { tag: "train/loss".into(), simple_value: 0.75 },
                Value { tag: "lr".into(), simple_value: 0.0 },
            ],
        };
        for (step, what, expected) in [
            (
                0,
                What::FileVersion("brain.Event:2".into()),
                "1800000000000000a37f4b2209000000000000f83f1a0d627261696e2e4576656e743a322a28646c",
            ),
            (
                42,
                What::SessionLog(SessionLog { status: START }),
                "0f000000000000006d532b0909000000000000f83f102a3a020801813cdd9d",
            ),
            (
                300,
                What::Summary(summary),
                "2c00000000000000f4aecc4509000000000000f83f10ac022a1e0a110a0a747261696e2f6c6f7373\
                 150000403f0a090a026c72150000000023c8e612",
            ),
        ] {
            let bytes = record(&Event { wall_time: 1.5, step, what: Some(what) });
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(hex, expected, "step {step}");
        }
    }

    #[test]
    fn scalars_are_logged_with_step_and_time() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = EventFile::create(folder.path(), 0).unwrap();
        file.scalars(300, &[("train/loss", 0.75), ("eval/loss", f64::NAN)]).unwrap();
        let events = events_in(&file.path);
        assert_eq!(events.len(), 3);
        assert!(events[2].wall_time > 1.7e9 && events[2].step == 300, "{:?}", events[2]);
        let Some(What::Summary(Summary { value })) = &events[2].what else { panic!("{:?}", events[2]) };
        assert_eq!(value[0], Value { tag: "train/loss".into(), simple_value: 0.75 });
        assert!(value[1].tag == "eval/loss" && value[1].simple_value.is_nan(), "{value:?}");
    }

    #[test]
    fn a_resumed_run_gets_a_later_file_that_names_its_first_step() {
        let folder = tempfile::tempdir().unwrap();
        let first = EventFile::create(folder.path(), 0).unwrap();
        let second = EventFile::create(folder.path(), 41).unwrap();
        assert!(first.path < second.path, "{:?} {:?}", first.path, second.path);
        assert_eq!(events_in(&second.path)[1].step, 42);
    }
}
