//! RUN: its flags, and how it is to be started (Dockerfile reference, "RUN", "Here-Documents").

use super::csv;
use super::error::{DockerfileError, Note, Problem};
use super::expand::Lexer;
use super::flags::{Flags, Value};
use super::heredoc::{self, Heredoc};
use super::instruction::{CommandLine, Device, Invocation, Network, Run, Security};
use super::mount::MountFlag;
use super::parser::{Parts, Statement};
use super::typed::command_line;

const FLAGS: &[&str] = &["mount", "network", "security", "device"];

pub(super) fn run(
    statement: &Statement,
    parts: &Parts<'_>,
    notes: &mut Vec<Note>,
) -> Result<Run, DockerfileError> {
    let flags = Flags::new(statement, parts, "RUN", FLAGS)?;
    let mounts = flags.list("mount")?;
    let devices = flags.list("device")?;
    Ok(Run {
        command: command_line(statement, parts.args, parts.args_at, "RUN", notes)?,
        heredocs: statement.heredocs.clone(),
        mounts: mounts
            .iter()
            .map(|value| mount(statement, value))
            .collect::<Result<_, _>>()?,
        network: network(&flags)?,
        security: security(&flags)?,
        devices: devices
            .iter()
            .map(|value| device(&flags, value))
            .collect::<Result<_, _>>()?,
    })
}

fn mount(statement: &Statement, value: &Value<'_>) -> Result<MountFlag, DockerfileError> {
    let parsed = MountFlag::parse(value.text, &Lexer::new(statement.escape));
    parsed.map_err(|error| statement.error(value.piece, Problem::Mount(error)))
}

fn network(flags: &Flags<'_>) -> Result<Network, DockerfileError> {
    let Some(value) = flags.text("network")? else {
        return Ok(Network::default());
    };
    match value.text {
        "default" => Ok(Network::Default),
        "none" => Ok(Network::None),
        "host" => Ok(Network::Host),
        _ => Err(flags.refused(&value, "default, none or host")),
    }
}

fn security(flags: &Flags<'_>) -> Result<Security, DockerfileError> {
    let Some(value) = flags.text("security")? else {
        return Ok(Security::default());
    };
    match value.text {
        "sandbox" => Ok(Security::Sandbox),
        "insecure" => Ok(Security::Insecure),
        _ => Err(flags.refused(&value, "sandbox or insecure")),
    }
}

/// `vendor.com/class=name[,required]`; the name may also be written `name=…`.
fn device(flags: &Flags<'_>, value: &Value<'_>) -> Result<Device, DockerfileError> {
    let refused = || flags.refused(value, "a device's name and perhaps required");
    let (mut name, mut required) = (None, None);
    for field in csv::fields(value.text).ok_or_else(refused)? {
        let slot_was = match field.as_str() {
            "required" | "required=true" | "required=1" => required.replace(true).is_some(),
            "required=false" | "required=0" => required.replace(false).is_some(),
            other => {
                let text = other.strip_prefix("name=").unwrap_or(other);
                name.replace(text.to_owned()).is_some()
            }
        };
        if slot_was {
            return Err(refused());
        }
    }
    Ok(Device {
        name: name.filter(|name| !name.is_empty()).ok_or_else(refused)?,
        required: required.unwrap_or(false),
    })
}

impl Run {
    /// A lone heredoc is the script itself; any other use is given back to the shell with its bodies.
    pub fn invocation(&self) -> Invocation {
        let line = match &self.command {
            CommandLine::Exec(words) => return Invocation::Exec(words.clone()),
            CommandLine::Shell(line) => line,
        };
        let Some(first) = self.heredocs.first() else {
            return Invocation::Shell(line.clone());
        };
        if Heredoc::opening(line).is_none() {
            return Invocation::Shell(heredoc::reattach(line, &self.heredocs));
        }
        let body = first.text();
        if body.starts_with("#!") {
            let name = first.name.clone();
            return Invocation::Script { name, body };
        }
        Invocation::Shell(body)
    }
}
