//! Every reader of bytes that others wrote, called with bytes: whatever they are, it ends with a value or an error.
//!
//! `fuzz/` gives these functions what a fuzzer makes up, `main.rs` what is in the folders next to it. Some look at more than
//! that: what is read says the same when it is written and read again.

use std::fmt::Debug;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use image::{Rgb, RgbImage};
use residuum::data::scenes::SceneOptions;
use residuum::data::{self, Annotations, Crop, Dataset, OpenOptions, Pack, Split, check, decode, pack};
use residuum::infer::model_file::{CardOverrides, ModelFile};
use residuum::run::checkpoint::{self, NamedTensor, TensorData};
use residuum::run::metrics::{self, Event, MetricsLog};
use residuum::run::run_dir::RunDir;
use residuum::run::state;
use residuum::run::weight_file::WeightFile;
use residuum::train::config::TrainConfig;
use residuum::train::predictions;
use residuum::train::recipe::Recipe;

/// A reader, which may keep files in the folder that it is given.
pub type Reader = fn(&Path, &[u8]);

/// The readers, by the names of the folders with their inputs.
pub const READERS: [(&str, Reader); 12] = [
    ("annotations", annotations),
    ("card", card),
    ("config", config),
    ("images", images),
    ("lists", lists),
    ("metrics", metrics),
    ("pack", pack),
    ("pickle", pickle),
    ("predictions", predictions),
    ("recipe", recipe),
    ("safetensors", safetensors),
    ("state", state),
];

/// The reader called `name`.
pub fn reader(name: &str) -> Reader {
    let found = READERS.iter().find(|(known, _)| *known == name);
    found.unwrap_or_else(|| panic!("no reader is called {name}")).1
}

/// Writes `bytes` to the file `name` in `folder`.
fn written(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, bytes).expect("the folder of the readers takes a file");
    path
}

/// `bytes` as several files, between which a zero byte stands.
fn parts<const N: usize>(bytes: &[u8]) -> [&[u8]; N] {
    let mut parts = bytes.splitn(N, |&byte| byte == 0);
    std::array::from_fn(|_| parts.next().unwrap_or_default())
}

/// A photo of a few pixels at `path`, whose folder is made, unless it is there.
fn photo(path: &Path) {
    if !path.exists() {
        fs::create_dir_all(path.parent().expect("a photo is in a folder")).expect("room for a folder");
        let pixels = RgbImage::from_fn(4, 3, |x, y| Rgb([(60 * x) as u8, (90 * y) as u8, 128]));
        pixels.save(path).expect("room for a photo");
    }
}

/// Lists of MiniPlaces: train.txt, val.txt, categories.txt.
fn lists(folder: &Path, bytes: &[u8]) {
    photo(&folder.join("images/a.png"));
    photo(&folder.join("images/b c.png"));
    let [train, val, categories] = parts(bytes);
    written(folder, "train.txt", train);
    written(folder, "val.txt", val);
    written(folder, "categories.txt", categories);
    let _ = check::check(folder);
    let options = OpenOptions { allow_missing: true, ..OpenOptions::default() };
    if let Ok(dataset) = data::open(folder, &options) {
        for sample in [Split::Train, Split::Val].iter().flat_map(|&split| dataset.samples(split)) {
            assert!((sample.label.expect("it is listed") as usize) < dataset.categories().len());
            assert!(dataset.image_path(sample).starts_with(dataset.root().join("images")));
        }
    }
}

/// The data set of the photo `a.png` in `folder`.
fn one_photo(folder: &Path) -> Dataset {
    if !folder.join("categories.txt").exists() {
        photo(&folder.join("images/a.png"));
        written(folder, "train.txt", b"a.png 0\n");
        written(folder, "val.txt", b"a.png 0\n");
        written(folder, "categories.txt", b"beach 0\n");
    }
    data::open(folder, &OpenOptions::default()).expect("the data set is whole")
}

/// The list of object classes and the XML of a photo's objects.
fn annotations(folder: &Path, bytes: &[u8]) {
    let dataset = one_photo(folder);
    fs::create_dir_all(folder.join("objects")).expect("room for a folder");
    let [classes, xml] = parts(bytes);
    written(folder, "object_categories.txt", classes);
    written(folder, "objects/a.xml", xml);
    let Ok(all) = Annotations::of_split(&dataset, Split::Train, 8) else { return };
    let one = Annotations::of_image(&dataset, Path::new("a.png"), 8).expect("it was read before");
    for annotations in [&all, &one] {
        let num_classes = annotations.class_names().len();
        assert!(annotations.outlines(0).all(|outline| (outline.class as usize) < num_classes));
        let points = annotations.outlines(0).flat_map(|outline| outline.points);
        assert!(points.flatten().all(|place| place.is_finite()));
    }
}

/// A photo of any format.
fn images(folder: &Path, bytes: &[u8]) {
    let path = written(folder, "photo", bytes);
    let crops = [Crop::whole(5), Crop { size: 3, resize: 4 }];
    let dimensions = decode::dimensions(&path);
    if let Ok(decoded) = data::decode_crops(&path, &crops) {
        assert_eq!([decoded[0].len(), decoded[1].len()], [5 * 5 * 3, 3 * 3 * 3]);
        let (width, height) = dimensions.expect("what can be decoded has extents");
        assert!(width > 0 && height > 0);
    }
}

/// What was done to the file of a pack: whether before it is opened or after, how many of its bytes are left, and which bits
/// turn where. What is read from it is what was packed, or an error.
fn pack(folder: &Path, bytes: &[u8]) {
    static WHOLE: OnceLock<(PathBuf, Vec<u8>, Vec<u8>)> = OnceLock::new();
    let dataset = one_photo(folder);
    let cache = folder.join("cache");
    let open =
        || Pack::open_or_build(&dataset, Split::Train, 2, &cache).expect("a spoilt pack is made again");
    let pixels_of = |pack: &Pack| pack.pixels(0, &mut Vec::new()).map(<[u8]>::to_vec);
    let (path, whole, pixels) = WHOLE.get_or_init(|| {
        let pixels = pixels_of(&open()).expect("it was just made");
        let [made] = &pack::cached_packs(&cache, None).expect("the folder is there")[..] else {
            panic!("one pack was made")
        };
        (made.path.clone(), fs::read(&made.path).expect("it is there"), pixels)
    });
    let [when, low, high, turned @ ..] = bytes else { return };
    let mut spoilt = whole.clone();
    for turn in turned.chunks_exact(3) {
        spoilt[usize::from(u16::from_le_bytes([turn[0], turn[1]])) % whole.len()] ^= turn[2];
    }
    spoilt.truncate(whole.len() - usize::from(u16::from_le_bytes([*low, *high])) % whole.len());
    fs::write(path, whole).expect("room for a pack");
    let opened = (when % 2 == 1).then(open);
    fs::write(path, &spoilt).expect("room for a pack");
    let _ = pack::cached_packs(&cache, None).expect("the folder is there");
    match opened {
        Some(pack) => assert!(pixels_of(&pack).map_or(true, |read| read == *pixels)),
        None => assert_eq!(pixels_of(&open()).expect("it was verified or made again"), *pixels),
    }
}

/// The text of `config`.
fn text_of(config: &TrainConfig) -> String {
    toml::to_string(config).expect("settings are TOML")
}

/// What a run asks of its settings before it looks at data.
fn use_settings(config: &TrainConfig) {
    if config.validate().is_err() {
        return;
    }
    for num_train in [1, 40, 100_000] {
        let Ok((steps_per_epoch, total_steps)) = config.steps(num_train) else { continue };
        let lr = config.lr_for(num_train);
        if let Ok(schedule) = config.schedule(lr, steps_per_epoch, total_steps) {
            for step in [0, 1, total_steps / 2, total_steps - 1] {
                schedule.lr(step);
            }
        }
    }
}

/// A recipe, over the defaults.
fn recipe(_: &Path, bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let defaults = TrainConfig::defaults(None);
    let apply = |text: &str| Recipe::parse(Path::new("recipe.toml"), text)?.apply(&defaults);
    if let Ok(config) = apply(text) {
        let text = text_of(&config);
        assert_eq!(text_of(&apply(&text).expect("the settings of a run are a recipe")), text);
        use_settings(&config);
    }
}

/// config.toml and env.json of a run's folder.
fn config(folder: &Path, bytes: &[u8]) {
    let [config, env] = parts(bytes);
    fs::create_dir_all(folder.join("checkpoints")).expect("room for a folder");
    written(folder, "config.toml", config);
    written(folder, "env.json", env);
    let run = RunDir::open(folder).expect("the folder has what a run has");
    if let Ok(config) = run.read_config::<TrainConfig>() {
        run.write_config(&config).expect("room for settings");
        assert_eq!(text_of(&run.read_config().expect("what is written is read")), text_of(&config));
        use_settings(&config);
    }
    if let Ok(env) = run.read_env() {
        run.write_env(&env).expect("room for a description");
        assert_same(&run.read_env().expect("what is written is read"), &env);
    }
}

/// Not by `==`: a NaN is the same as itself.
#[track_caller]
fn assert_same<T: Debug>(read: &T, written: &T) {
    assert_eq!(format!("{read:?}"), format!("{written:?}"));
}

/// metrics.jsonl of a run that goes on.
fn metrics(folder: &Path, bytes: &[u8]) {
    let path = written(folder, "metrics.jsonl", bytes);
    let Ok(mut expected) = metrics::read(&path) else { return };
    let event = Event { step: 1, event: "checkpoint".into(), message: "\u{1b}[0m\n".into() };
    MetricsLog::open(&path).and_then(|mut log| log.append(&event)).expect("the log takes another line");
    expected.events.push(event);
    assert_same(&metrics::read(&path).expect("it could be read before"), &expected);
    metrics::summary_csv(&expected.epochs);
}

/// predictions.jsonl of a run on three scenes.
fn predictions(folder: &Path, bytes: &[u8]) {
    fs::create_dir_all(folder.join("checkpoints")).expect("room for a folder");
    written(folder, "config.toml", b"");
    written(folder, "predictions.jsonl", bytes);
    let options =
        SceneOptions { split: Split::Val, num_images: 3, num_categories: 2, image_size: 2, seed: 1 };
    let (run, scenes) = (RunDir::open(folder).expect("the folder is a run"), Pack::from_scenes(&options));
    if let Ok(Some(read)) = predictions::read(&run, &scenes, 2) {
        assert!(read.len() == 3 && read.iter().all(|prediction| prediction.guess < 2));
        predictions::write(&run, &scenes, &read).expect("room for predictions");
        assert_same(&predictions::read(&run, &scenes, 2).expect("it can be read"), &Some(read));
    }
}

fn num_elems(tensor: &NamedTensor) -> usize {
    match &tensor.data {
        TensorData::F32(elems) => elems.len(),
        TensorData::I64(elems) => elems.len(),
        TensorData::I32(elems) => elems.len(),
        TensorData::U8(elems) => elems.len(),
    }
}

/// A file of tensors, as weights and as a state.
fn safetensors(folder: &Path, bytes: &[u8]) {
    let path = written(folder, "weights.safetensors", bytes);
    let _ = state::load(&path);
    let _ = ModelFile::read(&path, &CardOverrides::default());
    let Ok(read) = checkpoint::read(&path) else { return };
    let all: usize = read.tensors.iter().map(num_elems).sum();
    assert!(all <= bytes.len(), "elements that are not in the file");
    checkpoint::write_atomic(&path, &read.tensors, &read.metadata).expect("what was read can be written");
    let mut again = checkpoint::read(&path).expect("what is written is read");
    let mut tensors = read.tensors;
    for tensors in [&mut tensors, &mut again.tensors] {
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
    }
    assert_same(&again.tensors, &tensors);
    assert_eq!(again.metadata, read.metadata);
}

/// A file of weights of any other form.
fn pickle(folder: &Path, bytes: &[u8]) {
    let path = written(folder, "weights.pth", bytes);
    if let Ok(mut file) = WeightFile::open(&path) {
        let listed = file.tensors().to_vec();
        let shape_of =
            |name: &str| listed.iter().find(|listed| listed.name == name).map(|listed| &listed.shape);
        for tensor in file.read(&|_| true).unwrap_or_default() {
            assert_eq!(shape_of(&tensor.name), Some(&tensor.shape));
            assert_eq!(num_elems(&tensor), tensor.shape.iter().product::<usize>());
        }
    }
}

/// The file at `path` with two numbers and `bytes`, which are JSON, as metadata; whether there is one.
fn with_metadata(path: &Path, bytes: &[u8]) -> bool {
    let tensors = [NamedTensor::f32("fc.bias", &[2], vec![1.0, 2.0])];
    let metadata = serde_json::from_slice(bytes);
    metadata.is_ok_and(|metadata| checkpoint::write_atomic(path, &tensors, &metadata).is_ok())
}

/// The numbers of a training state, with a checksum that is theirs.
fn state(folder: &Path, bytes: &[u8]) {
    let path = folder.join("last.state.safetensors");
    if !with_metadata(&path, bytes) {
        return;
    }
    if let Ok((state, tensors)) = state::load(&path) {
        state::save(&path, &state, &tensors).expect("what was read can be written");
        assert_same(&state::load(&path).expect("what is written is read").0, &state);
        state.idle_epochs(1);
    }
}

/// What a file of weights says of its model, with a checksum that is its own.
fn card(folder: &Path, bytes: &[u8]) {
    let path = folder.join("best.safetensors");
    if with_metadata(&path, bytes) {
        let model = ModelFile::read(&path, &CardOverrides::default());
        assert!(model.is_err(), "two numbers are no model");
    }
}
