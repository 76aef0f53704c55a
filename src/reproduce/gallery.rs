//! Figure 4: what augmentations make of a photo, as one picture.

use crate::batch::{Augment, Drawn};
use crate::report::canvas::{Canvas, Color, TextSize};
use crate::transform::{Image, Mix, Normalization, SampleParams};

/// A seed that draws each of the paper's augmentations strongly enough to be seen.
pub const SHOWN_SEED: u64 = 2786;

/// Draws of a policy that are shown next to the original.
const NUM_DRAWS: u32 = 8;
/// Pictures in a row.
const NUM_COLUMNS: usize = 3;
/// Pixels between pictures, and between them and the edge.
const GAP: u32 = 12;
/// Pictures are enlarged by a whole factor to about this many pixels.
const SHOWN_SIZE: usize = 256;
const PAPER: Color = [255; 3];
const INK: Color = [40, 40, 40];

/// Pictures with captions, all of one size.
pub struct Gallery {
    tiles: Vec<Tile>,
    size: usize,
}

impl Gallery {
    /// The original and each of the paper's augmentations alone.
    pub fn figure_4(photo: Image<'_>, seed: u64) -> Gallery {
        Gallery { tiles: figure_4(photo, seed), size: photo.width() }
    }

    /// The original and what `policy` makes of it in several epochs.
    pub fn draws_of(policy: &Augment, photo: Image<'_>, seed: u64) -> Gallery {
        Gallery { tiles: draws_of(policy, photo, seed), size: photo.width() }
    }

    /// The number of pictures.
    pub fn len(&self) -> usize {
        self.tiles.len()
    }

    /// All of them in rows.
    pub fn draw(&self) -> Canvas {
        grid(&self.tiles, self.size)
    }
}

/// A picture, HWC u8, with its caption.
struct Tile {
    caption: String,
    pixels: Vec<u8>,
}

impl Tile {
    fn new(caption: impl Into<String>, photo: Image<'_>, drawn: &Drawn) -> Tile {
        let Some(steps) = &drawn.steps else { return Tile::sampled(caption, photo, &drawn.params) };
        let [mut bytes, mut spare] = [(); 2].map(|()| vec![[0; 3]; photo.pixels().len()]);
        steps.run(&drawn.params, photo, &mut bytes, &mut spare);
        let changed = Image::new(bytes.as_flattened(), photo.height(), photo.width());
        Tile::sampled(caption, changed, &drawn.params.without_bytes())
    }

    fn sampled(caption: impl Into<String>, photo: Image<'_>, params: &SampleParams) -> Tile {
        let mut row = vec![[0.0; 3]; photo.width()];
        let mut pixels = Vec::with_capacity(photo.pixels().len() * 3);
        for y in 0..photo.height() {
            params.sample_row(photo, y, &mut row);
            row[params.erased.columns(y)].fill(Normalization::default().mean.map(|mean| 255.0 * mean));
            pixels.extend(row.as_flattened().iter().map(|value| value.round() as u8));
        }
        Tile { caption: caption.into(), pixels }
    }

    fn original(photo: Image<'_>) -> Tile {
        Tile::sampled("original", photo, &SampleParams::NONE)
    }
}

/// The original and each of the paper's augmentations alone.
fn figure_4(photo: Image<'_>, seed: u64) -> Vec<Tile> {
    let policy = |text: &str| text.parse::<Augment>().expect("the paper's policy and its names are known");
    let mut tiles = vec![Tile::original(photo)];
    for name in policy("paper").names() {
        let drawn = policy(&format!("{name}@1")).draw(photo.width(), seed, 0, 0, || photo.mean_grey());
        tiles.push(Tile::new(name, photo, &drawn));
    }
    tiles
}

/// The original and what `policy` makes of it in several epochs. Where it mixes, the partner is the photo as another
/// draw shows it.
fn draws_of(policy: &Augment, photo: Image<'_>, seed: u64) -> Vec<Tile> {
    let size = photo.width();
    let draw = |epoch, index| policy.draw(size, seed, epoch, index, || photo.mean_grey());
    let drawn = (0..NUM_DRAWS).map(|epoch| {
        let mut tile = Tile::new(format!("draw {}", epoch + 1), photo, &draw(epoch, 0));
        let mix = policy.draw_mix(size, seed, epoch, 0);
        if !mix.is_none() {
            tile.blend(&Tile::new("", photo, &draw(epoch, 1)), &mix, size);
        }
        tile
    });
    [Tile::original(photo)].into_iter().chain(drawn).collect()
}

impl Tile {
    fn blend(&mut self, partner: &Tile, mix: &Mix, width: usize) {
        let rows = self.pixels.chunks_exact_mut(3 * width).zip(partner.pixels.chunks_exact(3 * width));
        for (y, (own, other)) in rows.enumerate() {
            let columns = mix.columns(y);
            let elems = 3 * columns.start..3 * columns.end;
            for (own, &other) in own[elems.clone()].iter_mut().zip(&other[elems]) {
                *own = mix.blend(f32::from(*own), f32::from(other)).round() as u8;
            }
        }
        let kind = if mix.weight > 0.0 { "mixup" } else { "cutmix" };
        let share = 100.0 * (1.0 - mix.own_share(self.pixels.len() / 3));
        self.caption += &format!(", {kind} {share:.0} %");
    }
}

fn grid(tiles: &[Tile], size: usize) -> Canvas {
    let zoom = (SHOWN_SIZE / size).max(1) as u32;
    let side = size as u32 * zoom;
    let (step_x, step_y) = (side + GAP, side + GAP + TextSize::Large.height() + 2);
    let num_rows = tiles.len().div_ceil(NUM_COLUMNS) as u32;
    let mut canvas = Canvas::new(NUM_COLUMNS as u32 * step_x + GAP, num_rows * step_y + GAP, PAPER);
    for (i, tile) in tiles.iter().enumerate() {
        let x = (GAP + (i % NUM_COLUMNS) as u32 * step_x) as i32;
        let y = (GAP + (i / NUM_COLUMNS) as u32 * step_y) as i32;
        canvas.image((x, y), &tile.pixels, size, zoom);
        canvas.text((x, y + side as i32 + 2), &tile.caption, TextSize::Large, INK);
    }
    canvas
}
