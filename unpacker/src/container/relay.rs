//! Carries bytes between a process and whoever watches it, in one thread, by polling.
//!
//! A relay never waits for one side while another has something. It is bounded: with one watcher
//! (an exec) the process waits when the watcher does not read; with any number (a sandbox) a
//! watcher that does not read is dropped, and the process and its log go on. Only for the one who
//! started a sandbox in the foreground the process waits too, for as long as it is there.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::exit::Exit;
use super::log::LogWriter;
use super::outbox::{Outbox, timeout};
use super::signalled::Signalled;
use super::stream::{Decoder, Frame};

const PIECE: usize = 32 * 1024;
/// After the process' end its outputs are read until they are silent for so long: a background
/// process may hold them open for ever.
const SILENCE: Duration = Duration::from_millis(100);
/// From SIGHUP to the end of a process whose watcher has gone.
const HANGUP: Duration = Duration::from_secs(5);

/// How many watchers there are.
#[derive(Debug)]
pub(crate) enum Watchers {
    /// One; when it goes, the process and its group are hung up.
    One,
    /// Any number, that come to this socket.
    Any(OwnedFd),
}

/// The process' side.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) process: Signalled,
    pub(crate) input: OwnedFd,
    /// Its outputs, and whether they are standard error.
    pub(crate) outputs: Vec<(bool, OwnedFd)>,
    /// `input` is the other side of a terminal.
    pub(crate) is_terminal: bool,
}

impl Endpoint {
    /// A process whose everything is one terminal, of which this is the other side.
    pub(crate) fn terminal(process: Signalled, terminal: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            process,
            outputs: vec![(false, terminal.try_clone()?)],
            input: terminal,
            is_terminal: true,
        })
    }
}

#[derive(Debug)]
pub(crate) struct Relay {
    process: Signalled,
    input: Option<Outbox>,
    outputs: Vec<Output>,
    terminal: Option<OwnedFd>,
    watchers: Vec<Watcher>,
    kind: Watchers,
    log: Option<LogWriter>,
    hung_up: Option<Instant>,
}

#[derive(Debug)]
struct Output {
    stderr: bool,
    fd: OwnedFd,
    closed: bool,
}

#[derive(Debug)]
struct Watcher {
    outbox: Outbox,
    decoder: Decoder,
    gone: bool,
    /// It will say no more, but still listens.
    silent: bool,
    /// The process waits for it.
    patient: bool,
}

/// What a descriptor of the poll set belongs to.
#[derive(Debug, Clone, Copy)]
enum Source {
    Process,
    Listener,
    Input,
    Output(usize),
    Watcher(usize),
}

impl Relay {
    pub(crate) fn new(
        endpoint: Endpoint,
        kind: Watchers,
        log: Option<LogWriter>,
    ) -> io::Result<Self> {
        let terminal = match endpoint.is_terminal {
            true => Some(endpoint.input.try_clone()?),
            false => None,
        };
        let mut outputs = Vec::new();
        for (stderr, fd) in endpoint.outputs {
            rustix::io::ioctl_fionbio(&fd, true)?;
            outputs.push(Output {
                stderr,
                fd,
                closed: false,
            });
        }
        Ok(Self {
            process: endpoint.process,
            input: Some(Outbox::new(endpoint.input)?),
            outputs,
            terminal,
            watchers: Vec::new(),
            kind,
            log,
            hung_up: None,
        })
    }

    /// Adds a watcher.
    pub(crate) fn watch(&mut self, stream: OwnedFd) -> io::Result<()> {
        let patient = matches!(self.kind, Watchers::One);
        self.add(stream, patient)
    }

    /// Adds a watcher that misses nothing.
    pub(crate) fn watch_patiently(&mut self, stream: OwnedFd) -> io::Result<()> {
        self.add(stream, true)
    }

    fn add(&mut self, stream: OwnedFd, patient: bool) -> io::Result<()> {
        self.watchers.push(Watcher {
            outbox: Outbox::new(stream)?,
            decoder: Decoder::default(),
            gone: false,
            silent: false,
            patient,
        });
        Ok(())
    }

    /// Carries until the process has ended and its outputs are silent, or until it was hung up
    /// and given time to end.
    pub(crate) fn carry(&mut self) -> io::Result<()> {
        let mut ended = false;
        // With nothing left to be said there is no silence to wait for.
        while !(ended && self.outputs.is_empty()) {
            let ready = self.wait(ended)?;
            if ended && ready.is_empty() && !self.must_wait() {
                return Ok(());
            }
            if self.hung_up.is_some_and(|at| at.elapsed() >= HANGUP) {
                return Ok(());
            }
            for (source, events) in ready {
                match source {
                    Source::Process => ended = true,
                    Source::Listener => self.accept(),
                    Source::Input => self.flush_input(),
                    Source::Output(index) => self.read_output(index),
                    Source::Watcher(index) => self.serve(index, events),
                }
            }
            self.settle();
        }
        Ok(())
    }

    /// Ends what is left of the process' group after it was hung up; nothing otherwise.
    pub(crate) fn end_hung_up(&self) {
        if let Some(at) = self.hung_up {
            self.process.end_by(at + HANGUP);
        }
    }

    /// Writes what is left of the output to the log, and writes no more.
    pub(crate) fn close_log(&mut self) -> io::Result<()> {
        self.outputs.clear();
        match self.log.take() {
            Some(mut log) => log.finish(),
            None => Ok(()),
        }
    }

    /// Tells every watcher how it ended. An only one is waited for as long as it is there; many
    /// have a moment.
    pub(crate) fn finish(mut self, exit: Exit) -> io::Result<()> {
        self.close_log()?;
        let deadline = match self.kind {
            Watchers::One => None,
            Watchers::Any(_) => Some(Instant::now() + HANGUP),
        };
        for watcher in &mut self.watchers {
            Frame::Exit(exit).encode(&mut watcher.outbox.bytes);
            watcher.outbox.drain_until(deadline);
        }
        Ok(())
    }

    /// What can be done now. After the process' end only for as long as outputs may be silent.
    fn wait(&self, ended: bool) -> io::Result<Vec<(Source, PollFlags)>> {
        let wanted = self.wanted(ended);
        let mut fds: Vec<_> = (wanted.iter())
            .map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags))
            .collect();
        let patience = match (ended, self.hung_up) {
            (true, _) => timeout(SILENCE),
            (false, Some(at)) => timeout(HANGUP.saturating_sub(at.elapsed())),
            (false, None) => None,
        };
        match poll(&mut fds, patience.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Vec::new()),
            Err(e) => return Err(e.into()),
        }
        let ready = wanted.iter().zip(&fds);
        Ok(ready
            .map(|((source, ..), fd)| (*source, fd.revents()))
            .filter(|(_, events)| !events.is_empty())
            .collect())
    }

    fn wanted(&self, ended: bool) -> Vec<(Source, BorrowedFd<'_>, PollFlags)> {
        let mut wanted = Vec::new();
        if !ended {
            wanted.push((Source::Process, self.process.pidfd(), PollFlags::IN));
        }
        if let (Watchers::Any(listener), false) = (&self.kind, ended) {
            wanted.push((Source::Listener, listener.as_fd(), PollFlags::IN));
        }
        if let Some(input) = self.input.as_ref().filter(|input| !input.bytes.is_empty()) {
            wanted.push((Source::Input, input.fd.as_fd(), PollFlags::OUT));
        }
        if !self.must_wait() {
            for (index, output) in self.outputs.iter().enumerate() {
                wanted.push((Source::Output(index), output.fd.as_fd(), PollFlags::IN));
            }
        }
        let deaf = self.input.as_ref().is_some_and(Outbox::is_full);
        for (index, watcher) in self.watchers.iter().enumerate() {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, !deaf && !watcher.silent);
            flags.set(PollFlags::OUT, !watcher.outbox.bytes.is_empty());
            wanted.push((Source::Watcher(index), watcher.outbox.fd.as_fd(), flags));
        }
        wanted
    }

    /// A watcher that the process waits for is behind.
    fn must_wait(&self) -> bool {
        let behind = |watcher: &Watcher| watcher.patient && watcher.outbox.is_full();
        self.watchers.iter().any(behind)
    }

    fn accept(&mut self) {
        let Watchers::Any(listener) = &self.kind else {
            return;
        };
        let flags = rustix::net::SocketFlags::CLOEXEC;
        if let Ok(stream) = rustix::net::accept_with(listener, flags) {
            let _ = self.watch(stream);
        }
    }

    fn flush_input(&mut self) {
        if let Some(input) = &mut self.input {
            // A process that closed its input is no failure of ours.
            if input.flush().is_err() || (input.close_when_empty && input.bytes.is_empty()) {
                self.input = None;
            }
        }
    }

    fn read_output(&mut self, index: usize) {
        let output = &mut self.outputs[index];
        let mut bytes = [0_u8; PIECE];
        match rustix::io::read(&output.fd, &mut bytes) {
            Ok(n) if n > 0 => {
                let stderr = output.stderr;
                self.tell(stderr, &bytes[..n]);
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            // A terminal that nobody has open answers EIO.
            _ => output.closed = true,
        }
    }

    fn tell(&mut self, stderr: bool, bytes: &[u8]) {
        if let Some(log) = &mut self.log {
            // A full disk must not stop the process; the log has a gap then.
            let _ = log.write(stderr, bytes);
        }
        let frame = match stderr {
            false => Frame::Stdout(bytes.to_vec()),
            true => Frame::Stderr(bytes.to_vec()),
        };
        for watcher in &mut self.watchers {
            frame.encode(&mut watcher.outbox.bytes);
            watcher.gone |= watcher.outbox.flush().is_err();
            watcher.gone |= watcher.outbox.is_full() && !watcher.patient;
        }
    }

    fn serve(&mut self, index: usize, events: PollFlags) {
        let watcher = &mut self.watchers[index];
        watcher.gone |= watcher.outbox.flush().is_err();
        if events.intersects(PollFlags::HUP | PollFlags::ERR) && !events.contains(PollFlags::IN) {
            watcher.gone = true;
        }
        if !events.contains(PollFlags::IN) {
            return;
        }
        let mut bytes = [0_u8; PIECE];
        match rustix::io::read(&watcher.outbox.fd, &mut bytes) {
            Ok(0) if events.contains(PollFlags::HUP) => watcher.gone = true,
            Ok(0) => {
                watcher.silent = true;
                if matches!(self.kind, Watchers::One) {
                    self.obey(Frame::CloseStdin);
                }
            }
            Ok(n) => {
                watcher.decoder.push(&bytes[..n]);
                self.obey_all(index);
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => watcher.gone = true,
        }
    }

    fn obey_all(&mut self, index: usize) {
        loop {
            let watcher = &mut self.watchers[index];
            match watcher.decoder.next_frame() {
                Ok(Some(frame)) => self.obey(frame),
                Ok(None) => return,
                Err(error) => {
                    Frame::Error(error.to_string()).encode(&mut watcher.outbox.bytes);
                    let _ = watcher.outbox.flush();
                    watcher.gone = true;
                    return;
                }
            }
        }
    }

    fn obey(&mut self, frame: Frame) {
        match frame {
            Frame::Stdin(bytes) => {
                if let Some(input) = &mut self.input {
                    input.bytes.extend_from_slice(&bytes);
                }
                self.flush_input();
            }
            Frame::CloseStdin => self.close_input(),
            Frame::Resize { rows, columns } => self.resize(rows, columns),
            Frame::Signal(signal @ 1..=64) => {
                // On a terminal it is the terminal that tells the others.
                let _ = match self.terminal {
                    Some(_) => self.process.signal_process(signal),
                    None => self.process.signal_all(signal),
                };
            }
            // What only a process says, or no signal: nothing to do.
            Frame::Signal(_)
            | Frame::Stdout(_)
            | Frame::Stderr(_)
            | Frame::Exit(_)
            | Frame::Error(_) => {}
        }
    }

    fn close_input(&mut self) {
        const END_OF_TRANSMISSION: u8 = 4;
        let Some(input) = &mut self.input else { return };
        if self.terminal.is_some() {
            input.bytes.push(END_OF_TRANSMISSION);
        } else {
            input.close_when_empty = true;
        }
        self.flush_input();
    }

    fn resize(&self, rows: u16, columns: u16) {
        let size = rustix::termios::Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        if let Some(terminal) = &self.terminal {
            let _ = rustix::termios::tcsetwinsize(terminal, size);
        }
    }

    /// Forgets what is gone, and hangs up when nobody is left who wants to know.
    fn settle(&mut self) {
        self.outputs.retain(|output| !output.closed);
        self.watchers.retain(|watcher| !watcher.gone);
        let alone = matches!(self.kind, Watchers::One) && self.watchers.is_empty();
        if alone && self.hung_up.is_none() {
            self.hung_up = Some(Instant::now());
            self.input = None;
            self.outputs.clear();
            self.terminal = None;
            self.process.hang_up();
        }
    }
}
