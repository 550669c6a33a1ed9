//! Hands one text out over HTTP: `GET /metrics`, nothing else.
//!
//! A client has [`CLIENT_LIMIT`] for everything and [`HEAD_LEN_MAX`] bytes to ask in; each gets one answer and is then
//! disconnected. As many clients as there are workers are answered at a time, the others wait in the listener's queue.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

const WORKERS: usize = 4;
const CLIENT_LIMIT: Duration = Duration::from_secs(5);
const HEAD_LEN_MAX: usize = 8 << 10;
/// After a failed accept(2), as when there are no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("cannot listen on {0:?}: give ADDRESS:PORT with a numerical address, or unix:PATH")]
    Address(String),
    #[error("cannot listen on {place}; something else may be using it")]
    Listen { place: Place, source: io::Error },
    #[error("{0:?} exists and is not a socket; give another path")]
    NotASocket(PathBuf),
}

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl FromStr for Place {
    type Err = HttpError;

    fn from_str(text: &str) -> Result<Self, HttpError> {
        match text.strip_prefix("unix:") {
            Some(path) if !path.is_empty() => Ok(Place::Unix(PathBuf::from(path))),
            Some(_) => Err(HttpError::Address(text.to_owned())),
            None => text
                .parse()
                .map(Place::Tcp)
                .map_err(|_| HttpError::Address(text.to_owned())),
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::Tcp(address) => write!(f, "http://{address}/metrics"),
            Place::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[derive(Debug)]
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A server that listens already.
#[derive(Debug)]
pub struct Server {
    listener: Listener,
    /// With the port that was chosen, if 0 was asked for.
    pub place: Place,
}

impl Server {
    pub fn at(place: &Place) -> Result<Self, HttpError> {
        let failed = |source| HttpError::Listen {
            place: place.clone(),
            source,
        };
        match place {
            Place::Tcp(address) => {
                let listener = TcpListener::bind(address).map_err(failed)?;
                Ok(Server {
                    place: Place::Tcp(listener.local_addr().map_err(failed)?),
                    listener: Listener::Tcp(listener),
                })
            }
            Place::Unix(path) => {
                remove_stale(path)?;
                Ok(Server {
                    listener: Listener::Unix(UnixListener::bind(path).map_err(failed)?),
                    place: place.clone(),
                })
            }
        }
    }

    /// Answers clients until this process ends. `page` gives the text, or why there is none.
    pub fn serve(&self, content_type: &str, page: &(impl Fn() -> Result<String, String> + Sync)) {
        std::thread::scope(|scope| {
            for _ in 0..WORKERS {
                scope.spawn(|| {
                    loop {
                        self.serve_one(content_type, page);
                    }
                });
            }
        });
    }

    fn serve_one(&self, content_type: &str, page: &impl Fn() -> Result<String, String>) {
        let served = match &self.listener {
            Listener::Tcp(listener) => listener
                .accept()
                .map(|(client, _)| converse(&client, content_type, page)),
            Listener::Unix(listener) => listener
                .accept()
                .map(|(client, _)| converse(&client, content_type, page)),
        };
        match served {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!("a client was not answered: {error}"),
            Err(error) => {
                tracing::warn!("cannot accept a client: {error}");
                std::thread::sleep(ACCEPT_PAUSE);
            }
        }
    }
}

/// A socket that nobody listens on any more is in the way of a new one.
fn remove_stale(path: &Path) -> Result<(), HttpError> {
    let Ok(found) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !found.file_type().is_socket() {
        return Err(HttpError::NotASocket(path.to_owned()));
    }
    let refused = UnixStream::connect(path)
        .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    if refused {
        fs::remove_file(path).map_err(|source| HttpError::Listen {
            place: Place::Unix(path.to_owned()),
            source,
        })?;
    }
    Ok(())
}

/// What both kinds of streams can do.
trait Stream {
    fn read_within(&self, bytes: &mut [u8], limit: Duration) -> io::Result<usize>;
    fn write_within(&self, bytes: &[u8], limit: Duration) -> io::Result<usize>;
}

impl Stream for TcpStream {
    fn read_within(&self, bytes: &mut [u8], limit: Duration) -> io::Result<usize> {
        self.set_read_timeout(Some(limit))?;
        let mut stream = self;
        stream.read(bytes)
    }

    fn write_within(&self, bytes: &[u8], limit: Duration) -> io::Result<usize> {
        self.set_write_timeout(Some(limit))?;
        let mut stream = self;
        stream.write(bytes)
    }
}

impl Stream for UnixStream {
    fn read_within(&self, bytes: &mut [u8], limit: Duration) -> io::Result<usize> {
        self.set_read_timeout(Some(limit))?;
        let mut stream = self;
        stream.read(bytes)
    }

    fn write_within(&self, bytes: &[u8], limit: Duration) -> io::Result<usize> {
        self.set_write_timeout(Some(limit))?;
        let mut stream = self;
        stream.write(bytes)
    }
}

/// One question, one answer.
fn converse(
    client: &impl Stream,
    content_type: &str,
    page: &impl Fn() -> Result<String, String>,
) -> io::Result<()> {
    let deadline = Instant::now() + CLIENT_LIMIT;
    let answer = match question(client, deadline)? {
        Question::Page => match page() {
            Ok(text) => answer("200 OK", content_type, &text),
            Err(reason) => plain("500 Internal Server Error", &reason),
        },
        Question::OtherPath => plain("404 Not Found", "there is only /metrics"),
        Question::OtherMethod => plain("405 Method Not Allowed\r\nAllow: GET", "only GET"),
        Question::TooLong => plain("431 Request Header Fields Too Large", "too long"),
        Question::Senseless => plain("400 Bad Request", "not a request of HTTP/1"),
    };
    // What is asked was in time; the page may have taken some.
    let deadline = Instant::now() + CLIENT_LIMIT;
    let mut rest = answer.as_bytes();
    while !rest.is_empty() {
        let written = client.write_within(rest, left(deadline)?)?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        rest = &rest[written..];
    }
    Ok(())
}

/// Time until `deadline`; an error after it, since a timeout of 0 would be none.
fn left(deadline: Instant) -> io::Result<Duration> {
    deadline
        .checked_duration_since(Instant::now())
        .filter(|left| !left.is_zero())
        .ok_or_else(|| io::ErrorKind::TimedOut.into())
}

fn plain(status: &str, text: &str) -> String {
    answer(status, "text/plain; charset=utf-8", &format!("{text}\n"))
}

fn answer(status: &str, content_type: &str, text: &str) -> String {
    let len = text.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n{text}"
    )
}

/// What a client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Question {
    Page,
    OtherPath,
    OtherMethod,
    TooLong,
    Senseless,
}

/// Reads up to the empty line after the head.
fn question(client: &impl Stream, deadline: Instant) -> io::Result<Question> {
    let mut head = Vec::with_capacity(1024);
    let mut bytes = [0; 1024];
    loop {
        let read = client.read_within(&mut bytes, left(deadline)?)?;
        if read == 0 {
            return Ok(Question::Senseless);
        }
        head.extend_from_slice(&bytes[..read]);
        if head.windows(4).any(|end| end == b"\r\n\r\n") {
            return Ok(understand(&head));
        }
        if head.len() >= HEAD_LEN_MAX {
            return Ok(Question::TooLong);
        }
    }
}

fn understand(head: &[u8]) -> Question {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let Ok(line) = std::str::from_utf8(line) else {
        return Question::Senseless;
    };
    let words: Vec<_> = line.split(' ').collect();
    let [method, target, version] = words[..] else {
        return Question::Senseless;
    };
    if !version.starts_with("HTTP/1.") {
        return Question::Senseless;
    }
    match (method, target.split('?').next()) {
        ("GET", Some("/metrics")) => Question::Page,
        ("GET", _) => Question::OtherPath,
        _ => Question::OtherMethod,
    }
}

#[cfg(test)]
mod tests;
