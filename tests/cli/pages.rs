//! Pages in a browser: nothing overflows, all text can be read, nothing is asked of the network, names are text, and the
//! page of a run in progress shows what has come since.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use image::{Rgb, RgbImage};

use crate::browser::{Browser, Findings, Theme};
use crate::program::Program;

/// Markup that marks the page if it is not taken as text.
const HOSTILE: &str = "<img src=x onerror=document.documentElement.dataset.wasRun=1>";
/// How long a page in progress may take to show something new.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is found on `page` in both widths and themes.
fn looks(browser: &Browser, page: &Path) -> Vec<Findings> {
    let windows = [1280, 400].into_iter().flat_map(|width| [(width, Theme::Light), (width, Theme::Dark)]);
    windows.map(|(width, theme)| browser.inspect(page, width, theme)).collect()
}

#[track_caller]
fn assert_readable(browser: &Browser, page: &Path, least_texts: usize, words: &[&str]) {
    for found in looks(browser, page) {
        let window = format!("{} at {} px, dark: {}", page.display(), found.width, found.dark);
        assert!(found.overflow.is_empty(), "{window}: {:#?}", found.overflow);
        assert!(found.faint.is_empty(), "{window}: {:#?}", found.faint);
        assert!(found.requests.is_empty(), "{window}: {:#?}", found.requests);
        assert!(!found.was_run, "{window}: a name was run");
        assert!(found.texts >= least_texts, "{window}: {} texts", found.texts);
        for word in words {
            assert!(found.words.contains(word), "{window}: no `{word}`");
        }
    }
}

/// A data set of class folders, one of which and whose photos have names of markup.
fn write_hostile_classes(program: &Program) {
    let classes = [HOSTILE, "a_category_with_a_name_that_is_longer_than_any_of_the_data_set", "plain"];
    for (split, num_images) in [("train", 16), ("val", 8)] {
        for (label, class) in classes.iter().enumerate() {
            let folder = program.path("classes").join(split).join(class);
            fs::create_dir_all(&folder).unwrap();
            for number in 0..num_images {
                let shade = 15 * number as u8;
                let image = RgbImage::from_pixel(16, 16, Rgb([shade, 255 - shade, 100 * label as u8]));
                image.save(folder.join(format!("\"{HOSTILE} {number}.png"))).unwrap();
            }
        }
    }
}

#[test]
fn every_page_can_be_read_at_both_widths_by_day_and_by_night() {
    let Some(browser) = Browser::find() else { return };
    let program = Program::with_scenes();
    let run = program.trains("");
    let report = program.path(&run).join("report.html");
    assert_readable(&browser, &report, 200, &["Error by category", "Grad-CAM", "Command", "all "]);

    let second = "train --data-dir scenes --img-size 32 --batch-size 8 --epochs 3 --lr 0.02 --momentum 0.5 --output other";
    program.succeeds(second);
    let other = program.only_run("other");
    program.succeeds(&format!("report {} {}", run.display(), other.display()));
    let names = [run.file_name().unwrap().to_str().unwrap(), "Settings that differ", "momentum"];
    assert_readable(&browser, &program.path("comparison.html"), 60, &names);

    // Every table and figure, after the first of the runs.
    let call = "reproduce all --quick --seeds 2 --data-dir scenes --output reproduction";
    let mut child = program.command(call).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(said.any(|line| line.starts_with("run 2 of 30: ")), "the first run did not end");
    child.kill().unwrap();
    child.wait().unwrap();
    let page = program.path("reproduction/reproduction.html");
    let words = ["Table 1", "Table 3", "Figure 3", "Figure 4", "Section 5", "2 seeds"];
    assert_readable(&browser, &page, 100, &words);

    if cfg!(residuum_simt) {
        let small = "--model resnet9 --img-size 32 --batch-size 8 --precision bf16 --device simt --blocks 1";
        program.succeeds(&format!("profile {small} --html profile.html"));
        let words = ["Rooflines", "By layer", "conv2d_wgrad", "Launches a step"];
        assert_readable(&browser, &program.path("profile.html"), 200, &words);
    }

    write_hostile_classes(&program);
    program.succeeds("train --data-dir classes --img-size 32 --batch-size 8 --epochs 1 --output hostile");
    let report = program.path(program.only_run("hostile")).join("report.html");
    assert_readable(&browser, &report, 100, &[HOSTILE, "Error by category"]);
}

#[test]
fn what_is_wrong_on_a_page_is_found() {
    let Some(browser) = Browser::find() else { return };
    let folder = tempfile::tempdir().unwrap();
    let found = |body: &str| -> Findings {
        let page: PathBuf = folder.path().join("wrong.html");
        let style =
            "<meta name=viewport content=width=device-width><style>body{margin:0;background:#fff}</style>";
        fs::write(&page, format!("<!DOCTYPE html><html><head>{style}</head><body>{body}</body></html>"))
            .unwrap();
        browser.inspect(&page, 400, Theme::Light)
    };
    let sound = found("<p style=color:#757575>text</p>");
    assert!(sound.overflow.is_empty() && sound.faint.is_empty() && sound.requests.is_empty());
    assert_eq!((sound.texts, sound.was_run), (1, false));
    assert_eq!(found("<p style=color:#777>text</p>").faint.len(), 1, "a contrast of 4.48");
    let digit = "<svg viewBox='0 0 9 9'><rect width=9 height=9 fill=#1f5fa8 fill-opacity=0.9></rect><text y=6>7</text></svg>";
    assert_eq!(found(digit).faint.len(), 1);
    assert_eq!(found(&digit.replace("0.9", "0.2")).faint.len(), 0);
    assert!(!found("<p style=width:500px>wide</p>").overflow.is_empty());
    assert!(!found("<div style=overflow:auto><p style=width:500px>hidden</p></div>").overflow.is_empty());
    assert_eq!(found("<img src='http://127.0.0.1:9/picture.png' alt=''>").requests.len(), 1);
    assert!(found(HOSTILE).was_run);
}

/// Answers a request for the run's page with the page as it is, to be read again after a second, and notes where the
/// reader has scrolled to.
fn serve(stream: &TcpStream, report: &Path, seen: &mut Vec<String>, scrolled: &mut Vec<String>) {
    let mut request = String::new();
    if BufReader::new(stream).read_line(&mut request).is_err() {
        return;
    }
    let target = request.split(' ').nth(1).unwrap_or_default();
    let mut body = String::new();
    if let Some(at) = target.strip_prefix("/at/") {
        scrolled.push(at.to_string());
    } else if target == "/" {
        let page = fs::read_to_string(report).unwrap();
        let subtitle = page.split_once("</h1><p>").unwrap().1.split_once("</p>").unwrap().0;
        seen.push(subtitle.to_string());
        let scroll = "<script>addEventListener('load', () => setTimeout(() => {
            fetch('/at/' + Math.round(scrollY)); scrollTo(0, 250); }, 300));</script>";
        body =
            page.replace("content=\"15\"", "content=\"1\"").replace("</head>", &format!("{scroll}</head>"));
    }
    let kind = "Content-Type: text/html; charset=utf-8\r\nConnection: close";
    let answer = format!("HTTP/1.1 200 OK\r\n{kind}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    // A reader that reads the page again may be gone.
    let mut stream = stream;
    let _ = stream.write_all(answer.as_bytes());
}

#[test]
fn the_page_of_a_run_is_there_from_the_start_and_follows_it_where_the_reader_is() {
    let Some(browser) = Browser::find() else { return };
    let program = Program::with_scenes();
    let call =
        "train --data-dir scenes --img-size 32 --batch-size 8 --epochs 2000 --lr 0.01 --log-interval 1";
    let mut child = program.command(call).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let path = said.find(|line| line.starts_with("report: ")).expect("the path is told");
    let report = program.path(path.trim_start_matches("report: "));
    let first = fs::read_to_string(&report).unwrap();
    assert!(first.contains("running: step 0 of 10000"), "{first}");

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let mut window = browser.open(&format!("http://{}/", listener.local_addr().unwrap()));
    let (mut seen, mut scrolled, start) = (Vec::new(), Vec::new(), Instant::now());
    let followed = |seen: &[String], scrolled: &[String]| {
        seen.first() != seen.last() && scrolled.iter().any(|at| at == "250")
    };
    while !followed(&seen, &scrolled) && start.elapsed() < PATIENCE {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false).unwrap();
                serve(&stream, &report, &mut seen, &mut scrolled);
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
    window.kill().unwrap();
    child.kill().unwrap();
    window.wait().unwrap();
    child.wait().unwrap();
    assert!(followed(&seen, &scrolled), "{seen:?}, scrolled to {scrolled:?}");
}
