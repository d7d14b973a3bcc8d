//! Many connections that each ask again as soon as they are answered, all from one thread: the two
//! processors that client and server share go to the server.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

const CONNECTIONS: usize = 16;
const BUFFER: usize = 256 * 1024;

/// What a run of requests showed.
pub(crate) struct Outcome {
    pub(crate) count: usize,
    pub(crate) seconds: f64,
    /// Sorted.
    times: Vec<Duration>,
}

impl Outcome {
    pub(crate) fn new(mut times: Vec<Duration>, seconds: f64) -> Self {
        times.sort();
        let count = times.len();
        Self {
            count,
            seconds,
            times,
        }
    }

    #[allow(clippy::cast_precision_loss)]
    pub(crate) fn per_second(&self) -> f64 {
        self.count as f64 / self.seconds
    }

    /// A time, in milliseconds, that so many percent of the requests stay below.
    pub(crate) fn percentile(&self, percent: usize) -> f64 {
        let place = (self.count * percent / 100).min(self.count - 1);
        self.times[place].as_secs_f64() * 1e3
    }
}

/// Sends these requests in turn over every connection for so long; each must be answered with 200.
pub(crate) fn hammer(address: &str, requests: &[Vec<u8>], length: Duration) -> Outcome {
    let open = |n| Client::open(address, n, requests);
    let mut clients: Vec<Client> = (0..CONNECTIONS).map(open).collect();
    let mut times = Vec::new();
    let begun = Instant::now();
    while begun.elapsed() < length {
        let mut waiting: Vec<PollFd<'_>> = clients
            .iter()
            .map(|client| PollFd::new(&client.stream, PollFlags::IN))
            .collect();
        let patience = Timespec {
            tv_sec: 10,
            tv_nsec: 0,
        };
        let ready = poll(&mut waiting, Some(&patience)).unwrap();
        assert!(ready > 0, "nobody was answered for ten seconds");
        let ready: Vec<bool> = waiting.iter().map(|fd| !fd.revents().is_empty()).collect();
        for (client, ready) in clients.iter_mut().zip(ready) {
            if ready {
                times.extend(client.read(requests));
            }
        }
    }
    Outcome::new(times, begun.elapsed().as_secs_f64())
}

/// A request as it is sent.
pub(crate) fn request(method: &str, path: &str) -> Vec<u8> {
    let (name, value) = crate::wire::ACCEPT;
    format!("{method} {path} HTTP/1.1\r\nhost: bench\r\n{name}: {value}\r\n\r\n").into_bytes()
}

struct Client {
    stream: TcpStream,
    next: usize,
    head_only: bool,
    asked: Instant,
    answer: Vec<u8>,
}

impl Client {
    fn open(address: &str, first: usize, requests: &[Vec<u8>]) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut client = Self {
            stream,
            next: first,
            head_only: false,
            asked: Instant::now(),
            answer: Vec::new(),
        };
        client.ask(requests);
        client.stream.set_nonblocking(true).unwrap();
        client
    }

    /// A request fits any socket's buffer, so it is sent at once.
    fn ask(&mut self, requests: &[Vec<u8>]) {
        let request = &requests[self.next % requests.len()];
        self.next += 1;
        self.head_only = request.starts_with(b"HEAD");
        self.asked = Instant::now();
        self.stream.write_all(request).unwrap();
    }

    /// Takes what has come; when the answer is whole, answers its time and asks again.
    fn read(&mut self, requests: &[Vec<u8>]) -> Option<Duration> {
        let mut buffer = [0; 16 * 1024];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => panic!("the server closed the connection"),
                Ok(count) => self.answer.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(error) => panic!("{error}"),
            }
            assert!(self.answer.len() < BUFFER, "a small answer was expected");
            if is_whole(&self.answer, self.head_only) {
                let time = self.asked.elapsed();
                self.answer.clear();
                self.ask(requests);
                return Some(time);
            }
        }
    }
}

fn is_whole(answer: &[u8], head_only: bool) -> bool {
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else {
        return false;
    };
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 200"), "{head}");
    if head_only {
        return true;
    }
    let body = &answer[end + 4..];
    match head.split("content-length:").nth(1) {
        Some(rest) => {
            let length = rest.lines().next().unwrap().trim();
            body.len() >= length.parse().unwrap()
        }
        None => body.ends_with(b"0\r\n\r\n"),
    }
}
