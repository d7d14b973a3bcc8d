//! The only writer to the terminal: results on stdout, news and failures on stderr.

pub mod failure;
pub mod progress;
mod steps;
pub mod style;
pub mod table;

use std::io::{self, Write};

use serde::Serialize;

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    #[default]
    Text,
    Json,
}

/// What `--output` says: for `save` it may be a file, as docker's and podman's `-o` is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    Format(Format),
    File(std::path::PathBuf),
}

impl Output {
    /// Whatever is no format is a file's name.
    pub fn parse(text: &str) -> Result<Self, std::convert::Infallible> {
        Ok(match text {
            "text" => Self::Format(Format::Text),
            "json" => Self::Format(Format::Json),
            file => Self::File(file.into()),
        })
    }
}

/// Prints one line of a result.
pub fn line(text: &str) {
    raw(format!("{text}\n").as_bytes());
}

/// Prints exactly these bytes, without a newline. A reader that went away (`| head`) ends the
/// program quietly; a result that cannot be written (a full disk) is a failure.
pub fn raw(bytes: &[u8]) {
    match write(bytes) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => {
            news(&format!(
                "{} cannot write the result: {error}",
                style::error("error:")
            ));
            std::process::exit(1);
        }
    }
}

/// As [`raw`], for whoever must go on when nobody reads any more.
pub fn write(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush())
}

/// Passes on what a process wrote to its stderr.
pub fn raw_stderr(bytes: &[u8]) {
    // Nobody can be told that stderr is gone.
    let _ = io::stderr().lock().write_all(bytes);
}

/// Prints compact JSON: scripts of other tools look for `"id":"name"` without spaces.
pub fn json<T: Serialize>(value: &T) {
    match serde_json::to_string(value) {
        Ok(text) => line(&text),
        Err(error) => news(&format!("cannot print the result as JSON: {error}")),
    }
}

/// News as one line of JSON on stderr.
pub fn news_json<T: Serialize>(value: &T) {
    // All types of news can be written as JSON.
    if let Ok(text) = serde_json::to_string(value) {
        news(&text);
    }
}

/// One line for people on stderr.
pub fn news(text: &str) {
    // Nobody can be told that stderr is gone.
    let _ = writeln!(io::stderr().lock(), "{text}");
}
