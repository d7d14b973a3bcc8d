//! Why a sandbox does not do what was asked, as the user is told.

use unpacker::container::launch::Stage;
use unpacker::container::supervise::SuperviseError;

use crate::error::{Failure, Kind};
use crate::sandbox::record::Record;

pub(super) fn start_failed(record: &Record, error: &SuperviseError) -> Failure {
    let kind = match error {
        SuperviseError::Running { .. } | SuperviseError::Busy => Kind::Conflict,
        SuperviseError::Refused(refusal) if refusal.stage == Stage::Port => Kind::Conflict,
        SuperviseError::Refused(_) => Kind::Invalid,
        _ => Kind::Internal,
    };
    Failure::because(
        kind,
        format!("cannot start sandbox {:?}", record.name),
        error,
    )
    .exiting(shell_code(error))
}

pub(super) fn not_usable(record: &Record, error: &SuperviseError) -> Failure {
    let kind = match error {
        SuperviseError::Running { .. } | SuperviseError::NotRunning | SuperviseError::Busy => {
            Kind::Conflict
        }
        SuperviseError::Refused(_) => Kind::Invalid,
        _ => Kind::Internal,
    };
    Failure::because(kind, format!("sandbox {:?}", record.name), error).exiting(shell_code(error))
}

/// The exit codes of a shell, and of docker, for a program that did not start (POSIX.1-2017, XCU
/// 2.8.2): 127 when it is not there, 126 when it cannot be executed.
fn shell_code(error: &SuperviseError) -> Option<u8> {
    let SuperviseError::Refused(refusal) = error else {
        return None;
    };
    match refusal.stage {
        Stage::NotFound => Some(127),
        Stage::NotExecutable => Some(126),
        _ => None,
    }
}
