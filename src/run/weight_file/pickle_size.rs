//! How much there is in a pickle, before it is read into memory.
//!
//! An instruction of one byte becomes an object of a hundred, and a pickle that is compressed can hold a thousand times the
//! bytes of its file. A checkpoint of ResNet-152 with the state of its optimiser has 70,000 instructions.

use std::io::{self, BufRead, Read};

/// Instructions of a pickle, in all of a file.
const MAX_INSTRUCTIONS: u64 = 2_000_000;
/// Bytes of a pickle, in all of a file.
pub(super) const MAX_BYTES: u64 = 64 << 20;

/// What may still come.
#[derive(Debug)]
pub(super) struct Budget {
    instructions: u64,
    bytes: u64,
}

impl Budget {
    /// What a file may have.
    pub(super) fn of_a_file() -> Budget {
        Budget { instructions: MAX_INSTRUCTIONS, bytes: MAX_BYTES }
    }

    /// Passes over the pickle at which `reader` stands. What is no pickle is passed over up to where that shows.
    ///
    /// # Errors
    /// If there is more in it than may still come, or the file cannot be read.
    pub(super) fn pass(&mut self, reader: &mut impl BufRead) -> io::Result<()> {
        loop {
            let mut instruction = [0];
            if reader.read(&mut instruction)? == 0 {
                return Ok(());
            }
            self.instructions = self.instructions.checked_sub(1).ok_or_else(too_large)?;
            self.take(1)?;
            let num_bytes = match instruction[0] {
                b'.' => return Ok(()),
                // Numbers and names on lines of their own.
                b'I' | b'L' | b'F' | b'V' | b'S' | b'g' | b'p' | b'P' => {
                    self.pass_line(reader)?;
                    0
                }
                b'c' => {
                    self.pass_line(reader)?;
                    self.pass_line(reader)?;
                    0
                }
                b'K' | b'h' | b'q' | 0x80 | 0x82 => 1,
                b'M' | 0x83 => 2,
                b'J' | b'j' | b'r' | 0x84 => 4,
                b'G' | 0x95 => 8,
                // Strings and integers with their length before them.
                b'U' | b'C' | 0x8a | 0x8c => length::<1>(reader)?,
                b'T' | b'X' | b'B' | 0x8b => length::<4>(reader)?,
                0x8d | 0x8e | 0x96 => length::<8>(reader)?,
                _ => 0,
            };
            self.take(num_bytes)?;
            io::copy(&mut reader.take(num_bytes), &mut io::sink())?;
        }
    }

    fn take(&mut self, num_bytes: u64) -> io::Result<()> {
        self.bytes = self.bytes.checked_sub(num_bytes).ok_or_else(too_large)?;
        Ok(())
    }

    fn pass_line(&mut self, reader: &mut impl BufRead) -> io::Result<()> {
        loop {
            let part = reader.fill_buf()?;
            let end = part.iter().position(|&byte| byte == b'\n');
            let num_bytes = end.map_or(part.len(), |end| end + 1);
            self.take(num_bytes as u64)?;
            let is_done = end.is_some() || num_bytes == 0;
            reader.consume(num_bytes);
            if is_done {
                return Ok(());
            }
        }
    }
}

/// A little-endian length of `N` bytes.
fn length<const N: usize>(reader: &mut impl Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    reader.read_exact(&mut bytes[..N])?;
    Ok(u64::from_le_bytes(bytes))
}

fn too_large() -> io::Error {
    io::Error::new(
        io::ErrorKind::FileTooLarge,
        "has more next to its tensors than is read; save the state_dict alone: torch.save(model.state_dict(), \"weights.pth\")",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(mut bytes: &[u8], budget: &mut Budget) -> io::Result<usize> {
        let before = bytes.len();
        budget.pass(&mut bytes)?;
        Ok(before - bytes.len())
    }

    #[test]
    fn a_pickle_is_passed_over_to_its_end_in_every_kind_of_instruction() {
        // The dots in arguments end nothing.
        let pickles: [&[u8]; 6] = [
            b"\x80\x02}q.(X\x02\0\0\0..K.U\x01.M..J....G........u.",
            b"I46\nF.5\nV...\nS'.'\nL46L\np1\ng1\nccollections.a\nOrdered.Dict\n.",
            b"\x80\x04\x95........\x8c\x01.\x8d\x01\0\0\0\0\0\0\0.\x8e\x01\0\0\0\0\0\0\0.\x96\x01\0\0\0\0\0\0\0.\x94.",
            b"\x8a\x02..\x8b\x02\0\0\0..C\x01.B\x01\0\0\0.T\x01\0\0\0..",
            b"(h.j....r....\x82.\x83..\x84....P.\nQRb\x85\x86\x87\x93.",
            b".",
        ];
        for pickle in pickles {
            let followed = [pickle, b"(next"].concat();
            let num_bytes = pass(&followed, &mut Budget::of_a_file()).unwrap();
            assert_eq!(num_bytes, pickle.len(), "{}", pickle.escape_ascii());
        }
    }

    #[test]
    fn what_would_not_fit_into_memory_is_refused_unread() {
        let message = |bytes: &[u8]| pass(bytes, &mut Budget::of_a_file()).unwrap_err();
        assert_eq!(message(&vec![b'N'; 3_000_000]).kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(message(b"X\xff\xff\xff\xff").kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(message(b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff").kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(message(&vec![b'V'; MAX_BYTES as usize + 1]).kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(message(b"X\x01").kind(), io::ErrorKind::UnexpectedEof);
        // The limit is the file's.
        let mut budget = Budget::of_a_file();
        let half = [vec![b'N'; 1_200_000], b".".to_vec()].concat();
        pass(&half, &mut budget).unwrap();
        assert_eq!(pass(&half, &mut budget).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }
}
