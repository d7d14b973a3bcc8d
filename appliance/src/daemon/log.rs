//! The daemon's log: lines on standard error, which is `daemon.log` in the background; for people, or
//! with `log.format = "json"` one JSON object each.
//!
//! `DEVPOD_LOG` chooses what is told: a level (`debug`) for this program's own crates, or directives
//! as `tracing-subscriber`'s `EnvFilter` reads them (`warn,registry=trace`). Secrets are never logged.

use std::fs;
use std::io;

use config::settings::LogFormat;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::daemon::folder::DataFolder;
use crate::error::{Failure, Outcome};

const VARIABLE: &str = "DEVPOD_LOG";
/// Ours; what others tell is of interest only when something is wrong.
const CRATES: [&str; 5] = ["appliance", "registry", "builder", "unpacker", "config"];
/// A larger log becomes `daemon.log.1` when a daemon starts.
const LARGE: u64 = 10 << 20;

/// Begins to write what `tracing` is told. Times are RFC 3339, without colours.
pub fn init(format: LogFormat) -> Outcome<()> {
    let filter = filter(&std::env::var(VARIABLE).unwrap_or_default())?;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        // A full disk must not end the daemon.
        .log_internal_errors(false)
        .with_writer(io::stderr);
    // Fails only where one is installed already, and that one serves as well.
    let _ = match format {
        LogFormat::Text => tracing::subscriber::set_global_default(subscriber.finish()),
        LogFormat::Json => {
            let subscriber = subscriber.json().flatten_event(true);
            tracing::subscriber::set_global_default(subscriber.finish())
        }
    };
    Ok(())
}

fn filter(text: &str) -> Outcome<EnvFilter> {
    let own = match text.trim() {
        "" => Ok(LevelFilter::INFO),
        text => text.parse::<LevelFilter>(),
    };
    let directives = match own {
        Ok(level) => CRATES.iter().fold("warn".to_owned(), |all, name| {
            format!("{all},{name}={level}")
        }),
        Err(_) => text.to_owned(),
    };
    EnvFilter::try_new(directives).map_err(|error| {
        Failure::invalid(format!("{VARIABLE}={text:?} is not understood: {error}"))
            .hint("Write a level (error, warn, info, debug, trace), or crate=level,...")
    })
}

/// Moves a large log away. Whoever still writes to it goes on doing so.
pub fn rotate(folder: &DataFolder) -> io::Result<()> {
    match fs::metadata(folder.log()) {
        Ok(data) if data.len() > LARGE => fs::rename(folder.log(), folder.old_log()),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_for_our_own_crates() {
        let text = filter("debug").unwrap().to_string();
        assert!(
            text.contains("registry=debug") && text.contains("warn"),
            "{text}"
        );
        let text = filter("").unwrap().to_string();
        assert!(text.contains("appliance=info"), "{text}");
        assert_eq!(filter("hyper=trace").unwrap().to_string(), "hyper=trace");
        assert!(filter("a=b=c").is_err());
    }

    #[test]
    fn only_a_large_log_is_moved_away() {
        let dir = tempfile::tempdir().unwrap();
        let folder = DataFolder::new(dir.path().to_owned());
        rotate(&folder).unwrap();
        fs::write(folder.log(), "small").unwrap();
        rotate(&folder).unwrap();
        assert!(folder.log().exists());
        let log = fs::File::create(folder.log()).unwrap();
        log.set_len(LARGE + 1).unwrap();
        rotate(&folder).unwrap();
        assert!(!folder.log().exists() && folder.old_log().exists());
    }
}
