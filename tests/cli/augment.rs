//! `augment`: the figure it draws, and what it says when it cannot.

use std::fs;

use image::RgbImage;

use crate::program::Program;

/// A program in a folder with `photo.png`, 40 x 30 pixels of slopes.
fn with_photo() -> Program {
    let program = Program::new();
    let photo = RgbImage::from_fn(40, 30, |x, y| image::Rgb([6 * x as u8, 8 * y as u8, 3 * (x + y) as u8]));
    photo.save(program.path("photo.png")).unwrap();
    program
}

fn picture(program: &Program, name: &str) -> RgbImage {
    image::open(program.path(name)).unwrap().into_rgb8()
}

#[test]
fn the_figure_shows_the_original_and_eight_augmentations() {
    let program = with_photo();
    let printed = program.succeeds("augment --image photo.png --output figure.png --img-size 20");
    assert_eq!(printed, "9 pictures in figure.png\n");
    let figure = picture(&program, "figure.png");
    // Pictures of 20 pixels are enlarged 12 times; a step right is 240 + 12, a step down 17 more.
    let tile = |column: u32, row: u32| {
        let pixel =
            |i: u32| figure.get_pixel(18 + 252 * column + 12 * (i % 20), 18 + 269 * row + 12 * (i / 20)).0;
        (0..400).map(pixel).collect::<Vec<_>>()
    };
    let tiles: Vec<Vec<[u8; 3]>> = (0..9).map(|i| tile(i % 3, i / 3)).collect();
    let flipped: Vec<[u8; 3]> = tiles[0].chunks(20).flat_map(|row| row.iter().rev().copied()).collect();
    assert_eq!(tiles[1], flipped);
    for (i, tile) in tiles.iter().enumerate() {
        assert!(tiles[..i].iter().all(|other| other != tile), "picture {i} is like one before it");
    }
    let again = "augment --image photo.png --output again.png --img-size 20";
    program.succeeds(again);
    assert_eq!(picture(&program, "again.png"), figure);
    program.succeeds(&format!("{again} --seed 1"));
    assert_ne!(picture(&program, "again.png"), figure);
}

#[test]
fn a_policy_is_shown_in_several_draws() {
    let program = with_photo();
    program.succeeds("augment --image photo.png --output modern.png --augment modern");
    program.succeeds("augment --image photo.png --output none.png --augment none");
    let (modern, none) = (picture(&program, "modern.png"), picture(&program, "none.png"));
    assert_eq!(modern.dimensions(), none.dimensions());
    assert_ne!(modern, none);
    program.succeeds("augment --image photo.png --output trivial.png --augment trivial-augment");
    program
        .succeeds("augment --image photo.png --output rand.png --augment trivial-augment,rand-augment=3x20");
    assert_ne!(picture(&program, "trivial.png"), none);
    assert_ne!(picture(&program, "trivial.png"), picture(&program, "rand.png"));
}

#[test]
fn what_cannot_be_drawn_is_named() {
    let program = with_photo();
    fs::write(program.path("text.jpg"), "no image").unwrap();
    program.fails("augment --image gone.jpg --output a.png", 1, &["cannot read gone.jpg"]);
    program.fails("augment --image text.jpg --output a.png", 4, &["text.jpg", "is no JPEG, PNG"]);
    program.fails(
        "augment --image photo.png --output no/a.png",
        2,
        &["--output no/a.png", "no folder no", "make it"],
    );
    program.fails("augment --image photo.png --output .", 2, &["let the name end in .png"]);
    program.fails("augment --image photo.png --output a.png --augment flop", 2, &["`flop`, perhaps `flip`"]);
    program.fails("augment --image photo.png --output a.png --augment rotate=999", 2, &["0 to 180"]);
    program.fails("augment --image photo.png --output a.png --img-size 0", 2, &["--img-size"]);
    assert!(!program.path("a.png").exists());
}
