//! Batches: their order and their bits, whatever the number of threads and wherever a run resumes.

use std::sync::Arc;

use residuum::batch::{
    Augment, Batch, BatchContents, Loader, LoaderOptions, Normalization, Shard, batches_per_epoch,
};
use residuum::data::scenes::SceneOptions;
use residuum::data::{Pack, Split};
use residuum::transform::SampleParams;

fn scene_pack(num_images: usize) -> Arc<Pack> {
    let options =
        SceneOptions { split: Split::Train, num_images, num_categories: 10, image_size: 12, seed: 3 };
    Arc::new(Pack::from_scenes(&options))
}

fn pixels(pack: &Pack, index: usize) -> Vec<u8> {
    pack.pixels(index, &mut Vec::new()).unwrap().to_vec()
}

fn options(batch_size: usize, workers: usize) -> LoaderOptions {
    LoaderOptions {
        augment: "flip,shift".parse::<Augment>().unwrap(),
        normalization: Normalization::default(),
        contents: BatchContents::Images,
        seed: 11,
        workers,
        prefetch: 3,
        ..LoaderOptions::new(batch_size)
    }
}

fn take(loader: &mut Loader, count: usize) -> Vec<Batch> {
    (0..count)
        .map(|_| {
            let batch = loader.next().unwrap().unwrap();
            loader.recycle(batch.clone());
            batch
        })
        .collect()
}

#[test]
fn batches_do_not_depend_on_the_number_of_threads() {
    let pack = scene_pack(23);
    let expected = take(&mut Loader::train(pack.clone(), &options(5, 1), 0, 0).unwrap(), 14);
    for workers in [2, 5] {
        let got = take(&mut Loader::train(pack.clone(), &options(5, workers), 0, 0).unwrap(), 14);
        assert!(got == expected, "{workers} workers");
    }
    let other_seed = LoaderOptions { seed: 12, ..options(5, 1) };
    assert!(take(&mut Loader::train(pack, &other_seed, 0, 0).unwrap(), 14) != expected);
}

#[test]
fn every_policy_gives_the_same_batches_on_any_number_of_threads() {
    let pack = scene_pack(23);
    for policy in
        ["paper", "compose", "modern", "drop,mixup,cutmix@0.5", "modern,trivial-augment", "rand-augment"]
    {
        for contents in [BatchContents::Images, BatchContents::Pixels, BatchContents::Indices] {
            let options =
                |workers| LoaderOptions { augment: policy.parse().unwrap(), contents, ..options(5, workers) };
            let expected = take(&mut Loader::train(pack.clone(), &options(1), 1, 2).unwrap(), 6);
            assert!(take(&mut Loader::train(pack.clone(), &options(3), 1, 2).unwrap(), 6) == expected);
        }
    }
}

#[test]
fn what_is_not_delivered_is_empty_and_padding_is_marked() {
    let pack = scene_pack(7);
    for contents in [BatchContents::Images, BatchContents::Pixels, BatchContents::Indices] {
        let options = LoaderOptions { contents, ..options(5, 1) };
        let batch = take(&mut Loader::eval(pack.clone(), &options).unwrap(), 2).pop().unwrap();
        let num_elems = |is_delivered| if is_delivered { 5 * 12 * 12 * 3 } else { 0 };
        assert_eq!(batch.images.len(), num_elems(contents == BatchContents::Images));
        assert_eq!(batch.pixels.len(), num_elems(contents == BatchContents::Pixels));
        match contents {
            BatchContents::Images => assert!(batch.rows.is_empty()),
            BatchContents::Pixels => {
                assert_eq!(batch.rows, [0, 1, -1, -1, -1]);
                assert!(
                    batch.pixels[..432] == pixels(&pack, 5) && batch.pixels[432..864] == pixels(&pack, 6)
                );
                assert!(batch.pixels[864..].iter().all(|&byte| byte == 0));
            }
            BatchContents::Indices => assert_eq!(batch.rows, [5, 6, -1, -1, -1]),
        }
        assert_eq!(batch.params, [SampleParams::NONE; 5]);
        assert_eq!((&batch.weights[..], &batch.partner_labels), (&[1.0; 5][..], &batch.labels));
    }
}

#[test]
fn mixed_batches_show_each_row_and_its_partner_as_their_labels_say() {
    let pack = scene_pack(23);
    let of = |policy: &str| LoaderOptions { augment: policy.parse().unwrap(), ..options(5, 1) };
    let plain = take(&mut Loader::train(pack.clone(), &of("none"), 0, 0).unwrap(), 4);
    for policy in ["mixup", "cutmix"] {
        let mixed = take(&mut Loader::train(pack.clone(), &of(policy), 0, 0).unwrap(), 4);
        for (plain, mixed) in plain.iter().zip(&mixed) {
            assert_eq!((&mixed.labels, &mixed.indices), (&plain.labels, &plain.indices));
            for row in 0..5 {
                let partner = 4 - row;
                let image = |batch: &Batch, row: usize| batch.images[432 * row..][..432].to_vec();
                let (own, other, got) = (image(plain, row), image(plain, partner), image(mixed, row));
                let weight = mixed.weights[row];
                assert_eq!(mixed.partner_labels[row], plain.labels[partner]);
                assert!(weight > 0.0 && weight < 1.0 || policy == "cutmix");
                if policy == "mixup" {
                    let expected = own.iter().zip(&other).map(|(a, b)| weight * a + (1.0 - weight) * b);
                    assert!(got.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5));
                } else {
                    // Each pixel is one of the two, and the weight counts them; some pixels are equal in both.
                    let num_equal =
                        |of: &[f32]| got.chunks(3).zip(of.chunks(3)).filter(|(a, b)| a == b).count();
                    let num_own = (144.0 * weight).round() as usize;
                    assert!((144.0 * weight - num_own as f32).abs() < 1e-3, "an exact share");
                    assert!(num_equal(&own) >= num_own && num_equal(&other) >= 144 - num_own);
                }
            }
        }
    }
}

#[test]
fn training_resumes_at_any_batch_bit_for_bit() {
    let pack = scene_pack(23);
    let whole = take(&mut Loader::train(pack.clone(), &options(5, 2), 0, 0).unwrap(), 14);
    for start in 0..12 {
        let mut loader = Loader::train(pack.clone(), &options(5, 2), start as u32 / 4, start % 4).unwrap();
        assert!(take(&mut loader, 2) == whole[start..start + 2], "from batch {start}");
    }
    // The end of an epoch is the beginning of the next.
    assert!(take(&mut Loader::train(pack, &options(5, 2), 0, 4).unwrap(), 1) == whole[4..5]);
}

/// The batches of a stream as `count` loaders make them, `rounds` from each, in the order of the stream.
fn shared(count: usize, rounds: usize, open: impl Fn(Shard) -> Loader) -> Vec<Batch> {
    let mut shares: Vec<_> =
        (0..count).map(|index| take(&mut open(Shard::new(index, count)), rounds).into_iter()).collect();
    (0..rounds * count).map(|number| shares[number % count].next().unwrap()).collect()
}

#[test]
fn loaders_that_share_a_stream_make_its_batches() {
    let pack = scene_pack(23);
    let whole = LoaderOptions { augment: "modern,trivial-augment".parse().unwrap(), ..options(3, 2) };
    // A pass has seven batches: with updates of four, three of them are left out.
    for (count, batches_per_update) in [(2, 4), (4, 4), (3, 6), (2, 1), (5, 1)] {
        for (epoch, first) in [(0, 0), (1, batches_per_update % 7), (2, 0)] {
            let open = |shard| {
                let options = LoaderOptions { shard, batches_per_update, ..whole.clone() };
                Loader::train(pack.clone(), &options, epoch, first).unwrap()
            };
            let expected = take(&mut open(Shard::WHOLE), 4 * count);
            assert!(shared(count, 4, open) == expected, "{count} loaders, updates of {batches_per_update}");
            let counted = 7 / batches_per_update * batches_per_update;
            assert!(expected.iter().all(|batch| batch.index_in_epoch < counted));
        }
    }
    let too_many = LoaderOptions { batches_per_update: 8, ..whole };
    let message = Loader::train(pack, &too_many, 0, 0).unwrap_err().to_string();
    assert!(message.contains("takes 8 batches and the training images are 7"), "{message}");
}

#[test]
fn loaders_that_share_an_evaluation_visit_every_image_once() {
    for (num_images, batch_size, count) in [(23, 5, 2), (23, 5, 4), (20, 5, 3), (3, 8, 4)] {
        let pack = scene_pack(num_images);
        let mut seen = Vec::new();
        for index in 0..count {
            let options = LoaderOptions { shard: Shard::new(index, count), ..options(batch_size, 2) };
            let mut loader = Loader::eval(pack.clone(), &options).unwrap();
            while let Some(batch) = loader.next().unwrap() {
                assert_eq!(batch.index_in_epoch % count, index);
                assert_eq!(batch.indices[0] as usize, batch.index_in_epoch * batch_size);
                seen.extend_from_slice(&batch.indices);
                loader.recycle(batch);
            }
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..num_images as u32).collect::<Vec<u32>>());
    }
}

#[test]
fn an_epoch_of_training_visits_images_once_and_drops_the_rest() {
    let batches = take(&mut Loader::train(scene_pack(23), &options(5, 2), 0, 0).unwrap(), 8);
    for (epoch, batches) in batches.chunks(4).enumerate() {
        let mut indices: Vec<u32> = batches.iter().flat_map(|batch| batch.indices.clone()).collect();
        indices.sort_unstable();
        indices.dedup();
        assert_eq!(indices.len(), 20, "no image twice in epoch {epoch}");
        for (index_in_epoch, batch) in batches.iter().enumerate() {
            assert_eq!((batch.epoch, batch.index_in_epoch), (epoch as u32, index_in_epoch));
            assert_eq!(batch.images.len(), 5 * 12 * 12 * 3);
            let labels: Vec<i32> = batch.indices.iter().map(|index| (index % 10) as i32).collect();
            assert_eq!(batch.labels, labels);
        }
    }
    assert_ne!(batches[0].indices, batches[4].indices, "epochs are ordered differently");
}

#[test]
fn evaluation_visits_every_image_exactly_once_as_it_is() {
    for (num_images, batch_size) in [(23, 5), (20, 5), (3, 8)] {
        let pack = scene_pack(num_images);
        let mut loader = Loader::eval(pack.clone(), &options(batch_size, 3)).unwrap();
        let (mut seen, mut num_labels) = (Vec::new(), 0);
        while let Some(batch) = loader.next().unwrap() {
            assert_eq!(batch.labels.len(), batch_size);
            assert_eq!(batch.images.len(), batch_size * 12 * 12 * 3);
            let num_real = batch.indices.len();
            for (row, &index) in batch.images.chunks(12 * 12 * 3).zip(&batch.indices) {
                let pixels = pixels(&pack, index as usize).into_iter().enumerate();
                let expected: Vec<f32> =
                    pixels.map(|(i, byte)| Normalization::default().apply(f32::from(byte), i % 3)).collect();
                assert_eq!(row, expected);
            }
            assert!(batch.images[num_real * 12 * 12 * 3..].iter().all(|&value| value == 0.0));
            assert!(batch.labels[num_real..].iter().all(|&label| label == -1));
            num_labels += batch.labels.iter().filter(|&&label| label >= 0).count();
            seen.extend_from_slice(&batch.indices);
            loader.recycle(batch);
        }
        assert_eq!(seen, (0..num_images as u32).collect::<Vec<u32>>());
        assert_eq!(num_labels, num_images);
        assert!(loader.next().unwrap().is_none());
    }
}

#[test]
fn batch_sizes_that_do_not_fit_name_the_setting() {
    assert_eq!(batches_per_epoch(23, 5).unwrap(), 4);
    for (batch_size, workers, expected) in
        [(24, 1, "give at most 23"), (0, 1, "batch_size"), (5, 0, "workers")]
    {
        let error = Loader::train(scene_pack(23), &options(batch_size, workers), 0, 0).unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains(expected), "{error}");
    }
    assert!(Loader::eval(scene_pack(3), &options(0, 1)).is_err());
}
