//! Generated scenes: ten categories of drawn landscapes and towns whose object polygons are known.
//!
//! They stand in where there is no data set. A scene is a pure function of (seed, split, index), so training and
//! held-out scenes never share a draw. Light, sky and ground colours come from palettes that all categories share:
//! what tells a category is its shapes, not its mean colour.

mod compose;
mod outlines;
mod raster;
mod write;

use super::Split;
use crate::rng::{Stream, Use};
use raster::Canvas;
pub use write::write_miniplaces;

/// Names of the categories; a label is an index into them.
pub const CATEGORIES: [&str; 10] =
    ["beach", "bridge", "castle", "desert", "forest", "harbour", "mountain", "skyline", "street", "windmill"];

/// Names of the object classes; [`SceneObject::class`] is an index into them.
pub const OBJECT_CATEGORIES: [&str; 24] = [
    "boat", "bridge", "cactus", "castle", "cloud", "door", "field", "ground", "hill", "house", "lamp",
    "mountain", "parasol", "quay", "road", "roof", "sail", "sand", "sea", "sky", "sun", "tower", "tree",
    "windmill",
];

/// Which scenes [`Pack::from_scenes`](super::Pack::from_scenes) draws.
#[derive(Debug, Clone, Copy)]
pub struct SceneOptions {
    /// Training scenes and held-out ones differ.
    pub split: Split,
    /// How many; categories take turns.
    pub num_images: usize,
    /// Number of categories, the first of [`CATEGORIES`]; at least 1.
    pub num_categories: usize,
    /// Width and height in pixels.
    pub image_size: usize,
    /// Seed of every draw.
    pub seed: u64,
}

impl SceneOptions {
    /// Scene `index` of these, not yet rendered.
    pub fn scene(&self, index: usize) -> Scene {
        let (round, category) = (index / self.num_categories, index % self.num_categories);
        Scene::draw(self.seed, self.split, (round * CATEGORIES.len() + category) as u32)
    }
}

/// One scene, drawn but not yet rendered.
#[derive(Debug, Clone)]
pub struct Scene {
    /// Index into [`CATEGORIES`].
    pub category: u32,
    /// What is in it, back to front.
    pub objects: Vec<SceneObject>,
    light: [f32; 3],
    noise_level: f32,
    noise: Stream,
}

/// One object of a scene.
#[derive(Debug, Clone)]
pub struct SceneObject {
    /// Index into [`OBJECT_CATEGORIES`].
    pub class: u32,
    /// Corners (x, y), 0..1 from the top left corner of the image and never outside.
    pub polygon: Vec<(f32, f32)>,
    top: [f32; 3],
    bottom: [f32; 3],
}

impl Scene {
    /// Scene `index` of `split` under `seed`; its category is `index` modulo ten.
    pub fn draw(seed: u64, split: Split, index: u32) -> Scene {
        let mut stream = Stream::new(seed, split as u32, index, Use::Scenes);
        let category = index % CATEGORIES.len() as u32;
        let objects = compose::compose(category, &mut stream);
        let exposure = 0.7 + 0.4 * stream.uniform();
        let light = std::array::from_fn(|_| exposure * (0.9 + 0.2 * stream.uniform()));
        let noise_level = 3.0 + 8.0 * stream.uniform();
        Scene { category, objects, light, noise_level, noise: stream }
    }

    /// The name of the scene's category.
    pub fn category_name(&self) -> &'static str {
        CATEGORIES[self.category as usize]
    }

    /// Renders the scene into `pixels`, `image_size * image_size * 3` bytes in HWC order.
    ///
    /// # Panics
    /// If `pixels` has another length.
    pub fn render(&self, image_size: usize, pixels: &mut [u8]) {
        assert_eq!(pixels.len(), image_size * image_size * 3, "one RGB triple per pixel");
        let mut canvas = Canvas::new(image_size);
        for object in &self.objects {
            canvas.fill(&object.polygon, object.top, object.bottom);
        }
        let mut noise = self.noise.clone();
        let drawn = canvas.pixels().iter().flat_map(|pixel| std::iter::zip(pixel, self.light));
        for (out, (value, light)) in pixels.iter_mut().zip(drawn) {
            *out =
                (value * light + self.noise_level * bell(noise.next_u32())).round().clamp(0.0, 255.0) as u8;
        }
    }
}

/// A nearly normal value of unit variance from 32 random bits: the sum of their four bytes, centred.
fn bell(bits: u32) -> f32 {
    // Each byte has mean 127.5 and variance (256^2 - 1) / 12.
    let sum: u32 = bits.to_le_bytes().into_iter().map(u32::from).sum();
    (sum as f32 - 510.0) / 147.80
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scene_depends_on_seed_split_and_index_only() {
        let render = |seed, split, index| {
            let mut pixels = vec![0; 24 * 24 * 3];
            Scene::draw(seed, split, index).render(24, &mut pixels);
            pixels
        };
        let base = render(1, Split::Train, 5);
        assert_eq!(base, render(1, Split::Train, 5));
        assert_ne!(base, render(2, Split::Train, 5));
        assert_ne!(base, render(1, Split::Val, 5));
        assert_ne!(base, render(1, Split::Train, 15));
    }

    #[test]
    fn every_scene_has_objects_of_known_classes_inside_the_image() {
        let mut seen = [false; OBJECT_CATEGORIES.len()];
        for index in 0..400 {
            let scene = Scene::draw(3, Split::Train, index);
            assert_eq!(scene.category, index % 10);
            for object in &scene.objects {
                seen[object.class as usize] = true;
                assert!(object.polygon.len() >= 3);
                assert!(
                    object.polygon.iter().all(|&(x, y)| (0.0..=1.0).contains(&x) && (0.0..=1.0).contains(&y))
                );
            }
        }
        let unseen: Vec<&str> =
            std::iter::zip(OBJECT_CATEGORIES, seen).filter(|(_, s)| !s).map(|(n, _)| n).collect();
        assert!(unseen.is_empty(), "never drawn: {unseen:?}");
    }

    #[test]
    fn noise_has_zero_mean_and_unit_variance() {
        let mut stream = Stream::new(1, 0, 0, Use::Scenes);
        let values: Vec<f32> = (0..50_000).map(|_| bell(stream.next_u32())).collect();
        let mean = values.iter().sum::<f32>() / 50_000.0;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / 50_000.0;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.03, "{mean} {variance}");
    }
}
