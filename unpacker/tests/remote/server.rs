//! A scripted HTTP server: one thread, one request per connection, answers written byte by byte as
//! the test says, every request written down.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) target: String,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    pub(crate) fn path(&self) -> &str {
        self.target.split('?').next().unwrap()
    }
}

/// What to write before the connection is closed.
pub(crate) struct Answer {
    head: String,
    body: Vec<u8>,
    /// Keep the connection open, silently, until the server ends.
    hang: bool,
}

impl Answer {
    pub(crate) fn status(status: u16) -> Self {
        Self {
            head: format!("HTTP/1.1 {status} X\r\nConnection: close\r\n"),
            body: Vec::new(),
            hang: false,
        }
    }

    pub(crate) fn header(mut self, name: &str, value: impl AsRef<str>) -> Self {
        self.head += &format!("{name}: {}\r\n", value.as_ref());
        self
    }

    /// A body with its true length.
    pub(crate) fn body(self, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        let length = body.len();
        self.cut(length, body)
    }

    /// A body that is announced with `length` and then is what it is.
    pub(crate) fn cut(self, length: usize, body: impl Into<Vec<u8>>) -> Self {
        let mut answer = self.header("Content-Length", length.to_string());
        answer.body = body.into();
        answer
    }

    /// A body without a length: its end is the connection's.
    pub(crate) fn endless(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub(crate) fn hang(mut self) -> Self {
        self.hang = true;
        self
    }
}

pub(crate) struct Server {
    pub(crate) host: String,
    requests: Arc<Mutex<Vec<Request>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// `handler` gets each request and how many of the same method and path came before it.
    pub(crate) fn start(handler: impl Fn(&Request, usize) -> Answer + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let requests: Arc<Mutex<Vec<Request>>> = Arc::default();
        let stop = Arc::new(AtomicBool::new(false));
        let (log, stopped) = (Arc::clone(&requests), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let mut hanging = Vec::new();
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    break;
                }
                hanging.extend(stream.ok().and_then(|s| serve(s, &log, &handler)));
            }
        });
        Self {
            host,
            requests,
            stop,
            thread: Some(thread),
        }
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// The requests in a short form: `GET /v2/`.
    pub(crate) fn log(&self) -> Vec<String> {
        let requests = self.requests();
        let short = requests.iter();
        short
            .map(|r| format!("{} {}", r.method, r.path()))
            .collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the accept.
        let _ = TcpStream::connect(&self.host);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Answers one connection, and hands it back if it is to stay open.
fn serve(
    mut stream: TcpStream,
    log: &Mutex<Vec<Request>>,
    handler: &dyn Fn(&Request, usize) -> Answer,
) -> Option<TcpStream> {
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .ok()?;
    let request = read_request(&stream)?;
    let earlier = {
        let mut log = log.lock().unwrap();
        let same = |r: &&Request| r.method == request.method && r.path() == request.path();
        let earlier = log.iter().filter(same).count();
        log.push(request.clone());
        earlier
    };
    let answer = handler(&request, earlier);
    // The client may have gone away, which is its right.
    let _ = stream.write_all(format!("{}\r\n", answer.head).as_bytes());
    if request.method != "HEAD" {
        let _ = stream.write_all(&answer.body);
    }
    let _ = stream.flush();
    answer.hang.then_some(stream)
}

fn read_request(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length = length.map_or(0, |(_, value)| value.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request {
        method,
        target,
        headers,
        body,
    })
}
