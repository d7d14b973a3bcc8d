//! The only writer to the terminal: results on stdout, news and failures on stderr.

pub mod failure;
pub mod progress;
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

/// Prints one line of a result. A reader that went away (`| head`) ends the program quietly.
pub fn line(text: &str) {
    write_out(format_args!("{text}\n"));
}

/// Prints exactly these bytes, without a newline.
pub fn raw(bytes: &[u8]) {
    let mut out = io::stdout().lock();
    if out.write_all(bytes).and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
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

/// One line for people on stderr.
pub fn news(text: &str) {
    // Nobody can be told that stderr is gone.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

fn write_out(args: std::fmt::Arguments<'_>) {
    let mut out = io::stdout().lock();
    if out.write_fmt(args).and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}
