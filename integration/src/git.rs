//! Git repositories, and a server for them on loopback: `git http-backend` behind a few lines of HTTP.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::process::run;

/// A working copy that commits are made in.
#[derive(Debug)]
pub struct Work(PathBuf);

impl Work {
    /// A new repository in a folder that is made.
    pub fn new(folder: &Path) -> Self {
        std::fs::create_dir_all(folder).expect("a folder");
        let work = Self(folder.to_owned());
        work.git(&["init", "--quiet", "--initial-branch=main", "."]);
        work.git(&["config", "uploadpack.allowAnySHA1InWant", "false"]);
        work
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Runs git in it and answers what it says.
    pub fn git(&self, arguments: &[&str]) -> String {
        let mut git = Command::new("git");
        git.current_dir(&self.0)
            .env("GIT_CONFIG_GLOBAL", "/dev/null");
        git.args([
            "-c",
            "user.name=A",
            "-c",
            "user.email=a@b",
            "-c",
            "protocol.file.allow=always",
        ]);
        run(git.args(arguments)).ok().text().to_owned()
    }

    pub fn write(&self, name: &str, text: &str) {
        let path = self.0.join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
        std::fs::write(path, text).expect("a file");
    }

    /// Commits everything and answers the commit.
    pub fn commit(&self) -> String {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--allow-empty", "-m", "m"]);
        self.git(&["rev-parse", "HEAD"]).trim().to_owned()
    }
}

/// Serves every repository below a folder, for as long as the test's process lives.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    packs: Arc<AtomicUsize>,
}

impl Server {
    /// Where `authorization` is said, nobody gets anything without that header.
    pub fn start(folder: &Path, authorization: Option<&'static str>) -> Self {
        Self::start_as(folder, authorization, true)
    }

    /// One of long ago: it gives only what a branch or a tag ends with.
    pub fn of_names_alone(folder: &Path) -> Self {
        Self::start_as(folder, None, false)
    }

    fn start_as(folder: &Path, authorization: Option<&'static str>, is_new: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let packs = Arc::new(AtomicUsize::new(0));
        let (root, counted) = (folder.to_owned(), Arc::clone(&packs));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (root, counted) = (root.clone(), Arc::clone(&counted));
                std::thread::spawn(move || {
                    // A client that goes away is no failure of the server.
                    let _ = answer(stream, &root, (authorization, is_new), &counted);
                });
            }
        });
        Self { address, packs }
    }

    pub fn url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.address)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How often somebody fetched objects.
    pub fn packs(&self) -> usize {
        self.packs.load(Ordering::SeqCst)
    }
}

fn answer(
    stream: TcpStream,
    root: &Path,
    (authorization, is_new): (Option<&str>, bool),
    packs: &AtomicUsize,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut words = first.split(' ');
    let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim().split_once(": ") {
            Some((name, value)) => headers.insert(name.to_lowercase(), value.to_owned()),
            None => break,
        };
    }
    let length = headers
        .get("content-length")
        .and_then(|text| text.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body)?;
    let mut out = stream;
    if authorization.is_some_and(|wanted| headers.get("authorization").is_none_or(|h| h != wanted))
    {
        let head = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"\r\n\
                    Content-Length: 0\r\nConnection: close\r\n\r\n";
        return out.write_all(head.as_bytes());
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let is_fetch = String::from_utf8_lossy(&body).contains("want ");
    if method == "POST" && (is_fetch || headers.contains_key("content-encoding")) {
        packs.fetch_add(1, Ordering::SeqCst);
    }
    let mut backend = Command::new("git");
    backend
        .arg("http-backend")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    backend
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1");
    backend
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "safe.directory");
    backend
        .env("GIT_CONFIG_VALUE_0", "*")
        .env("GIT_CONFIG_GLOBAL", "/dev/null");
    backend
        .env("REQUEST_METHOD", method)
        .env("PATH_INFO", path)
        .env("QUERY_STRING", query);
    for (header, variable) in [
        ("content-type", "CONTENT_TYPE"),
        ("content-encoding", "HTTP_CONTENT_ENCODING"),
        ("git-protocol", "GIT_PROTOCOL"),
    ] {
        // The second protocol lets everybody have any commit.
        if is_new || variable != "GIT_PROTOCOL" {
            backend.envs(headers.get(header).map(|value| (variable, value)));
        }
    }
    backend.env("CONTENT_LENGTH", body.len().to_string());
    let mut child = backend.spawn()?;
    child.stdin.take().expect("stdin").write_all(&body)?;
    let said = child.wait_with_output()?.stdout;
    let at = said.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or(0);
    let head = String::from_utf8_lossy(&said[..at]).into_owned();
    let status = head.lines().find_map(|line| line.strip_prefix("Status: "));
    let kept = head.lines().filter(|line| !line.starts_with("Status: "));
    let kept: Vec<&str> = kept.collect();
    let rest = said.get(at + 4..).unwrap_or_default();
    let head = format!(
        "HTTP/1.1 {}\r\n{}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        status.unwrap_or("200 OK"),
        kept.join("\r\n"),
        rest.len()
    );
    out.write_all(head.as_bytes())?;
    out.write_all(rest)
}
