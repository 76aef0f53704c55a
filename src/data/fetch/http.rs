//! One request over HTTP, on a thread of its own: whoever waits for it can be stopped meanwhile.

use std::io::Read;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use ureq::Agent;
use ureq::http::HeaderMap;
use ureq::tls::{RootCerts, TlsConfig};

use super::{Fault, Stop};
use crate::error::Error;
use crate::show::show_text;

/// Bytes handed over at a time, and how many of them wait to be taken.
const CHUNK_BYTES: usize = 256 << 10;
const NUM_WAITING: usize = 4;
/// How often whoever waits looks whether it is to stop.
const POLL: Duration = Duration::from_millis(50);

/// What makes requests. Proxies are those of the environment, certificates those that the system trusts.
pub(super) struct Client {
    agent: Agent,
}

/// A place to go on from: bytes that are there, and what the file they are of is known by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GoOn {
    pub(super) bytes: u64,
    pub(super) validator: String,
}

/// What a server says before the bytes.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) status: u16,
    /// The status in words.
    pub(super) answer: String,
    /// Bytes that follow, where the server tells.
    pub(super) length: Option<u64>,
    pub(super) range: Option<ContentRange>,
    /// What the file is known by: its strong ETag, else its date.
    pub(super) validator: Option<String>,
}

/// `Content-Range`: the first byte that follows, and the bytes of the whole file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ContentRange {
    /// `None` where no byte is in the range.
    pub(super) first: Option<u64>,
    pub(super) total: Option<u64>,
}

enum Event {
    Head(Head),
    Bytes(Vec<u8>),
    End,
}

/// An answer that is coming in.
pub(super) struct Answer<'a> {
    events: Receiver<Result<Event, String>>,
    stop: Stop<'a>,
}

impl Client {
    /// A client that gives a server up after so long without a byte.
    pub(super) fn new(timeout: Duration) -> Client {
        let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
        let config = Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            .user_agent(concat!("residuum/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(timeout))
            .timeout_connect(Some(timeout))
            .timeout_recv_response(Some(timeout))
            .timeout_per_read(Some(timeout))
            .build();
        Client { agent: config.into() }
    }

    /// Asks for the file at `url`, or for what follows in it.
    pub(super) fn get<'a>(&self, url: &str, from: Option<&GoOn>, stop: Stop<'a>) -> Answer<'a> {
        let (sender, events) = sync_channel(NUM_WAITING);
        let (agent, url, from) = (self.agent.clone(), url.to_string(), from.cloned());
        // It ends with the answer, or when nobody takes its bytes any more.
        thread::spawn(move || {
            if let Err(what) = transfer(&agent, &url, from.as_ref(), &sender) {
                let _ = sender.send(Err(what));
            }
        });
        Answer { events, stop }
    }
}

/// Why there is no answer, or no more of it, in words.
fn reason(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Timeout(_) => "the server sent nothing for as long as --timeout allows".into(),
        ureq::Error::Io(error) => show_text(&error.to_string()),
        other => show_text(&other.to_string()),
    }
}

/// Sends what the server answers; an error is the reason why there is no more of it.
fn transfer(
    agent: &Agent,
    url: &str,
    from: Option<&GoOn>,
    sender: &SyncSender<Result<Event, String>>,
) -> Result<(), String> {
    // An archive that a server packed once more would have other bytes and another length.
    let mut request = agent.get(url).header("Accept-Encoding", "identity");
    if let Some(GoOn { bytes, validator }) = from {
        request = request.header("Range", format!("bytes={bytes}-")).header("If-Range", validator);
    }
    let response = request.call().map_err(|error| reason(&error))?;
    let headers = response.headers();
    let head = Head {
        status: response.status().as_u16(),
        answer: response.status().to_string(),
        length: text_of(headers, "content-length").and_then(|text| text.parse().ok()),
        range: text_of(headers, "content-range").and_then(ContentRange::parse),
        validator: validator_of(headers),
    };
    if sender.send(Ok(Event::Head(head))).is_err() {
        return Ok(());
    }
    let mut body = response.into_body().into_reader();
    loop {
        let mut chunk = vec![0; CHUNK_BYTES];
        let num_bytes = body.read(&mut chunk).map_err(|error| {
            let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
            inner.map_or_else(|| show_text(&error.to_string()), reason)
        })?;
        chunk.truncate(num_bytes);
        let event = if num_bytes == 0 { Event::End } else { Event::Bytes(chunk) };
        if sender.send(Ok(event)).is_err() || num_bytes == 0 {
            return Ok(());
        }
    }
}

impl Answer<'_> {
    /// Waits for what comes before the bytes.
    pub(super) fn head(&self) -> Result<Head, Fault> {
        match self.next()? {
            Event::Head(head) => Ok(head),
            Event::Bytes(_) | Event::End => unreachable!("the head comes first, and once"),
        }
    }

    /// Waits for the next bytes; `None` at their end.
    pub(super) fn bytes(&self) -> Result<Option<Vec<u8>>, Fault> {
        match self.next()? {
            Event::Bytes(bytes) => Ok(Some(bytes)),
            Event::End => Ok(None),
            Event::Head(_) => unreachable!("the head comes first, and once"),
        }
    }

    fn next(&self) -> Result<Event, Fault> {
        loop {
            if let Some(signal) = (self.stop)() {
                return Err(Fault::Stop(Error::Interrupted { signal }));
            }
            match self.events.recv_timeout(POLL) {
                Ok(event) => return event.map_err(Fault::Again),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Fault::Again("the connection is lost".into()));
                }
            }
        }
    }
}

fn text_of<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// What `If-Range` takes: a strong ETag, else the date of the last change.
fn validator_of(headers: &HeaderMap) -> Option<String> {
    let strong = text_of(headers, "etag").filter(|tag| tag.starts_with('"'));
    strong.or_else(|| text_of(headers, "last-modified")).map(str::to_string)
}

impl ContentRange {
    /// Reads `bytes 5-9/10`, `bytes 5-9/*` or `bytes */10`.
    fn parse(text: &str) -> Option<ContentRange> {
        let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
        let first = range.split_once('-').and_then(|(first, _)| first.parse().ok());
        Some(ContentRange { first, total: total.parse().ok() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_of_a_content_range_are_read() {
        let range = |first, total| Some(ContentRange { first, total });
        assert_eq!(ContentRange::parse("bytes 5-9/10"), range(Some(5), Some(10)));
        assert_eq!(ContentRange::parse("bytes 5-9/*"), range(Some(5), None));
        assert_eq!(ContentRange::parse("bytes */10"), range(None, Some(10)));
        assert_eq!(ContentRange::parse("lines 5-9/10"), None);
    }

    #[test]
    fn a_weak_etag_is_passed_over() {
        let headers = |pairs: &[(&'static str, &str)]| {
            pairs
                .iter()
                .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
                .collect::<HeaderMap>()
        };
        let date = ("last-modified", "Wed, 21 Oct 2015 07:28:00 GMT");
        assert_eq!(validator_of(&headers(&[("etag", "\"a\""), date])).unwrap(), "\"a\"");
        assert_eq!(validator_of(&headers(&[("etag", "W/\"a\""), date])).unwrap(), date.1);
        assert_eq!(validator_of(&headers(&[("etag", "W/\"a\"")])), None);
    }
}
