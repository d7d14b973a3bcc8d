//! As many open files as the system lets this process have: every connection and every transfer costs
//! one or two, and the usual soft limit of 1,024 is meant for programs that use `select`.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit to the hard one. What is refused stays as it was.
pub(super) fn raise() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(?error, ?limit, "the limit of open files stays");
    }
}
