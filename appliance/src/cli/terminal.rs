//! The user's terminal joined to a process in a sandbox: frames in both directions, raw mode while
//! it lasts, window sizes and signals passed on, the exit code brought back.

use std::io::IsTerminal;
use std::os::fd::AsFd;

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use unpacker::container::exit::Exit;
use unpacker::container::stream::{Decoder, Frame};

use crate::error::{Failure, Kind, Outcome};
use crate::ui;

/// What the user's side gives to the process.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub stdin: Input,
    /// The process has a terminal: raw mode here, and our window's size there.
    pub terminal: bool,
}

/// What becomes of the process's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Input {
    /// Our standard input is passed on.
    Ours,
    /// The process sees its end at once.
    Closed,
    /// Somebody else's: left as it is.
    Theirs,
}

impl Input {
    /// Of a process that is started for us.
    pub(super) fn of_new(interactive: bool) -> Self {
        if interactive {
            Self::Ours
        } else {
            Self::Closed
        }
    }
}

/// Relays until the process ends; answers its exit code. Output that nobody takes any more is
/// dropped: the process and its exit code matter still.
pub(super) async fn relay(stream: TokioIo<Upgraded>, wanted: Wanted) -> Outcome<i32> {
    // Without our keyboard the terminal stays as it is, and Ctrl-C is a signal to be passed on.
    let both = wanted.terminal && wanted.stdin == Input::Ours;
    let _raw = if both { RawMode::enter() } else { None };
    let (reader, writer) = tokio::io::split(stream);
    let (sender, receiver) = mpsc::channel(64);
    tokio::spawn(write_frames(writer, receiver));
    if wanted.terminal {
        tokio::spawn(send_sizes(sender.clone()));
    }
    // In raw mode Ctrl-C is a byte; what comes as a signal was sent to us on purpose.
    tokio::spawn(send_signals(sender.clone()));
    match wanted.stdin {
        // A thread of its own: a read of a terminal cannot be cancelled, and must not hold up the end.
        Input::Ours => drop(std::thread::spawn(move || send_stdin(&sender))),
        Input::Closed => {
            if sender.send(Frame::CloseStdin).await.is_err() {
                return Err(broken("the stream closed at once"));
            }
        }
        Input::Theirs => {}
    }
    read_frames(reader).await
}

async fn read_frames(mut reader: ReadHalf<TokioIo<Upgraded>>) -> Outcome<i32> {
    let mut decoder = Decoder::default();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = reader
            .read(&mut buffer)
            .await
            .map_err(|e| broken(&e.to_string()))?;
        if count == 0 {
            return Err(broken("it closed before the process ended"));
        }
        decoder.push(&buffer[..count]);
        while let Some(frame) = decoder.next_frame().map_err(|e| broken(&e.to_string()))? {
            match frame {
                Frame::Stdout(bytes) => drop(ui::write(&bytes)),
                Frame::Stderr(bytes) => ui::raw_stderr(&bytes),
                Frame::Exit(exit) => {
                    if exit == Exit::OutOfMemory {
                        ui::news("The sandbox was killed: out of memory.");
                    }
                    return Ok(exit.code());
                }
                Frame::Error(text) => return Err(Failure::new(Kind::Internal, text)),
                _ => {}
            }
        }
    }
}

async fn write_frames(
    mut writer: WriteHalf<TokioIo<Upgraded>>,
    mut receiver: mpsc::Receiver<Frame>,
) {
    while let Some(frame) = receiver.recv().await {
        if writer.write_all(&frame.to_bytes()).await.is_err() || writer.flush().await.is_err() {
            return;
        }
    }
}

fn send_stdin(sender: &mpsc::Sender<Frame>) {
    use std::io::Read;
    let mut stdin = std::io::stdin().lock();
    let mut buffer = vec![0; 32 << 10];
    while let Ok(count @ 1..) = stdin.read(&mut buffer) {
        if sender
            .blocking_send(Frame::Stdin(buffer[..count].to_vec()))
            .is_err()
        {
            return;
        }
    }
    // The process may have ended meanwhile.
    let _ = sender.blocking_send(Frame::CloseStdin);
}

async fn send_sizes(sender: mpsc::Sender<Frame>) {
    let Ok(mut changes) = signal(SignalKind::window_change()) else {
        return;
    };
    loop {
        if let Ok(size) = tcgetwinsize(std::io::stdout()) {
            let frame = Frame::Resize {
                rows: size.ws_row,
                columns: size.ws_col,
            };
            if sender.send(frame).await.is_err() {
                return;
            }
        }
        if changes.recv().await.is_none() {
            return;
        }
    }
}

async fn send_signals(sender: mpsc::Sender<Frame>) {
    let (Ok(mut interrupt), Ok(mut terminate)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) else {
        return;
    };
    loop {
        let number = tokio::select! {
            _ = interrupt.recv() => libc::SIGINT,
            _ = terminate.recv() => libc::SIGTERM,
        };
        if sender.send(Frame::Signal(number)).await.is_err() {
            return;
        }
    }
}

/// Both ends of the conversation are terminals.
pub(super) fn is_interactive() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

/// Raw mode of standard input, undone on drop.
struct RawMode {
    before: Termios,
}

impl RawMode {
    fn enter() -> Option<Self> {
        let stdin = std::io::stdin();
        let before = tcgetattr(stdin.as_fd()).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin.as_fd(), OptionalActions::Now, &raw).ok()?;
        Some(Self { before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // The terminal may be gone; then there is nothing to restore.
        let _ = tcsetattr(
            std::io::stdin().as_fd(),
            OptionalActions::Drain,
            &self.before,
        );
    }
}

fn broken(why: &str) -> Failure {
    Failure::new(
        Kind::Unavailable,
        format!("the stream to the process broke: {why}"),
    )
}
