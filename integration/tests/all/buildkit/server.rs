//! What ADD fetches from: a few addresses on loopback.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;

/// The content of `/file.txt`.
pub(super) const FILE: &[u8] = b"served";

/// Serves until the process ends, with an archive of the context at `/packed.tar.gz`.
pub(super) fn start(context: &Path) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let archive = std::fs::read(context.join("archives/gz.tar.gz")).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let archive = archive.clone();
            // A client that has gone away wants no answer.
            std::thread::spawn(move || drop(answer(stream, &archive)));
        }
    });
    address
}

fn answer(mut stream: TcpStream, archive: &[u8]) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let mut words = first.split(' ');
    let head = words.next() == Some("HEAD");
    let path = words.next().and_then(|path| path.split('?').next());
    let (status, more, body) = match path.unwrap_or_default() {
        "/file.txt" | "/dir/file.txt" | "/real/target.bin" => ("200 OK", "", FILE),
        "/packed.tar.gz" => ("200 OK", "", archive),
        "/named" => (
            "200 OK",
            "Content-Disposition: attachment; filename=\"given.txt\"\r\n",
            FILE,
        ),
        "/moved" => ("302 Found", "Location: /real/target.bin\r\n", &b""[..]),
        _ => ("404 Not Found", "", &b""[..]),
    };
    let head_only = format!(
        "HTTP/1.1 {status}\r\n{more}Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head_only.as_bytes())?;
    stream.write_all(if head { b"" } else { body })
}
