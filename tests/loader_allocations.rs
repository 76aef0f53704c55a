//! Once its buffers are in circulation, the loader allocates nothing, on any thread. The only test of its process,
//! since the counter sees everybody.

#[path = "common/counting.rs"]
mod counting;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use counting::NUM_ALLOCATIONS;

use residuum::batch::{BatchContents, Loader, LoaderOptions, Normalization};
use residuum::data::scenes::SceneOptions;
use residuum::data::{Pack, Split};

#[test]
fn a_running_loader_allocates_nothing() {
    let scenes =
        SceneOptions { split: Split::Train, num_images: 70, num_categories: 10, image_size: 10, seed: 1 };
    let pack = Arc::new(Pack::from_scenes(&scenes));
    for (augment, contents) in [
        ("flip,shift", BatchContents::Images),
        ("modern", BatchContents::Images),
        ("modern", BatchContents::Pixels),
        ("paper,cutmix", BatchContents::Indices),
        ("flip,trivial-augment", BatchContents::Images),
        ("resized-crop,rand-augment", BatchContents::Pixels),
    ] {
        let options = LoaderOptions {
            augment: augment.parse().unwrap(),
            normalization: Normalization::default(),
            contents,
            seed: 1,
            workers: 3,
            prefetch: 4,
            ..LoaderOptions::new(8)
        };
        let mut loader = Loader::train(Arc::clone(&pack), &options, 0, 0).unwrap();
        let mut step = || {
            let batch = loader.next().unwrap().unwrap();
            loader.recycle(batch);
        };
        // Threads allocate when they start, which may be late on a machine that is busy.
        let mut num_allocations = || {
            let before = NUM_ALLOCATIONS.load(Ordering::Relaxed);
            (0..400).for_each(|_| step());
            NUM_ALLOCATIONS.load(Ordering::Relaxed) - before
        };
        assert!((0..10).any(|_| num_allocations() == 0), "{augment}, {contents:?}");
    }
}
