//! `devpod doctor`.

use clap::Args;

use crate::cli::Session;
use crate::doctor::{self, Finding, State};
use crate::error::Outcome;
use crate::ui::{self, Format};

#[derive(Debug, Args)]
pub struct Doctor {
    /// Look as a daemon would, for the process that asks
    #[arg(long, hide = true)]
    inside: bool,
}

/// Answers 1 when something does not work. To be called before any thread exists.
pub(super) fn run(session: &Session, arguments: &Doctor) -> Outcome<u8> {
    if arguments.inside {
        ui::json(&doctor::look_inside(&session.options)?);
        return Ok(0);
    }
    let findings = doctor::look(&session.options)?;
    match session.format {
        Format::Json => ui::json(&findings),
        Format::Text => findings.iter().for_each(tell),
    }
    let broken = findings
        .iter()
        .any(|finding| finding.state == State::Missing);
    Ok(u8::from(broken))
}

fn tell(finding: &Finding) {
    let Finding {
        what,
        state,
        why,
        lift,
    } = finding;
    let state = match state {
        State::Ok => "ok     ",
        State::Reduced => "reduced",
        State::Missing => "missing",
    };
    ui::line(&format!("{state}  {what:<18}  {why}"));
    if let Some(lift) = lift {
        ui::line(&format!("{:27}  to lift: {lift}", ""));
    }
}
