//! A server of files on this machine that behaves as it is told.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// What a server was asked.
#[derive(Debug, Clone)]
pub struct Request {
    /// The path of the address.
    pub path: String,
    /// How many requests there were for this path before.
    pub count: usize,
    head: String,
}

impl Request {
    /// The header called `name`, in small letters.
    pub fn header(&self, name: &str) -> Option<&str> {
        let of_name = |line: &&str| line.split(':').next().is_some_and(|is| is.eq_ignore_ascii_case(name));
        self.head.lines().find(of_name).and_then(|line| line.split_once(": ")).map(|(_, value)| value)
    }

    /// The first byte asked for, where not all are.
    pub fn from(&self) -> Option<usize> {
        self.header("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
    }
}

/// How an answer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Close,
    /// The connection is torn down.
    Reset,
    /// Nothing follows for so long.
    Stall(Duration),
}

/// An answer: its lines before the bytes, what is sent of the bytes, and how it ends.
#[derive(Debug, Clone)]
pub struct Reply {
    pub head: String,
    pub bytes: Vec<u8>,
    pub end: End,
}

impl Reply {
    /// A status without bytes.
    pub fn status(status: &str) -> Reply {
        Reply { head: format!("{status}\r\nContent-Length: 0"), bytes: Vec::new(), end: End::Close }
    }

    /// All of `bytes`, of a file that is known by `tag`.
    pub fn whole(bytes: &[u8], tag: &str) -> Reply {
        let head = format!("200 OK\r\nContent-Length: {}\r\nETag: \"{tag}\"", bytes.len());
        Reply { head, bytes: bytes.to_vec(), end: End::Close }
    }

    /// What `request` asks for of `bytes`, as servers do that know ranges.
    pub fn file(request: &Request, bytes: &[u8], tag: &str) -> Reply {
        let is_same = request.header("if-range").is_none_or(|known| known == format!("\"{tag}\""));
        match request.from().filter(|_| is_same) {
            Some(from) if from < bytes.len() => {
                let (last, total) = (bytes.len() - 1, bytes.len());
                let head = format!(
                    "206 Partial Content\r\nContent-Length: {}\r\nContent-Range: bytes {from}-{last}/{total}",
                    total - from
                );
                Reply { head, bytes: bytes[from..].to_vec(), end: End::Close }
            }
            Some(_) => {
                let head = format!(
                    "416 Range Not Satisfiable\r\nContent-Length: 0\r\nContent-Range: bytes */{}",
                    bytes.len()
                );
                Reply { head, bytes: Vec::new(), end: End::Close }
            }
            None => Reply::whole(bytes, tag),
        }
    }

    /// The same, but it ends in this way after so many bytes.
    pub fn broken_after(mut self, num_bytes: usize, end: End) -> Reply {
        self.bytes.truncate(num_bytes);
        self.end = end;
        self
    }
}

/// A server, as long as the test runs.
pub struct Server {
    address: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// A server that answers as `reply` says.
    pub fn new(reply: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::<Request>::new()));
        let (reply, seen) = (Arc::new(reply), Arc::clone(&requests));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, reply, seen) = (stream.unwrap(), Arc::clone(&reply), Arc::clone(&seen));
                // A stalled answer keeps no other one waiting. Whoever asked may be gone.
                thread::spawn(move || {
                    let Some(head) = read_head(&mut stream) else { return };
                    let path = head.split(' ').nth(1).unwrap().to_string();
                    let request = {
                        let mut seen = seen.lock().unwrap();
                        let count = seen.iter().filter(|request| request.path == path).count();
                        seen.push(Request { path, count, head });
                        seen.last().unwrap().clone()
                    };
                    answer(&mut stream, reply(&request));
                });
            }
        });
        Server { address, requests }
    }

    /// The address of `path`.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.address)
    }

    /// What was asked so far for `path`.
    pub fn requests(&self, path: &str) -> Vec<Request> {
        let requests = self.requests.lock().unwrap();
        requests.iter().filter(|request| request.path == path).cloned().collect()
    }
}

/// The lines before the empty one, of which the last byte stays unread: a system answers the end of a connection with unread
/// bytes by tearing it down.
fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    String::from_utf8(head).ok()
}

fn answer(stream: &mut TcpStream, reply: Reply) {
    if reply.end != End::Reset {
        let _ = stream.read_exact(&mut [0]);
    }
    let head = format!("HTTP/1.1 {}\r\nConnection: close\r\n\r\n", reply.head);
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&reply.bytes));
    match reply.end {
        End::Close => {}
        // The bytes are to arrive before.
        End::Reset => thread::sleep(Duration::from_millis(100)),
        End::Stall(time) => thread::sleep(time),
    }
}
