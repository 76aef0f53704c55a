//! `data fetch` and everything that a network, a server, an archive or a disk can do to it.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{Builder, EntryType, Header};

use crate::program::{Program, failed, signal, texts};
use crate::server::{End, Reply, Request, Server};

const ARCHIVE: &str = "/data.tar.gz";
const LISTS: [&str; 4] = ["categories.txt", "train.txt", "val.txt", "object_categories.txt"];

fn compressed(tar: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(tar).unwrap();
    encoder.finish().unwrap()
}

/// The photos and annotations of `scenes`, packed as MiniPlaces' are.
fn archive_of(program: &Program) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for folder in ["images", "objects"] {
        builder.append_dir_all(folder, program.path("scenes").join(folder)).unwrap();
    }
    compressed(&builder.into_inner().unwrap())
}

/// An archive with one entry, of this kind, name and bytes.
fn archive_with(kind: EntryType, name: &str, size: u64, bytes: &[u8]) -> Vec<u8> {
    let mut header = Header::new_gnu();
    // By hand: no library writes such names.
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_size(size);
    header.set_mode(0o644);
    header.set_entry_type(kind);
    header.set_cksum();
    let mut builder = Builder::new(Vec::new());
    builder.append(&header, bytes).unwrap();
    compressed(&builder.into_inner().unwrap())
}

/// A server of `archive` that answers requests for it as `reply` says, and of the lists of `scenes`.
fn server(program: &Program, reply: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Server {
    let lists = LISTS.map(|name| fs::read(program.path("scenes").join(name)).unwrap());
    Server::new(move |request| match LISTS.iter().position(|name| request.path == format!("/lists/{name}")) {
        Some(index) => Reply::file(request, &lists[index], "list"),
        None => reply(request),
    })
}

/// The call that fetches from these paths of `server`.
fn call(server: &Server, paths: &[&str]) -> String {
    let urls: String = paths.iter().map(|path| format!(" --url {}", server.url(path))).collect();
    format!("data fetch --timeout 0.4 --retries 2 --lists {}{urls}", server.url("/lists"))
}

/// Checks that `miniplaces` is what `scenes` is, and that nothing else was left.
#[track_caller]
fn assert_fetched(program: &Program) {
    let files = |root: &str| {
        let (photos, _) = residuum::data::photos_below(&program.path(root).join("images")).unwrap();
        photos.iter().map(|photo| fs::read(photo).unwrap()).collect::<Vec<_>>()
    };
    assert!(files("miniplaces") == files("scenes"));
    for name in LISTS {
        let read = |root: &str| fs::read(program.path(root).join(name)).unwrap();
        assert!(read("miniplaces") == read("scenes"), "{name}");
    }
    assert!(!program.path("miniplaces.fetch").exists());
}

/// Checks that there is no data set.
#[track_caller]
fn assert_nothing(program: &Program) {
    assert!(!program.path("miniplaces").exists());
    let whole = |path: &Path| path.extension().is_some_and(|kind| kind == "whole");
    let left = fs::read_dir(program.path("miniplaces.fetch"))
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().path());
    assert_eq!(left.filter(|path| whole(path)).count(), 0, "an archive that is wrong passes for whole");
}

#[test]
fn an_archive_and_its_lists_become_a_data_set() {
    let program = Program::with_scenes();
    let archive = archive_of(&program);
    let server = server(&program, move |request| match request.path.as_str() {
        "/moved" => Reply { head: format!("302 Found\r\nLocation: {ARCHIVE}"), ..Reply::status("") },
        _ => Reply::file(request, &archive, "a"),
    });
    let said = program.succeeds(&call(&server, &["/moved"]));
    assert_fetched(&program);
    assert!(
        said.contains("40 training and 20 validation photos") && said.contains("SHA-256 of the archive: "),
        "{said}"
    );
    program.succeeds("train --data-dir miniplaces --img-size 16 --batch-size 8 --max-steps 1");
    let checked = program.succeeds("data check --data-dir miniplaces");
    assert!(checked.contains("nothing is wrong"), "{checked}");

    program.fails(
        &call(&server, &[ARCHIVE]),
        2,
        &["--output miniplaces", "is there already", "another folder"],
    );
    // What is fetched again is held to what was fetched before.
    fs::remove_dir_all(program.path("miniplaces")).unwrap();
    program.succeeds(&call(&server, &[ARCHIVE]));
    fs::remove_dir_all(program.path("miniplaces")).unwrap();
    fs::write(program.path("miniplaces.sha256"), format!("{}  data.tar.gz\n", "0".repeat(64))).unwrap();
    program.fails(
        &call(&server, &[ARCHIVE]),
        4,
        &["has the SHA-256 ", "miniplaces.sha256", "of an earlier fetch"],
    );
    assert_nothing(&program);
}

#[test]
fn an_archive_that_is_here_is_taken_and_stays() {
    let program = Program::with_scenes();
    let archive = archive_of(&program);
    fs::write(program.path("mine.tgz"), &archive).unwrap();
    program.succeeds("data fetch --archive mine.tgz --lists scenes");
    assert_fetched(&program);
    assert!(fs::read(program.path("mine.tgz")).unwrap() == archive);

    program.fails("data fetch --archive none.tgz --output b", 1, &["none.tgz"]);
    program.fails(
        "data fetch --archive mine.tgz --lists scenes/images --output b",
        2,
        &["--lists scenes/images", "categories.txt"],
    );
    program.fails("data fetch --archive mine.tgz --url http://x --output b", 2, &["--archive", "--url"]);
    program.fails("data fetch --lists none --output b", 2, &["--lists none: is no folder"]);
    program.fails("data fetch --url ftp://x/y.tar.gz", 2, &["http:// or https://"]);
    program.fails("data fetch --sha256 12", 2, &["64 hexadecimal digits"]);
    program.fails("data fetch --timeout 0", 2, &["seconds from 0.01"]);
    assert!(!program.path("b").exists() && !program.path("b.fetch").exists());
}

#[test]
fn a_connection_that_is_torn_or_stalls_is_gone_on_with() {
    for end in [End::Reset, End::Close, End::Stall(Duration::from_secs(3))] {
        let program = Program::with_scenes();
        let archive = archive_of(&program);
        let third = archive.len() / 3;
        let server = server(&program, move |request| {
            let reply = Reply::file(request, &archive, "a");
            if request.count < 2 { reply.broken_after(third, end) } else { reply }
        });
        let start = Instant::now();
        let output = program.command(&call(&server, &[ARCHIVE])).output().unwrap();
        assert_fetched(&program);
        assert!(start.elapsed() < Duration::from_secs(5), "it waited for what stalls");
        let said = texts(&output).1;
        assert!(output.status.success(), "{said}");
        assert_eq!(said.contains("--timeout"), matches!(end, End::Stall(_)), "{said}");
        let requests = server.requests(ARCHIVE);
        let asked: Vec<Option<usize>> = requests.iter().map(Request::from).collect();
        assert_eq!(asked, [None, Some(third), Some(2 * third)], "{end:?}");
        assert_eq!(requests[1].header("if-range"), Some("\"a\""));
    }
}

#[test]
fn a_file_that_changed_in_between_or_a_server_without_ranges_begins_anew() {
    for knows_ranges in [true, false] {
        let program = Program::with_scenes();
        let archive = archive_of(&program);
        let old = vec![7; archive.len()];
        let server = server(&program, move |request| match request.count {
            0 => Reply::whole(&old, "old").broken_after(old.len() / 2, End::Reset),
            _ if knows_ranges => Reply::file(request, &archive, "new"),
            _ => Reply::whole(&archive, "old"),
        });
        let output = program.command(&call(&server, &[ARCHIVE])).output().unwrap();
        assert!(texts(&output).1.contains("it begins anew"), "{}", texts(&output).1);
        assert_fetched(&program);
        assert!(server.requests(ARCHIVE)[1].from().is_some());
    }
}

#[test]
fn a_range_that_was_not_asked_for_and_one_that_is_refused_cost_no_byte() {
    for (second, what) in [
        ("206 Partial Content\r\nContent-Range: bytes 3-9/10\r\nContent-Length: 0", "other bytes"),
        ("416 Range Not Satisfiable\r\nContent-Range: bytes */10\r\nContent-Length: 0", "has changed"),
    ] {
        let program = Program::with_scenes();
        let archive = archive_of(&program);
        let server = server(&program, move |request| match request.count {
            0 => Reply::whole(&archive, "a").broken_after(1000, End::Close),
            1 => Reply { head: second.into(), ..Reply::status("") },
            _ => Reply::file(request, &archive, "a"),
        });
        let output = program.command(&call(&server, &[ARCHIVE])).output().unwrap();
        assert!(texts(&output).1.contains(what), "{}", texts(&output).1);
        assert_fetched(&program);
    }
}

#[test]
fn lengths_that_are_wrong_leave_nothing_that_passes_for_whole() {
    for (difference, what) in [(-100, "is cut short"), (100, "KiB of ")] {
        let program = Program::with_scenes();
        let archive = archive_of(&program);
        let length = archive.len().strict_add_signed(difference);
        let server = server(&program, move |_| Reply {
            head: format!("200 OK\r\nContent-Length: {length}"),
            ..Reply::whole(&archive, "a")
        });
        program.fails(&call(&server, &[ARCHIVE]), 4, &[ARCHIVE, what, "--url", "--archive"]);
        assert_nothing(&program);
    }
}

#[test]
fn mirrors_are_tried_in_their_order() {
    let program = Program::with_scenes();
    let archive = archive_of(&program);
    let server = server(&program, move |request| match request.path.as_str() {
        "/gone" => Reply::status("404 Not Found"),
        "/kept" => Reply::status("403 Forbidden"),
        "/ill" => Reply::status("500 Internal Server Error"),
        "/page" => Reply::whole(b"<html>please log in</html>", "a"),
        _ => Reply::file(request, &archive, "a"),
    });
    let broken = ["/gone", "/kept", "/ill", "/page"];
    let output =
        program.command(&call(&server, &[&broken[..], &[ARCHIVE, "/unused"]].concat())).output().unwrap();
    let said = texts(&output).1;
    for part in
        ["404 Not Found", "403 Forbidden", "500 Internal", "is no archive in .tar.gz", "trying again in"]
    {
        assert!(said.contains(part), "no `{part}`: {said}");
    }
    assert_fetched(&program);
    let counts =
        ["/gone", "/kept", "/ill", "/page", ARCHIVE, "/unused"].map(|path| server.requests(path).len());
    assert_eq!(counts, [1, 1, 3, 1, 1, 0]);

    let parts = ["the server answers 404 Not Found", "--url", "--archive"];
    program.fails(&format!("{} --output b", call(&server, &["/kept", "/gone"])), 4, &parts);
    program.fails(
        "data fetch --output c --retries 0 --url http://127.0.0.1:9/x",
        4,
        &["http://127.0.0.1:9/x", "--archive"],
    );
}

#[test]
fn an_archive_with_another_checksum_is_removed_and_the_next_mirror_tried() {
    let program = Program::with_scenes();
    let archive = archive_of(&program);
    fs::write(program.path("right.tgz"), &archive).unwrap();
    program.succeeds("data fetch --archive right.tgz --lists scenes");
    let kept = fs::read_to_string(program.path("miniplaces.sha256")).unwrap();
    let sha256 = kept.split_whitespace().next().unwrap().to_string();
    fs::remove_dir_all(program.path("miniplaces")).unwrap();
    fs::remove_file(program.path("miniplaces.sha256")).unwrap();

    let mut tampered = archive.clone();
    let middle = tampered.len() / 2;
    tampered[middle] ^= 1;
    let server = server(&program, move |request| {
        Reply::file(request, if request.path == "/tampered" { &tampered } else { &archive }, "a")
    });
    // Whoever knows no checksum is told of it by the one that the archive has inside.
    program.fails(&call(&server, &["/tampered"]), 4, &["/tampered", "is damaged", "what came is removed"]);
    assert_nothing(&program);
    let call = format!("{} --sha256 {sha256}", call(&server, &["/tampered", ARCHIVE]));
    let output = program.command(&call).output().unwrap();
    assert!(texts(&output).1.contains(&format!("not {sha256} (--sha256)")), "{}", texts(&output).1);
    assert_fetched(&program);
}

#[test]
fn an_archive_of_anything_but_files_below_its_folder_writes_nothing() {
    let program = Program::with_scenes();
    let outside = program.path("outside.jpg");
    let absolute = outside.to_str().unwrap();
    let long_name = vec![b'a'; 4 << 20];
    let cases: [(EntryType, &str, u64, &[u8], &str); 9] = [
        (EntryType::Regular, "../x.jpg", 1, b"x", "`../x.jpg` lies outside"),
        (EntryType::Regular, "images/../../x.jpg", 1, b"x", "`images/../../x.jpg` lies outside"),
        (EntryType::Regular, absolute, 1, b"x", "outside.jpg` lies outside"),
        (EntryType::Symlink, "images/a", 0, b"", "`images/a` is a link"),
        (EntryType::Link, "images/a", 0, b"", "`images/a` is a link"),
        (EntryType::Char, "images/zero", 0, b"", "`images/zero` is a device"),
        (EntryType::Fifo, "images/pipe", 0, b"", "`images/pipe` is a named pipe"),
        (EntryType::Regular, "images/a.jpg", 1 << 33, b"x", "`images/a.jpg`: holds 8.00 GiB in one file"),
        (EntryType::GNULongName, "name", 4 << 20, &long_name, "longer than it may be"),
    ];
    for (kind, name, size, bytes, what) in cases {
        fs::write(program.path("evil.tgz"), archive_with(kind, name, size, bytes)).unwrap();
        program.fails("data fetch --archive evil.tgz --lists scenes", 4, &["evil.tgz: ", what]);
        assert!(!program.path("miniplaces").exists() && !outside.exists());
        assert!(!program.path("miniplaces.fetch").exists(), "something of {name} was left");
    }
    let whole = archive_of(&program);
    fs::write(program.path("cut.tgz"), &whole[..whole.len() / 2]).unwrap();
    program.fails("data fetch --archive cut.tgz --lists scenes", 4, &["cut.tgz: is cut short after `"]);
    fs::write(program.path("other.tgz"), archive_with(EntryType::Regular, "a.jpg", 1, b"x")).unwrap();
    program.fails("data fetch --archive other.tgz --lists scenes", 4, &["other.tgz", "no folder images"]);
    let mut twice = Builder::new(Vec::new());
    for _ in 0..2 {
        twice.append_path_with_name(program.path("scenes/train.txt"), "images/a.jpg").unwrap();
    }
    fs::write(program.path("twice.tgz"), compressed(&twice.into_inner().unwrap())).unwrap();
    program.fails("data fetch --archive twice.tgz --lists scenes", 4, &["`images/a.jpg`: is there twice"]);
    assert!(!program.path("miniplaces").exists());
}

#[test]
fn a_full_disk_ends_a_fetch_that_goes_on_where_there_is_room_again() {
    let program = Program::with_scenes();
    let archive = archive_of(&program);
    let server = server(&program, move |request| Reply::file(request, &archive, "a"));
    let call = call(&server, &[ARCHIVE]);
    // In blocks of 512 bytes.
    let output = program.command_after("ulimit -f 16", &call).output().unwrap();
    failed(&output, &call, 1, &["cannot write ", "miniplaces.fetch", "File too large"]);
    assert_nothing(&program);
    program.succeeds(&call);
    assert_fetched(&program);
    assert_eq!(server.requests(ARCHIVE)[1].from(), Some(16 * 512));
}

#[test]
fn ctrl_c_keeps_what_has_come_in_and_the_same_command_goes_on() {
    let program = Program::with_scenes();
    let archive = archive_of(&program);
    let half = archive.len() / 2;
    let server = server(&program, move |request| {
        let reply = Reply::file(request, &archive, "a");
        // Longer than the test waits.
        if request.count == 0 { reply.broken_after(half, End::Stall(Duration::from_secs(60))) } else { reply }
    });
    let call = call(&server, &[ARCHIVE]).replace("--timeout 0.4", "--timeout 60");
    let mut child = program.command(&call).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let part = || {
        let entries = fs::read_dir(program.path("miniplaces.fetch")).ok()?;
        let paths = entries.flatten().map(|entry| entry.path());
        let mut parts = paths.filter(|path| path.extension().is_some_and(|kind| kind == "part"));
        parts.next().and_then(|part| fs::metadata(part).ok()).map(|part| part.len() as usize)
    };
    let start = Instant::now();
    while part() != Some(half) {
        assert!(child.try_wait().unwrap().is_none() && start.elapsed() < Duration::from_secs(30));
        thread::sleep(Duration::from_millis(5));
    }
    program.fails(&call, 2, &["miniplaces.fetch", "another process fetches"]);
    signal(&child, "INT");
    let output = child.wait_with_output().unwrap();
    failed(&output, &call, 130, &["what has come in is kept; the same command goes on", "stopped by Ctrl-C"]);
    program.succeeds(&call);
    assert_fetched(&program);
    assert_eq!(server.requests(ARCHIVE)[1].from(), Some(half));
}
