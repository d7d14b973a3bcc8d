//! Starting the daemon in the background when a command needs it.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tokio::net::UnixStream;

use crate::client::Client;
use crate::daemon::folder::DataFolder;
use crate::daemon::{environment, lock, log, serve, socket};
use crate::error::{Failure, Kind, Outcome};
use crate::ui;

/// Opening the stores and mapping identities takes milliseconds; a busy machine gets its time.
const PATIENCE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(10);

/// A client of the running daemon; starts one first where none runs, and says so.
pub async fn ensure(folder: &DataFolder, arguments: &[String]) -> Outcome<Client> {
    if let Ok(found) = socket::connect(&folder.socket()).await {
        return Ok(Client::new(folder.clone(), found));
    }
    folder.create().map_err(|error| {
        let message = format!("cannot make the data folder {}", folder.root().display());
        Failure::because(Kind::Internal, message, &error)
            .hint("Choose a folder that you may write with --data or DEVPOD_DATA.")
    })?;
    if !lock::is_held(folder) {
        ui::news(&format!(
            "Starting the devpod daemon (data in {}).",
            folder.root().display()
        ));
    }
    let found = wait(folder, arguments).await?;
    Ok(Client::new(folder.clone(), found))
}

/// A client of a daemon that already runs.
pub async fn running(folder: &DataFolder) -> Option<Client> {
    socket::connect(&folder.socket())
        .await
        .ok()
        .map(|found| Client::new(folder.clone(), found))
}

fn spawn(folder: &DataFolder, arguments: &[String]) -> Outcome<(Child, File)> {
    let failed = |error: &std::io::Error| {
        Failure::because(Kind::Internal, "cannot start the devpod daemon", error)
    };
    log::rotate(folder).map_err(|error| failed(&error))?;
    // The daemon writes through a descriptor of its own: a shared one would move our place too.
    let mut options = OpenOptions::new();
    let output = options
        .append(true)
        .create(true)
        .mode(0o600)
        .open(folder.log());
    let output = output.map_err(|error| failed(&error))?;
    let errors = output.try_clone().map_err(|error| failed(&error))?;
    let mut log = File::open(folder.log()).map_err(|error| failed(&error))?;
    log.seek(SeekFrom::End(0)).map_err(|error| failed(&error))?;
    let child = Command::new(std::env::current_exe().map_err(|error| failed(&error))?)
        .arg("--data")
        .arg(folder.root())
        .args(["serve", "--detach"])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .current_dir("/")
        .env_clear()
        .envs(environment::inherited())
        .spawn()
        .map_err(|error| failed(&error))?;
    Ok((child, log))
}

async fn wait(folder: &DataFolder, arguments: &[String]) -> Outcome<UnixStream> {
    let (mut child, mut log) = spawn(folder, arguments)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Ok(found) = socket::connect(&folder.socket()).await {
            return Ok(found);
        }
        match child.try_wait()? {
            // Another command has started one at the same moment, which will answer; or an old one
            // was still ending its work, and another is needed when it has.
            Some(status) if lost(status) && lock::is_held(folder) => {}
            Some(status) if lost(status) => (child, log) = spawn(folder, arguments)?,
            Some(status) => return Err(died(folder, status, &mut log)),
            None => {}
        }
        if Instant::now() > deadline {
            return Err(
                Failure::new(Kind::Unavailable, "the devpod daemon does not answer")
                    .hint(format!("See {}.", folder.log().display())),
            );
        }
        tokio::time::sleep(POLL).await;
    }
}

fn lost(status: ExitStatus) -> bool {
    status.code() == Some(serve::LOST.into())
}

/// The daemon's own words are the best explanation.
fn died(folder: &DataFolder, status: ExitStatus, log: &mut File) -> Failure {
    let mut said = String::new();
    // Without its words the status still stands.
    let _ = log.take(64 << 10).read_to_string(&mut said);
    let kind = match status.code() {
        Some(2) => Kind::Invalid,
        Some(4) => Kind::Conflict,
        Some(6) => Kind::Denied,
        Some(7) => Kind::Exhausted,
        _ => Kind::Unavailable,
    };
    let mut failure = Failure::new(kind, format!("the devpod daemon did not start ({status})"));
    for line in said.lines().map(str::trim).filter(|line| !line.is_empty()) {
        match line.strip_prefix("hint:") {
            Some(hint) => failure.hints.push(hint.trim().to_owned()),
            None => {
                let line = line.strip_prefix("error:").or(line.strip_prefix("because"));
                let line = line.map_or(String::new(), |text| text.trim().to_owned());
                if !line.is_empty() {
                    failure.causes.push(line);
                }
            }
        }
    }
    failure.hint(format!("Its log is {}.", folder.log().display()))
}
