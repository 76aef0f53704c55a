//! Whether a JPEG is whole, told from its markers and lengths: of what is not there, decoders make grey.

use std::result::Result;

const START_OF_SCAN: u8 = 0xDA;
const END_OF_IMAGE: u8 = 0xD9;
const ENDS_EARLY: &str = "the JPEG ends early";

/// The reason why the JPEG in `bytes` is not whole, if it is not.
///
/// It reaches its end-of-image marker, every colour is coded, and there are bits for every block of pixels: a block takes a
/// code for its mean and, unless the image is progressive, one for the end of its other coefficients, and no code of the
/// Huffman tables is shorter than a bit (ITU-T T.81, annexes C and F). Segments are walked by their lengths, so the end marker of an embedded
/// thumbnail does not count.
pub(super) fn expect_whole(bytes: &[u8]) -> Result<(), String> {
    let (mut at, mut frame) = (2, None);
    while let Some(marker) = next_marker(bytes, &mut at) {
        if marker == END_OF_IMAGE {
            return frame.as_ref().map_or(Ok(()), Frame::expect_all_coded);
        }
        let Some(&[high, low]) = bytes.get(at..at + 2) else { break };
        let end = at + usize::from(u16::from_be_bytes([high, low]));
        let segment = bytes.get(at..end).unwrap_or_default();
        at = end;
        if let 0xC0..=0xC2 = marker {
            frame = Frame::of(segment, marker == 0xC2);
        }
        if marker == START_OF_SCAN {
            skip_entropy_coded(bytes, &mut at);
            if let Some(frame) = &mut frame {
                frame.count_scan(segment, at - end)?;
            }
        }
    }
    Err(ENDS_EARLY.into())
}

/// What the header of an image with Huffman codes says.
#[derive(Debug)]
struct Frame {
    extents: [u64; 2],
    is_progressive: bool,
    components: Vec<Component>,
}

/// A colour, or the brightness.
#[derive(Debug)]
struct Component {
    id: u8,
    /// How finely it is sampled, along the width and along the height.
    sampling: [u64; 2],
    is_coded: bool,
}

impl Frame {
    /// `None` where the header is cut, or says the height after the first scan.
    fn of(segment: &[u8], is_progressive: bool) -> Option<Frame> {
        let &[_, _, _, y1, y0, x1, x0, _, ref components @ ..] = segment else { return None };
        let extents = [[x1, x0], [y1, y0]].map(|pair| u64::from(u16::from_be_bytes(pair)));
        let component = |&[id, sampling, _]: &[u8; 3]| {
            let sampling = [sampling >> 4, sampling & 15].map(u64::from);
            Component { id, sampling, is_coded: false }
        };
        let components: Vec<Component> = components.as_chunks().0.iter().map(component).collect();
        let is_sound = components.iter().all(|component| component.sampling.iter().all(|&count| count > 0));
        (is_sound && extents[1] > 0).then_some(Frame { extents, is_progressive, components })
    }

    /// Blocks of 8 by 8 that a scan of these components codes.
    fn num_blocks(&self, components: &[usize]) -> u64 {
        let finest =
            |side: usize| self.components.iter().map(|component| component.sampling[side]).max().unwrap_or(1);
        let along = |side: usize| match components {
            // A scan of one component ends with its own last block, others with a group of blocks of all.
            &[only] => {
                (self.extents[side] * self.components[only].sampling[side]).div_ceil(finest(side)).div_ceil(8)
            }
            _ => self.extents[side].div_ceil(8 * finest(side)),
        };
        let of_group = |component: &usize| self.components[*component].sampling.iter().product::<u64>();
        let group = if components.len() == 1 { 1 } else { components.iter().map(of_group).sum() };
        along(0) * along(1) * group
    }

    /// Counts a scan with this header and so many bytes of data.
    fn count_scan(&mut self, header: &[u8], num_bytes: usize) -> Result<(), String> {
        let &[_, _, count, ref rest @ ..] = header else { return Ok(()) };
        let Some((selectors, &[first_coefficient, _, approximation, ..])) =
            rest.split_at_checked(2 * usize::from(count))
        else {
            return Ok(());
        };
        // What comes later refines the coefficients, for any number of blocks by one code.
        if first_coefficient > 0 || approximation >> 4 > 0 {
            return Ok(());
        }
        let place = |id: u8| self.components.iter().position(|component| component.id == id);
        let scanned: Vec<usize> = selectors.chunks(2).filter_map(|pair| place(pair[0])).collect();
        let codes = if self.is_progressive { 1 } else { 2 };
        if 8 * (num_bytes as u64) < codes * self.num_blocks(&scanned) {
            let [width, height] = self.extents;
            return Err(format!("{ENDS_EARLY}: {num_bytes} bytes are too few for {width} x {height} pixels"));
        }
        scanned.into_iter().for_each(|index| self.components[index].is_coded = true);
        Ok(())
    }

    fn expect_all_coded(&self) -> Result<(), String> {
        if self.components.iter().all(|component| component.is_coded) {
            return Ok(());
        }
        Err(format!("{ENDS_EARLY}: colours are missing"))
    }
}

/// The code of the next marker at or after `at`, which moves past it.
fn next_marker(bytes: &[u8], at: &mut usize) -> Option<u8> {
    loop {
        let start = *at + bytes.get(*at..)?.iter().position(|&byte| byte == 0xFF)?;
        *at = start + 1;
        match *bytes.get(*at)? {
            // A fill byte or stuffed zero, not a marker.
            0xFF | 0x00 => {}
            code => {
                *at += 1;
                return Some(code);
            }
        }
    }
}

/// Moves `at` to the first marker after entropy-coded data; restart markers are part of that data.
fn skip_entropy_coded(bytes: &[u8], at: &mut usize) {
    loop {
        let mut end = *at;
        match next_marker(bytes, &mut end) {
            Some(0xD0..=0xD7) => *at = end,
            Some(_) => {
                *at = end - 2;
                return;
            }
            None => {
                *at = bytes.len().max(*at);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use image::RgbImage;
    use image::codecs::jpeg::JpegEncoder;

    use super::*;

    fn jpeg(width: u32, height: u32) -> Vec<u8> {
        let pixel = |x, y| image::Rgb([(x * 9) as u8, (y * 7) as u8, (x * y) as u8]);
        let mut bytes = Vec::new();
        let image = RgbImage::from_fn(width, height, pixel);
        JpegEncoder::new_with_quality(&mut bytes, 90).encode_image(&image).unwrap();
        bytes
    }

    /// A grey image of which every block is two codes of one bit, and which has so many bytes of them.
    fn shortest(width: u16, height: u16, num_bytes: usize) -> Vec<u8> {
        let mut bytes = vec![0xFF, 0xD8];
        let mut segment = |marker: u8, content: &[u8]| {
            bytes.extend([0xFF, marker]);
            bytes.extend((content.len() as u16 + 2).to_be_bytes());
            bytes.extend(content);
        };
        segment(0xDB, &[&[0][..], &[1; 64]].concat());
        let [[y1, y0], [x1, x0]] = [height, width].map(u16::to_be_bytes);
        segment(0xC0, &[8, y1, y0, x1, x0, 1, 1, 0x11, 0]);
        for table in [0x00, 0x10] {
            let mut one_code = vec![0; 18];
            (one_code[0], one_code[1]) = (table, 1);
            segment(0xC4, &one_code);
        }
        segment(START_OF_SCAN, &[1, 1, 0, 0, 63, 0]);
        bytes.resize(bytes.len() + num_bytes, 0);
        bytes.extend([0xFF, END_OF_IMAGE]);
        bytes
    }

    #[test]
    fn every_cut_of_a_jpeg_is_seen() {
        let bytes = jpeg(23, 17);
        assert_eq!(expect_whole(&bytes), Ok(()));
        for len in 2..bytes.len() {
            assert!(expect_whole(&bytes[..len]).is_err(), "cut at {len} of {}", bytes.len());
        }
    }

    #[test]
    fn a_thumbnail_does_not_hide_that_the_image_is_cut() {
        let (thumbnail, whole) = (jpeg(5, 4), jpeg(23, 17));
        let mut bytes = vec![0xFF, 0xD8, 0xFF, 0xE1];
        bytes.extend((thumbnail.len() as u16 + 2).to_be_bytes());
        bytes.extend(&thumbnail);
        bytes.extend(&whole[2..]);
        assert_eq!(expect_whole(&bytes), Ok(()));
        assert!(expect_whole(&bytes[..bytes.len() - 40]).is_err());
    }

    #[test]
    fn two_bits_a_block_are_enough_and_less_is_not() {
        // 9 times 7 blocks.
        let image = image::load_from_memory(&shortest(65, 56, 16)).unwrap();
        assert_eq!((image.width(), image.height()), (65, 56));
        assert_eq!(expect_whole(&shortest(65, 56, 16)), Ok(()));
        let message = expect_whole(&shortest(65, 56, 15)).unwrap_err();
        assert!(message.contains("15 bytes are too few for 65 x 56 pixels"), "{message}");
        assert!(expect_whole(&shortest(13_000, 13_000, 3000)).is_err());
    }

    #[test]
    fn blocks_follow_from_how_finely_colours_are_sampled() {
        let header = [0, 0, 8, 0, 17, 0, 33, 3, 1, 0x21, 0, 2, 0x11, 0, 3, 0x11, 0];
        let frame = Frame::of(&header, false).unwrap();
        // Groups of 16 by 8 pixels, with two blocks of brightness and one of each colour.
        assert_eq!(frame.num_blocks(&[0, 1, 2]), 3 * 3 * 4);
        assert_eq!(frame.num_blocks(&[0]), 5 * 3);
        assert_eq!(frame.num_blocks(&[1]), 3 * 3);
    }

    #[test]
    fn a_colour_that_is_nowhere_coded_is_missed() {
        let whole = jpeg(23, 17);
        let at = whole.windows(2).position(|pair| pair == [0xFF, START_OF_SCAN]).unwrap();
        let without = [&whole[..at], &[0xFF, END_OF_IMAGE]].concat();
        assert!(expect_whole(&without).unwrap_err().contains("colours are missing"));
    }
}
