//! What a sandbox will be, worked out from the image's configuration and the request. Pure.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use unpacker::container::network::spec::Wiring;
use unpacker::container::procfs;
use unpacker::container::spec::{Mount, Network};
use unpacker::image::config::Execution;

use crate::api::types::{MountRequest, SandboxRequest};
use crate::error::{Failure, Outcome};
use crate::sandbox::options::VolumeMount;
use crate::sandbox::ports;

/// What docker gives a process whose image sets no PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Entrypoint and command, docker's rule: a new entrypoint drops the image's command.
pub fn command(request: &SandboxRequest, image: &Execution) -> Outcome<Vec<String>> {
    let own = request
        .entrypoint
        .as_ref()
        .filter(|program| !program.is_empty());
    let mut args = match (own, request.entrypoint.is_some()) {
        (Some(program), _) => vec![program.clone()],
        (None, true) => Vec::new(),
        (None, false) => image.entrypoint.clone().unwrap_or_default(),
    };
    if !request.command.is_empty() {
        args.extend(request.command.iter().cloned());
    } else if request.entrypoint.is_none() {
        args.extend(image.cmd.clone().unwrap_or_default());
    }
    if args.is_empty() {
        return Err(
            Failure::invalid("the image names no command, and none was given")
                .hint("Write one after the image: devpod sandbox run IMAGE CMD."),
        );
    }
    Ok(args)
}

/// The image's environment, then the request's; PATH, HOME and (with a terminal) TERM where unset.
pub fn environment(image: &Execution, extra: &[String], home: &str, terminal: bool) -> Vec<String> {
    let mut all = Execution {
        env: image.env.clone(),
        ..Execution::default()
    };
    for entry in extra {
        if let Some((name, value)) = entry.split_once('=') {
            all.set_variable(name, value);
        }
    }
    let defaults = [("PATH", DEFAULT_PATH), ("HOME", home)];
    let terminal = terminal.then_some(("TERM", "xterm"));
    for (name, value) in defaults.into_iter().chain(terminal) {
        if all.variable(name).is_none() {
            all.set_variable(name, value);
        }
    }
    all.env
}

pub fn network(text: Option<&str>) -> Outcome<Network> {
    match text {
        None | Some("host") => Ok(Network::Host),
        Some("none") => Ok(Network::None),
        Some("private") => Ok(Network::Private),
        Some("bridge") => Ok(Network::Bridge),
        Some(other) => Err(Failure::invalid(format!("network {other:?} is not known"))
            .hint("Networks are private, host, none and, for sandboxes of root, bridge.")),
    }
}

/// As [`network`], of the steps of a build: they come and go too fast for a device each.
pub fn build_network(text: Option<&str>) -> Outcome<Network> {
    match network(text)? {
        Network::Bridge => Err(Failure::invalid("only sandboxes can be on a bridge")
            .hint("Networks of builds are private, host and none.")),
        network => Ok(network),
    }
}

/// What goes through the network, as far as the request decides it. The host's and none are not wired.
pub fn wiring(request: &SandboxRequest, image: &Execution, network: Network) -> Outcome<Wiring> {
    let mut rows = request.publish.clone();
    if request.publish_all {
        rows.extend(ports::exposed(image));
    }
    let asked = !rows.is_empty() || request.host_loopback;
    let wired = matches!(network, Network::Private | Network::Bridge);
    if asked && !wired {
        return Err(
            Failure::invalid("only a private network or a bridge has published ports")
                .hint("Leave out --network, or say --network private."),
        );
    }
    Ok(Wiring {
        publish: rows.iter().map(ports::publish).collect(),
        host_loopback: request.host_loopback,
        ..Wiring::default()
    })
}

/// Mounts whose sources exist.
pub fn mounts(requests: &[MountRequest]) -> Outcome<Vec<Mount>> {
    requests.iter().map(bind).collect()
}

fn bind(request: &MountRequest) -> Outcome<Mount> {
    let source = &request.source;
    if let Err(error) = std::fs::metadata(source) {
        let message = format!("cannot mount {}", source.display());
        return Err(Failure::because(
            crate::error::Kind::Invalid,
            message,
            &error,
        ));
    }
    Ok(Mount::Bind {
        source: source.clone(),
        target: request.target.clone(),
        read_only: request.read_only,
    })
}

/// An image may declare so many volumes.
const MOST_VOLUMES: usize = 256;

/// The volumes of a sandbox: those that were asked for, and one without a name for each that the
/// image declares, unless something else is mounted there. Docker's rule.
pub fn volumes(
    request: &SandboxRequest,
    image: &Execution,
    mounts: &[Mount],
) -> Outcome<Vec<VolumeMount>> {
    let options = &request.options;
    let places = (request.mounts.iter().map(|mount| mount.target.as_path()))
        .chain(options.volumes.iter().map(|volume| volume.target.as_path()))
        .chain(options.tmpfs.iter().map(|tmpfs| tmpfs.target.as_path()))
        .chain(mounts.iter().map(Mount::target));
    let mut taken: BTreeSet<PathBuf> = places.map(place).collect();
    if let Some(hidden) = taken.iter().find(|place| procfs::is_hidden_by(place)) {
        let message = format!(
            "nothing is mounted over {}: it is the kernel's",
            hidden.display()
        );
        return Err(Failure::invalid(message).hint("Choose a place outside of /proc."));
    }
    // Nothing can be mounted over the root.
    taken.insert(PathBuf::from("/"));
    if image.volumes.len() > MOST_VOLUMES {
        let count = image.volumes.len();
        let message = format!("the image declares {count} volumes; {MOST_VOLUMES} are the most");
        return Err(Failure::invalid(message));
    }
    let declared = (image.volumes.keys())
        .map(|path| place(Path::new(path)))
        .filter(|path| !is_systems(path) && taken.insert(path.clone()))
        .map(|target| VolumeMount {
            volume: None,
            target,
            read_only: false,
            no_copy: false,
        });
    Ok(declared.chain(options.volumes.iter().cloned()).collect())
}

/// What we mount ourselves: an image's files in its place would be taken for the kernel's.
fn is_systems(place: &Path) -> bool {
    ["/proc", "/sys", "/dev"]
        .iter()
        .any(|own| place.starts_with(own))
}

/// A path inside by its names alone, from the root.
fn place(path: &Path) -> PathBuf {
    let mut place = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => place.push(name),
            Component::ParentDir => drop(place.pop()),
            _ => {}
        }
    }
    place
}

/// Names of sandboxes and workspaces stand in paths and URLs.
pub fn check_name(name: &str) -> Outcome<()> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let starts = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if starts && name.len() <= 128 && name.chars().all(good) {
        Ok(())
    } else {
        Err(Failure::invalid(format!("{name:?} is not a name"))
            .hint("Names are letters, digits, '-', '_' and '.', without '/' or '..'."))
    }
}

/// A host name of the kernel's: letters, digits, '-' and '.', at most 64.
pub fn check_hostname(name: &str) -> Outcome<()> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    if (1..=64).contains(&name.len()) && name.chars().all(good) && !name.starts_with(['-', '.']) {
        Ok(())
    } else {
        Err(Failure::invalid(format!("{name:?} is not a host name")))
    }
}

/// Variables are `NAME=value` with a name.
pub fn check_variables(env: &[String]) -> Outcome<()> {
    let named = |entry: &&String| {
        entry
            .split_once('=')
            .is_some_and(|(name, _)| !name.is_empty())
    };
    match env
        .iter()
        .find(|entry| !named(entry) || entry.contains('\0'))
    {
        None => Ok(()),
        Some(bad) => {
            Err(Failure::invalid(format!("{bad:?} is not a variable")).hint("Write NAME=value."))
        }
    }
}

/// The stop signal of an image; SIGTERM for what no kernel knows.
pub fn signal(text: Option<&str>) -> i32 {
    text.and_then(config::signal::number)
        .unwrap_or(libc::SIGTERM)
}

/// A signal that a person names.
pub fn known_signal(text: &str) -> Outcome<i32> {
    config::signal::number(text).ok_or_else(|| {
        Failure::invalid(format!("{text:?} is no signal"))
            .hint("Write a name or a number: TERM, SIGUSR1, 9, RTMIN+3.")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Execution {
        Execution {
            entrypoint: Some(vec!["entry".to_owned()]),
            cmd: Some(vec!["cmd".to_owned()]),
            env: vec!["A=1".to_owned(), "PATH=/x".to_owned()],
            ..Execution::default()
        }
    }

    fn asked(entrypoint: Option<&str>, words: &[&str]) -> String {
        let request = SandboxRequest {
            entrypoint: entrypoint.map(str::to_owned),
            command: words.iter().map(|word| (*word).to_owned()).collect(),
            ..SandboxRequest::default()
        };
        command(&request, &image()).map_or("refused".to_owned(), |args| args.join(" "))
    }

    #[test]
    fn entrypoint_and_command() {
        for (entrypoint, words, result) in [
            (None, vec![], "entry cmd"),
            (None, vec!["x"], "entry x"),
            (Some("e"), vec![], "e"),
            (Some("e"), vec!["x"], "e x"),
            (Some(""), vec!["x"], "x"),
            (Some(""), vec![], "refused"),
        ] {
            assert_eq!(asked(entrypoint, &words), result);
        }
    }

    #[test]
    fn an_image_s_volumes_are_made_where_nothing_else_is() {
        let declared = [
            "/data/",
            "/srv/../cache",
            "relative",
            "/",
            "/taken",
            "/bound/",
            "data",
        ];
        let image = Execution {
            volumes: declared
                .map(|path| (path.to_owned(), serde_json::json!({})))
                .into(),
            ..Execution::default()
        };
        let named = VolumeMount {
            volume: Some("v".to_owned()),
            target: "/taken".into(),
            read_only: false,
            no_copy: false,
        };
        let mut request = SandboxRequest::default();
        request.options.volumes.push(named.clone());
        let bound = Mount::Bind {
            source: "/host".into(),
            target: "/bound".into(),
            read_only: false,
        };
        let volumes = volumes(&request, &image, &[bound]).unwrap();
        let targets: Vec<_> = volumes
            .iter()
            .map(|volume| volume.target.as_path())
            .collect();
        let expected = ["/data", "/relative", "/cache", "/taken"].map(Path::new);
        let sorted = |list: &[&Path]| {
            list.iter()
                .map(|path| path.display().to_string())
                .collect::<BTreeSet<_>>()
        };
        assert_eq!(sorted(&targets), sorted(&expected));
        assert_eq!(volumes.last(), Some(&named));
        assert!(
            volumes
                .iter()
                .filter(|volume| volume.volume.is_none())
                .count()
                == 3
        );
    }

    #[test]
    fn later_variables_win_and_defaults_fill_up() {
        let extra = ["A=2".to_owned(), "B=3".to_owned()];
        let env = environment(&image(), &extra, "/root", true);
        assert_eq!(env, ["A=2", "PATH=/x", "B=3", "HOME=/root", "TERM=xterm"]);
    }

    #[test]
    fn names_stay_in_their_segment() {
        for bad in ["", "..", "a/b", "a?b", "a b", ".x", "-x"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
        assert!(check_name("a.b-c_1").is_ok());
    }

    #[test]
    fn signals_by_name_and_number() {
        for (text, number) in [
            (Some("SIGQUIT"), 3),
            (Some("INT"), 2),
            (Some("9"), 9),
            (Some("sigwinch"), libc::SIGWINCH),
            (Some("SIGRTMIN+3"), 37),
            (Some("RTMIN+99"), 15),
            (Some("65"), 15),
            (None, 15),
        ] {
            assert_eq!(signal(text), number);
        }
        assert_eq!(known_signal("SYS").unwrap(), libc::SIGSYS);
        assert!(known_signal("FOO").is_err());
    }

    #[test]
    fn nothing_is_mounted_over_proc() {
        for (target, good) in [
            ("/proc", false),
            ("/proc/", false),
            ("/x/../proc/self", false),
            ("//proc/sys", false),
            ("/proc/meminfo", true),
            ("/process", true),
            ("/sys/fs/x", true),
        ] {
            let mount = Mount::Tmpfs {
                target: target.into(),
                size: None,
                mode: None,
                read_only: false,
            };
            let found = volumes(&SandboxRequest::default(), &Execution::default(), &[mount]);
            assert_eq!(found.is_ok(), good, "{target}");
        }
    }
}
