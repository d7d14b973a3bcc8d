//! A blocking HTTP/1.1 client that costs next to nothing, so that the server is what is measured.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

/// What manifests may be answered as; docker-registry gives an OCI manifest to nobody else.
pub(crate) const ACCEPT: (&str, &str) = (
    "accept",
    "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json",
);
/// Smaller bodies travel in one segment with their head.
const JOINED: usize = 16 * 1024;
/// Thrown away at a time: many times what a socket holds, so that a call takes all that has come.
const DISCARDED: usize = 8 * 1024 * 1024;

/// What a client does until more of a body comes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wait {
    /// Leaves the processor to others: right where there are more clients than processors.
    Asleep,
    /// Asks again at once. One client and one server that wake each other ten thousand times a
    /// gigabyte tell what waking costs, and not what the server does.
    Awake,
}

/// A kept connection.
pub(crate) struct Connection {
    address: String,
    stream: BufReader<TcpStream>,
}

/// An answer with its whole body.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        let text = String::from_utf8_lossy(&self.body);
        assert_eq!(self.status, status, "{:?} {text}", self.headers);
        self
    }

    /// The path of the place that the answer names; some servers answer whole addresses.
    pub(crate) fn location(&self) -> String {
        let text = self.header("location").expect("a location");
        match text.split_once("://") {
            Some((_, rest)) => rest[rest.find('/').expect("a path")..].to_owned(),
            None => text.to_owned(),
        }
    }
}

impl Connection {
    pub(crate) fn open(address: &str) -> Self {
        let stream = TcpStream::connect(address).expect("a connection");
        stream.set_nodelay(true).expect("no delay");
        let stream = BufReader::with_capacity(64 * 1024, stream);
        let address = address.to_owned();
        Self { address, stream }
    }

    /// Sends a request whose body is these parts, and reads the answer.
    pub(crate) fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[&[u8]],
    ) -> Reply {
        self.request(method, path, headers, body);
        let mut reply = self.head();
        if method != "HEAD" {
            let mut bytes = Vec::new();
            self.read_body(&reply, &mut |piece| bytes.extend_from_slice(piece));
            reply.body = bytes;
        }
        if reply.header("connection") == Some("close") {
            *self = Self::open(&self.address);
        }
        reply
    }

    /// Lets the kernel throw a body of known length away, and answers its length. Of a TCP socket,
    /// `MSG_TRUNC` takes bytes without copying them.
    pub(crate) fn discard(&mut self, path: &str, wait: Wait) -> u64 {
        self.request("GET", path, &[], &[]);
        let reply = self.head().expect(200);
        let length: u64 = reply.header("content-length").unwrap().parse().unwrap();
        let mut left = length - self.take_buffered(length);
        // Only its length counts: nothing is written to it, so that it never becomes memory.
        let mut room = vec![0; DISCARDED];
        let flags = match wait {
            Wait::Asleep => RecvFlags::TRUNC,
            Wait::Awake => RecvFlags::TRUNC | RecvFlags::DONTWAIT,
        };
        while left > 0 {
            // Not beyond the body: what follows it would be lost.
            let most = room.len().min(usize::try_from(left).unwrap());
            match recv(self.stream.get_ref(), &mut room[..most], flags) {
                Ok((_, 0)) => panic!("the body ended early"),
                Ok((_, count)) => left -= count as u64,
                Err(Errno::AGAIN) => std::hint::spin_loop(),
                Err(error) => panic!("{error}"),
            }
        }
        length
    }

    fn take_buffered(&mut self, most: u64) -> u64 {
        let count = (self.stream.buffer().len() as u64).min(most);
        self.stream.consume(usize::try_from(count).unwrap());
        count
    }

    fn request(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[&[u8]]) {
        let length: usize = body.iter().map(|part| part.len()).sum();
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\n", self.address);
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if matches!(method, "POST" | "PUT" | "PATCH") {
            head.push_str(&format!("content-length: {length}\r\n"));
        }
        let mut bytes = (head + "\r\n").into_bytes();
        let stream = self.stream.get_mut();
        if length <= JOINED {
            bytes.extend(body.concat());
            return stream.write_all(&bytes).expect("sent");
        }
        stream.write_all(&bytes).expect("sent");
        for part in body {
            stream.write_all(part).expect("sent");
        }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("a line");
        assert!(line.ends_with('\n'), "the answer ended early: {line:?}");
        line.trim_end().to_owned()
    }

    fn head(&mut self) -> Reply {
        let first = self.line();
        let status = first.split(' ').nth(1).and_then(|text| text.parse().ok());
        let mut headers = Vec::new();
        loop {
            let line = self.line();
            let Some((name, value)) = line.split_once(':') else {
                break;
            };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        Reply {
            status: status.unwrap_or_else(|| panic!("no answer: {first:?}")),
            headers,
            body: Vec::new(),
        }
    }

    fn read_body(&mut self, reply: &Reply, take: &mut dyn FnMut(&[u8])) {
        if reply.status == 204 || reply.status == 304 {
            return;
        }
        if reply.header("transfer-encoding") == Some("chunked") {
            loop {
                let size = usize::from_str_radix(&self.line(), 16).expect("a chunk size");
                self.exact(size, take);
                self.line();
                if size == 0 {
                    return;
                }
            }
        }
        let length = reply.header("content-length").expect("a length");
        self.exact(length.parse().unwrap(), take);
    }

    fn exact(&mut self, size: usize, take: &mut dyn FnMut(&[u8])) {
        let mut bytes = vec![0; size];
        self.stream.read_exact(&mut bytes).expect("a body");
        take(&bytes);
    }
}
