//! The protocol-buffer wire format, as much of it as writing an ONNX file takes.
//!
//! A message is its fields one after the other; a field is a key (field number and wire type) and a value. Whole numbers
//! are varints; strings, bytes and messages within messages are preceded by their length.
//! Source: protobuf.dev/programming-guides/encoding.

const VARINT: u64 = 0;
const LENGTH_DELIMITED: u64 = 2;
const FIXED_32: u64 = 5;

/// A message being written.
#[derive(Debug, Default)]
pub(super) struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// Appends field `number`, an int64 or an enum.
    pub(super) fn int(&mut self, number: u64, value: i64) -> &mut Message {
        self.key(number, VARINT);
        // Negative numbers are sent as the 64 bits of their two's complement.
        self.varint(value as u64);
        self
    }

    /// Appends field `number`, a float.
    pub(super) fn float(&mut self, number: u64, value: f32) -> &mut Message {
        self.key(number, FIXED_32);
        self.bytes.extend(value.to_le_bytes());
        self
    }

    /// Appends field `number`, a string.
    pub(super) fn string(&mut self, number: u64, text: &str) -> &mut Message {
        self.raw(number, text.as_bytes())
    }

    /// Appends field `number`, bytes.
    pub(super) fn raw(&mut self, number: u64, bytes: &[u8]) -> &mut Message {
        self.key(number, LENGTH_DELIMITED);
        self.varint(bytes.len() as u64);
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// Appends field `number`, a message of what `fill` writes.
    pub(super) fn message(&mut self, number: u64, fill: impl FnOnce(&mut Message)) -> &mut Message {
        let mut inner = Message::default();
        fill(&mut inner);
        self.raw(number, &inner.bytes)
    }

    /// The bytes of the message.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    fn key(&mut self, number: u64, wire_type: u64) {
        self.varint(number << 3 | wire_type);
    }

    /// Seven bits a byte, the lowest first; the top bit says that more follow.
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of the format's specification.
    #[test]
    fn fields_are_encoded_as_specified() {
        let mut message = Message::default();
        message.int(1, 150).string(2, "testing").message(3, |inner| {
            inner.int(1, 150);
        });
        let expected = b"\x08\x96\x01\x12\x07testing\x1a\x03\x08\x96\x01";
        assert_eq!(message.into_bytes(), expected);
    }

    #[test]
    fn floats_and_negative_numbers_have_their_fixed_forms() {
        let mut message = Message::default();
        message.float(2, 1.0).int(16, -2);
        let expected = b"\x15\x00\x00\x80\x3f\x80\x01\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01";
        assert_eq!(message.into_bytes(), expected);
    }
}
