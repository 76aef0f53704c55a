//! Images a second that one worker prepares, by policy and by what is delivered: `cargo bench --bench loader`.
//!
//! `--size 128` sets the pixels, `--seconds 1` the time of each run; the median of five runs is printed. Pixels are
//! those of generated scenes, in a pack on disk, as photos are.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use residuum::batch::{BatchContents, Loader, LoaderOptions, Normalization};
use residuum::data::{self, OpenOptions, Pack, Split, scenes};
use tempfile::TempDir;

const POLICIES: [&str; 14] = [
    "none",
    "flip",
    "flip,shift",
    "rotate",
    "brightness,contrast",
    "drop",
    "mixup",
    "paper",
    "compose",
    "modern",
    "resized-crop,flip",
    "resized-crop,flip,trivial-augment",
    "resized-crop,flip,rand-augment",
    "flip,trivial-augment",
];
const NUM_RUNS: usize = 5;
const BATCH_SIZE: usize = 64;

fn main() {
    let image_size = argument("--size").map_or(128, |text| text.parse().expect("--size takes a number"));
    let seconds = argument("--seconds").map_or(1.0, |text| text.parse().expect("--seconds takes a number"));
    let folder = TempDir::new().expect("a temporary folder");
    let pack = Arc::new(scene_pack(folder.path(), image_size));
    println!("policy                             contents   images/s ({image_size} px, one worker)");
    for policy in POLICIES {
        for contents in [BatchContents::Images, BatchContents::Pixels, BatchContents::Indices] {
            let mut rates: Vec<f64> = (0..NUM_RUNS)
                .map(|_| rate(&pack, policy, contents, Duration::from_secs_f64(seconds)))
                .collect();
            rates.sort_by(f64::total_cmp);
            println!("{policy:<34} {:<8} {:>9.0}", format!("{contents:?}"), rates[NUM_RUNS / 2]);
        }
    }
}

/// A pack in `folder` of scenes that are written there first.
fn scene_pack(folder: &Path, image_size: usize) -> Pack {
    scenes::write_miniplaces(folder, 640, 10, image_size, 1).expect("room for 650 scenes");
    let dataset = data::open(folder, &OpenOptions::default()).expect("the scenes just written");
    Pack::open_or_build(&dataset, Split::Train, image_size, &folder.join("cache")).expect("a pack")
}

/// Images a second over `time`, after a few batches to warm up.
fn rate(pack: &Arc<Pack>, policy: &str, contents: BatchContents, time: Duration) -> f64 {
    let options = LoaderOptions {
        augment: policy.parse().expect("a policy"),
        normalization: Normalization::default(),
        contents,
        seed: 1,
        workers: 1,
        prefetch: 2,
        ..LoaderOptions::new(BATCH_SIZE)
    };
    let mut loader = Loader::train(Arc::clone(pack), &options, 0, 0).expect("a loader");
    let mut step = || {
        let batch = loader.next().expect("a batch").expect("an endless stream");
        loader.recycle(batch);
    };
    (0..4).for_each(|_| step());
    let start = Instant::now();
    let mut num_batches = 0;
    while start.elapsed() < time {
        step();
        num_batches += 1;
    }
    (num_batches * BATCH_SIZE) as f64 / start.elapsed().as_secs_f64()
}

/// The word behind `name` on the command line.
fn argument(name: &str) -> Option<String> {
    std::env::args().skip_while(|word| word != name).nth(1)
}
