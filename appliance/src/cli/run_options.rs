//! The options of `devpod sandbox run` as data, before anything is asked of the daemon.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use config::quantity::{ByteSize, Cpu, Seconds};
use unpacker::container::capability::Capabilities;
use unpacker::container::network::GATEWAY;
use unpacker::container::resources::{Resources, Swap};
use unpacker::container::seccomp::file::Profile;
use unpacker::container::spec::{Confinement, HostLine, LogLimits, Seccomp, Surroundings};

use crate::api::types::MountRequest;
use crate::cli::image;
use crate::cli::run_args::{Files, Life, Limits, Security};
use crate::error::{Failure, Kind, Outcome};
use crate::sandbox::options::{Keeping, RunOptions, TmpfsMount, VolumeMount};
use crate::sandbox::plan;

/// Docker takes no less: a process needs some.
const LEAST_MEMORY: u64 = 6 << 20;
/// A profile or a file of variables is text that people write.
const MAX_FILE: u64 = 1 << 20;

fn invalid(error: impl std::error::Error + 'static) -> Failure {
    Failure::from_error(Kind::Invalid, &error)
}

fn parsed<T: FromStr<Err: std::error::Error + 'static>>(
    text: Option<&String>,
) -> Outcome<Option<T>> {
    text.map(|text| text.parse().map_err(invalid)).transpose()
}

/// Everything, and the binds among it, which stand in the request themselves.
pub(super) fn options(
    limits: &Limits,
    security: &Security,
    files: &Files,
    life: &Life,
    volumes: &[String],
    network: &str,
) -> Outcome<(RunOptions, Vec<MountRequest>)> {
    let mut options = RunOptions {
        resources: resources(limits)?,
        confinement: confinement(security)?,
        surroundings: surroundings(files, security, network)?,
        groups: security.group_add.clone(),
        without_init: life.no_init,
        log: log(life)?,
        keeping: keeping(life)?,
        ..RunOptions::default()
    };
    let mut binds = Vec::new();
    for text in volumes {
        put(volume(text)?, &mut options, &mut binds);
    }
    for text in &files.mount {
        put(mount(text)?, &mut options, &mut binds);
    }
    for text in &security.device {
        binds.push(device(text)?);
    }
    for text in &files.tmpfs {
        let (target, flags) = text.split_once(':').unwrap_or((text, ""));
        options.tmpfs.push(tmpfs(target, flags.split(','))?);
    }
    Ok((options, binds))
}

/// One of the kinds that `--mount` and `-v` make.
enum Placed {
    Bind(MountRequest),
    Volume(VolumeMount),
    Tmpfs(TmpfsMount),
}

fn put(placed: Placed, options: &mut RunOptions, binds: &mut Vec<MountRequest>) {
    match placed {
        Placed::Bind(bind) => binds.push(bind),
        Placed::Volume(volume) => options.volumes.push(volume),
        Placed::Tmpfs(tmpfs) => options.tmpfs.push(tmpfs),
    }
}

pub(super) fn resources(limits: &Limits) -> Outcome<Resources> {
    let memory = parsed::<ByteSize>(limits.memory.as_ref())?.map(|size| size.0);
    if memory.is_some_and(|bytes| bytes < LEAST_MEMORY) {
        return Err(Failure::invalid("a sandbox needs at least 6m of memory"));
    }
    let memory_swap = match limits.memory_swap.as_deref() {
        None => None,
        Some("-1") => Some(Swap::Unlimited),
        Some(text) => Some(Swap::Total(text.parse::<ByteSize>().map_err(invalid)?.0)),
    };
    let too_little = |swap: &Swap| match (swap, memory) {
        (_, None) => true,
        (Swap::Total(both), Some(memory)) => *both < memory,
        (Swap::Unlimited, _) => false,
    };
    if memory_swap.as_ref().is_some_and(too_little) {
        return Err(
            Failure::invalid("--memory-swap is memory and swap together")
                .hint("Give --memory too, and no less of both than of that."),
        );
    }
    if limits
        .oom_score_adj
        .is_some_and(|score| !(-1000..=1000).contains(&score))
    {
        return Err(Failure::invalid("--oom-score-adj is from -1000 to 1000"));
    }
    if limits
        .cpu_shares
        .is_some_and(|shares| !(2..=262_144).contains(&shares))
    {
        return Err(Failure::invalid("--cpu-shares is from 2 to 262144"));
    }
    Ok(Resources {
        cpus: parsed::<Cpu>(limits.cpus.as_ref())?.map(|cpu| cpu.0),
        cpu_shares: limits.cpu_shares,
        memory,
        memory_swap,
        pids: limits
            .pids_limit
            .and_then(|pids| u64::try_from(pids).ok())
            .filter(|pids| *pids > 0),
        ulimits: (limits.ulimit.iter())
            .map(|text| text.parse().map_err(invalid))
            .collect::<Outcome<_>>()?,
        oom_score_adj: limits.oom_score_adj,
        strict: limits.strict_limits,
    })
}

fn confinement(security: &Security) -> Outcome<Confinement> {
    let all = vec!["ALL".to_owned()];
    let add = if security.privileged {
        &all
    } else {
        &security.cap_add
    };
    let mut confinement = Confinement {
        capabilities: Capabilities::adjusted(add, &security.cap_drop).map_err(invalid)?,
        ..Confinement::default()
    };
    if security.privileged {
        confinement.seccomp = Seccomp::Unconfined;
    }
    for option in &security.security_opt {
        // Docker takes `=` and, from of old, `:`.
        match option.split_once(['=', ':']).unwrap_or((option, "")) {
            ("no-new-privileges", "" | "true") => confinement.no_new_privileges = true,
            ("no-new-privileges", "false") => confinement.no_new_privileges = false,
            ("seccomp", "unconfined") => confinement.seccomp = Seccomp::Unconfined,
            ("seccomp", "builtin") => confinement.seccomp = Seccomp::Default,
            ("seccomp", file) if !file.is_empty() => confinement.seccomp = profile(file)?,
            // Looked at with the surroundings.
            ("systempaths", "unconfined") => {}
            // No sandbox has a profile or a label of these: there is nothing to switch off.
            ("apparmor", "unconfined") | ("label", "disable") => {}
            _ => {
                return Err(
                    Failure::invalid(format!("{option:?} is no security option")).hint(
                        "There are no-new-privileges, seccomp=unconfined, seccomp=FILE and \
                     systempaths=unconfined.",
                    ),
                );
            }
        }
    }
    Ok(confinement)
}

fn profile(file: &str) -> Outcome<Seccomp> {
    let text = read(Path::new(file))?;
    let profile = Profile::parse(&text)
        .map_err(|error| Failure::because(Kind::Invalid, format!("cannot use {file}"), &error))?;
    Ok(Seccomp::Profile(Box::new(profile)))
}

fn read(file: &Path) -> Outcome<String> {
    use std::io::Read;
    let failed = |error: std::io::Error| {
        Failure::because(
            Kind::Invalid,
            format!("cannot read {}", file.display()),
            &error,
        )
    };
    let mut text = String::new();
    let mut limited = std::fs::File::open(file)
        .map_err(failed)?
        .take(MAX_FILE + 1);
    limited.read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_FILE {
        return Err(Failure::invalid(format!("{} is too long", file.display())));
    }
    Ok(text)
}

pub(super) fn surroundings(
    files: &Files,
    security: &Security,
    network: &str,
) -> Outcome<Surroundings> {
    let unmasked = |option: &String| {
        matches!(
            option.split_once(['=', ':']),
            Some(("systempaths", "unconfined"))
        )
    };
    Ok(Surroundings {
        read_only: files.read_only,
        unmasked: security.privileged || security.security_opt.iter().any(unmasked),
        shm_size: parsed::<ByteSize>(files.shm_size.as_ref())?.map(|size| size.0),
        hosts: (files.add_host.iter())
            .map(|text| host(text, gateway(network)))
            .collect::<Outcome<_>>()?,
    })
}

/// Where this host is, as a sandbox sees it.
fn gateway(network: &str) -> IpAddr {
    match network {
        "private" | "bridge" => GATEWAY,
        _ => IpAddr::from([127, 0, 0, 1]),
    }
}

/// `NAME:ADDRESS`, or `NAME=ADDRESS`; an IPv6 address may stand in brackets.
fn host(text: &str, gateway: IpAddr) -> Outcome<HostLine> {
    let bad = || {
        Failure::invalid(format!("{text:?} is no host"))
            .hint("Write NAME:ADDRESS, such as db:10.0.0.7.")
    };
    let (name, address) = text.split_once(['=', ':']).ok_or_else(bad)?;
    plan::check_hostname(name)?;
    let address = address.trim_start_matches('[').trim_end_matches(']');
    let address = match address {
        "host-gateway" => gateway,
        address => address.parse().map_err(|_| bad())?,
    };
    Ok(HostLine {
        address,
        name: name.to_owned(),
    })
}

fn keeping(life: &Life) -> Outcome<Keeping> {
    if let Some(signal) = &life.stop_signal {
        plan::known_signal(signal)?;
    }
    Ok(Keeping {
        restart: life.restart.parse().map_err(invalid)?,
        stop_signal: life.stop_signal.clone(),
        stop_timeout: life.stop_timeout,
        idle_timeout: parsed::<Seconds>(life.timeout.as_ref())?.map(|limit| limit.0),
        labels: (life.label.iter())
            .map(|label| label.split_once('=').unwrap_or((label, "")))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect(),
    })
}

/// A file holds at least some lines.
fn log(life: &Life) -> Outcome<LogLimits> {
    let usual = LogLimits::default();
    let size = parsed::<ByteSize>(life.log_max_size.as_ref())?;
    Ok(LogLimits {
        max_size: size.map_or(usual.max_size, |size| size.0.max(64 << 10)),
        max_files: life.log_max_files.unwrap_or(usual.max_files),
    })
}

/// `HOST:INSIDE[:ro]`, `NAME:INSIDE[:ro]`, or `INSIDE` alone for a volume without a name.
fn volume(text: &str) -> Outcome<Placed> {
    let bad = || {
        Failure::invalid(format!("{text:?} is not a volume"))
            .hint("Write HOST:INSIDE or NAME:INSIDE, perhaps with :ro behind; INSIDE is absolute.")
    };
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, flags) = match parts.as_slice() {
        [target] => (None, *target, ""),
        [source, target] => (Some(*source), *target, ""),
        [source, target, flags] => (Some(*source), *target, *flags),
        _ => return Err(bad()),
    };
    let (mut read_only, mut no_copy) = (false, false);
    for flag in flags.split(',').filter(|flag| !flag.is_empty()) {
        match flag {
            "ro" => read_only = true,
            "nocopy" => no_copy = true,
            // Labels of SELinux and propagation have no meaning here; docker's users write them.
            "rw" | "z" | "Z" | "rprivate" => {}
            _ => return Err(bad()),
        }
    }
    if !target.starts_with('/') || source == Some("") {
        return Err(bad());
    }
    let target = PathBuf::from(target);
    Ok(match source {
        // What has no slash and does not begin with a dot is a name, as in docker.
        Some(source) if source.contains('/') || source.starts_with('.') => {
            Placed::Bind(MountRequest {
                source: image::absolute(Path::new(source))?,
                target,
                read_only,
            })
        }
        name => {
            name.map_or(Ok(()), plan::check_name)?;
            Placed::Volume(VolumeMount {
                volume: name.map(str::to_owned),
                target,
                read_only,
                no_copy,
            })
        }
    })
}

/// `type=bind,source=/a,target=/b,readonly`.
fn mount(text: &str) -> Outcome<Placed> {
    let bad = |why: &str| {
        Failure::invalid(format!("--mount {text}: {why}"))
            .hint("Write type=bind|volume|tmpfs,source=…,target=…[,readonly].")
    };
    let (mut kind, mut source, mut target) = ("volume", None, None);
    let (mut read_only, mut no_copy, mut tmpfs_flags) = (false, false, Vec::new());
    for field in text.split(',') {
        let (key, value) = field.split_once('=').unwrap_or((field, "true"));
        match key {
            "type" => kind = value,
            "source" | "src" => source = Some(value),
            "target" | "dst" | "destination" => target = Some(value),
            "readonly" | "ro" => read_only = matches!(value, "true" | "1"),
            "volume-nocopy" => no_copy = matches!(value, "true" | "1"),
            "tmpfs-size" => tmpfs_flags.push(format!("size={value}")),
            "tmpfs-mode" => tmpfs_flags.push(format!("mode={value}")),
            "bind-propagation" if matches!(value, "rprivate" | "private") => {}
            _ => return Err(bad(&format!("{key:?} is not known"))),
        }
    }
    let target = target
        .filter(|path| path.starts_with('/'))
        .ok_or_else(|| bad("no absolute target"))?;
    match (kind, source) {
        ("bind", Some(source)) => Ok(Placed::Bind(MountRequest {
            source: image::absolute(Path::new(source))?,
            target: target.into(),
            read_only,
        })),
        ("bind", None) => Err(bad("a bind needs a source")),
        ("volume", source) => {
            source.map_or(Ok(()), plan::check_name)?;
            Ok(Placed::Volume(VolumeMount {
                volume: source.map(str::to_owned),
                target: target.into(),
                read_only,
                no_copy,
            }))
        }
        ("tmpfs", None) => {
            let mut made = tmpfs(target, tmpfs_flags.iter().map(String::as_str))?;
            made.read_only |= read_only;
            Ok(Placed::Tmpfs(made))
        }
        ("tmpfs", Some(_)) => Err(bad("a tmpfs has no source")),
        _ => Err(bad(&format!("{kind:?} is no type"))),
    }
}

fn tmpfs<'a>(target: &str, flags: impl Iterator<Item = &'a str>) -> Outcome<TmpfsMount> {
    let bad = |flag: &str| Failure::invalid(format!("{flag:?} is no option of a tmpfs here"));
    if !target.starts_with('/') {
        return Err(Failure::invalid(format!(
            "{target:?} is not an absolute path"
        )));
    }
    let mut made = TmpfsMount {
        target: target.into(),
        size: None,
        mode: None,
        read_only: false,
    };
    for flag in flags.filter(|flag| !flag.is_empty()) {
        match flag.split_once('=') {
            Some(("size", size)) => made.size = Some(size.parse::<ByteSize>().map_err(invalid)?.0),
            Some(("mode", mode)) => {
                made.mode = Some(u32::from_str_radix(mode, 8).map_err(|_| bad(flag))?);
            }
            None if flag == "ro" => made.read_only = true,
            // What is so anyway.
            None if matches!(flag, "rw" | "nosuid" | "nodev") => {}
            _ => return Err(bad(flag)),
        }
    }
    Ok(made)
}

/// `HOST[:INSIDE[:PERMISSIONS]]`. Whoever may open the node on the host may open it inside.
fn device(text: &str) -> Outcome<MountRequest> {
    use std::os::unix::fs::FileTypeExt;
    let bad = |why: &str| Failure::invalid(format!("--device {text}: {why}"));
    let mut parts = text.split(':');
    let source = parts.next().unwrap_or_default();
    let target = parts.next().unwrap_or(source);
    let permissions = parts.next().unwrap_or("rwm");
    if parts.next().is_some()
        || permissions.is_empty()
        || !permissions.chars().all(|c| "rwm".contains(c))
    {
        return Err(bad("write HOST[:INSIDE[:rwm]]"));
    }
    let source = image::absolute(Path::new(source))?;
    let kind = std::fs::metadata(&source)
        .map_err(|error| bad(&error.to_string()))?
        .file_type();
    if !kind.is_char_device() && !kind.is_block_device() {
        return Err(bad("it is no device"));
    }
    if !target.starts_with('/') {
        return Err(bad("the path inside is not absolute"));
    }
    Ok(MountRequest {
        source,
        target: target.into(),
        read_only: !permissions.contains('w'),
    })
}

/// `NAME=VALUE` lines, docker's form: no quotes, `#` begins a comment line; `NAME` alone takes this
/// environment's value.
pub(super) fn variables_of(files: &[PathBuf]) -> Outcome<Vec<String>> {
    let mut written = Vec::new();
    for file in files {
        let text = read(file)?;
        let lines = text.lines().map(str::trim_start);
        written.extend(
            lines
                .filter(|line| !line.is_empty() && !line.starts_with('#'))
                .map(str::to_owned),
        );
    }
    Ok(super::variables(&written))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_binds_or_names() {
        let bind = |text: &str| matches!(volume(text), Ok(Placed::Bind(_)));
        let named = |text: &str| matches!(volume(text), Ok(Placed::Volume(_)));
        assert!(bind("/a:/b:ro") && bind("./a:/b") && bind("/a:/b:rw,z"));
        assert!(named("name:/b") && named("/b") && named("name:/b:ro,nocopy"));
        for bad in ["/a:b", ":/b", "/a:/b:xx", "a:b:c:d", "na me:/b", "b"] {
            assert!(volume(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn mounts_are_docker_s() {
        for good in [
            "type=bind,source=/a,target=/b",
            "type=bind,src=/a,dst=/b,readonly",
            "source=v,target=/b",
            "type=volume,target=/b,volume-nocopy",
            "type=tmpfs,target=/b,tmpfs-size=1m,tmpfs-mode=700",
        ] {
            assert!(mount(good).is_ok(), "{good}");
        }
        for bad in [
            "type=bind,target=/b",
            "type=bind,source=/a,target=b",
            "type=npipe,source=/a,target=/b",
            "type=tmpfs,source=x,target=/b",
            "type=volume,source=../x,target=/b",
            "type=bind,source=/a,target=/b,bind-propagation=shared",
            "nonsense",
        ] {
            assert!(mount(bad).is_err(), "{bad}");
        }
    }

    fn limits(change: impl FnOnce(&mut Limits)) -> Outcome<Resources> {
        let mut limits = Limits::default();
        change(&mut limits);
        resources(&limits)
    }

    #[test]
    fn limits_are_read_as_docker_has_them() {
        let read = limits(|limits| {
            limits.cpus = Some("1.5".to_owned());
            limits.memory = Some("64m".to_owned());
            limits.memory_swap = Some("-1".to_owned());
            limits.pids_limit = Some(-1);
        });
        let read = read.unwrap();
        assert_eq!((read.cpus, read.memory), (Some(1500), Some(64 << 20)));
        assert_eq!((read.memory_swap, read.pids), (Some(Swap::Unlimited), None));
        assert!(limits(|limits| limits.memory = Some("1m".to_owned())).is_err());
        assert!(limits(|limits| limits.memory_swap = Some("1g".to_owned())).is_err());
        assert!(limits(|limits| limits.oom_score_adj = Some(1001)).is_err());
        assert!(limits(|limits| limits.cpu_shares = Some(1)).is_err());
    }

    #[test]
    fn security_options_are_known_by_name() {
        let with = |options: &[&str]| {
            confinement(&Security {
                security_opt: options.iter().map(|option| (*option).to_owned()).collect(),
                ..Security::default()
            })
        };
        assert!(with(&["no-new-privileges"]).unwrap().no_new_privileges);
        assert!(with(&["no-new-privileges:true"]).unwrap().no_new_privileges);
        assert_eq!(
            with(&["seccomp=unconfined"]).unwrap().seccomp,
            Seccomp::Unconfined
        );
        assert!(with(&["seccomp=/nowhere.json"]).is_err());
        assert!(with(&["selinux=off"]).is_err());
        let privileged = confinement(&Security {
            privileged: true,
            ..Security::default()
        });
        assert_eq!(privileged.unwrap().capabilities, Capabilities::ALL);
    }

    #[test]
    fn hosts_have_addresses_of_both_kinds() {
        assert_eq!(
            host("db:10.0.0.7", GATEWAY).unwrap().address,
            IpAddr::from([10, 0, 0, 7])
        );
        assert_eq!(
            host("six:::1", GATEWAY).unwrap().address,
            "::1".parse::<IpAddr>().unwrap()
        );
        assert_eq!(host("six=[fe80::1]", GATEWAY).unwrap().name, "six");
        assert_eq!(host("me:host-gateway", GATEWAY).unwrap().address, GATEWAY);
        for bad in ["db", "db:", "db:x", "a\nb:1.1.1.1", ":1.1.1.1"] {
            assert!(host(bad, GATEWAY).is_err(), "{bad}");
        }
    }
}
