//! All that is known of one sandbox, for people who look closely.

use std::fs;

use serde_json::{Value, json};
use unpacker::container::supervise::{self, State};

use crate::error::{Failure, Outcome};
use crate::sandbox::local::Sandboxes;
use crate::sandbox::record::{self, Record};

/// The record, how it stands, and what became of its limits. Values of its environment are told:
/// whoever may ask owns the data folder.
pub fn show(sandboxes: &Sandboxes, record: &Record) -> Outcome<Value> {
    let folder = sandboxes.folder(record);
    let run = supervise::run(&folder)?;
    let mut shown = serde_json::to_value(sandboxes.row(record)?).unwrap_or_default();
    let process = &record.spec.process;
    let more = json!({
        "imageDigest": record.image_digest,
        "startedAt": run.started,
        "finishedAt": run.ended,
        "stopped": record::is_stopped(&folder),
        "restartCount": record::restarts(&folder),
        "stopSignal": record.stop_signal,
        "removeWhenDone": record.remove,
        "keeping": record.keeping,
        "restartPolicy": record.keeping.restart.to_string(),
        "resources": record.spec.resources,
        "surroundings": record.spec.surroundings,
        "mounts": record.spec.mounts,
        "anonymousVolumes": record.volumes,
        "network": record.spec.network,
        "address": supervise::address(&folder)?,
        "hostname": record.spec.hostname,
        "init": record.spec.init,
        "process": {
            "args": process.args,
            "env": process.env,
            "cwd": process.cwd,
            "user": process.user,
            "terminal": process.terminal,
            "capabilities": process.confinement.capabilities.names(),
            "noNewPrivileges": process.confinement.no_new_privileges,
            "seccomp": process.confinement.seccomp,
        },
        "logPath": folder.join("log"),
    });
    if let (Some(shown), Value::Object(more)) = (shown.as_object_mut(), more) {
        shown.extend(more);
    }
    Ok(shown)
}

/// The processes of a running sandbox: what its /proc would show.
pub fn processes(sandboxes: &Sandboxes, record: &Record) -> Outcome<Vec<Value>> {
    let State::Running { pid } = sandboxes.state(record)? else {
        let message = format!("sandbox {:?} does not run", record.name);
        return Err(Failure::conflict(message));
    };
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let own = namespace(&pid.to_string());
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.bytes().all(|byte| byte.is_ascii_digit())
            && own.is_some()
            && namespace(&name) == own
        {
            found.extend(process(&name));
        }
    }
    found.sort_by_key(|process| process["pid"].as_u64());
    Ok(found)
}

/// `None` for one that ended meanwhile.
fn process(pid: &str) -> Option<Value> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim_start_matches(':').trim().to_owned())
    };
    let last = |text: Option<String>| text?.split_whitespace().last()?.parse::<u64>().ok();
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words: Vec<_> = (command.split(|byte| *byte == 0))
        .filter(|word| !word.is_empty())
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect();
    let command = match words.is_empty() {
        true => format!("[{}]", field("Name")?),
        false => words.join(" "),
    };
    Some(json!({
        "pid": pid.parse::<u64>().ok()?,
        "insidePid": last(field("NSpid")),
        "parent": field("PPid")?.parse::<u64>().ok(),
        "user": field("Uid")?.split_whitespace().next()?.parse::<u64>().ok(),
        "state": field("State")?,
        "memory": field("VmRSS").and_then(|text| {
            text.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib << 10)
        }),
        "command": command,
    }))
}
