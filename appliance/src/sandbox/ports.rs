//! Ports that lead from the host into a sandbox: as people write them, as records keep them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use unpacker::container::network::spec::{Protocol, Publish};
use unpacker::image::config::Execution;

use crate::api::types::PortRow;
use crate::error::{Failure, Outcome};

/// Where ports are published unless somebody says otherwise: for programs of this host only.
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// A range is a slip of the hand above this.
const MOST: u16 = 1024;

/// `[[IP:]HOST:]CONTAINER[/tcp|udp]`, docker's form; HOST may be missing, and both may be ranges.
pub fn parse(text: &str) -> Outcome<Vec<PortRow>> {
    read(text).ok_or_else(|| {
        Failure::invalid(format!("{text:?} is not a port to publish")).hint(
            "Write [[IP:]HOST:]CONTAINER[/tcp|udp], for example 8080:80 or 0.0.0.0:5353:53/udp.",
        )
    })
}

fn read(text: &str) -> Option<Vec<PortRow>> {
    let (rest, protocol) = match text.rsplit_once('/') {
        None => (text, Protocol::Tcp),
        Some((rest, "tcp")) => (rest, Protocol::Tcp),
        Some((rest, "udp")) => (rest, Protocol::Udp),
        Some(_) => return None,
    };
    let (rest, inside) = match rest.rsplit_once(':') {
        None => ("", rest),
        Some((rest, inside)) => (rest, inside),
    };
    let (host_ip, host) = match rest.rsplit_once(':') {
        None => (HERE, rest),
        Some((ip, host)) => (address(ip)?, host),
    };
    let (first, last) = range(inside)?;
    let host = match host {
        "" => None,
        host => Some(range(host).filter(|(from, to)| to - from == last - first)?),
    };
    let rows = (first..=last).map(|port| PortRow {
        host_ip,
        host_port: host.map_or(0, |(from, _)| from + (port - first)),
        port,
        protocol,
    });
    Some(rows.collect())
}

fn address(text: &str) -> Option<IpAddr> {
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    match bare.unwrap_or(text) {
        "localhost" => Some(HERE),
        text => text.parse().ok(),
    }
}

/// One port, or `FIRST-LAST`.
fn range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |text: &str| text.parse().ok().filter(|port| *port > 0);
    let (first, last): (u16, u16) = (port(first)?, port(last)?);
    (first <= last && last - first < MOST).then_some((first, last))
}

/// What the image exposes, each on any free port.
pub fn exposed(image: &Execution) -> Vec<PortRow> {
    let texts = image.exposed_ports.keys();
    texts.filter_map(|text| read(text)).flatten().collect()
}

/// As the container's specification has it.
pub fn publish(row: &PortRow) -> Publish {
    Publish {
        host: SocketAddr::new(row.host_ip, row.host_port),
        port: row.port,
        protocol: row.protocol,
    }
}

/// As people are told.
pub fn row(publish: &Publish) -> PortRow {
    PortRow {
        host_ip: publish.host.ip(),
        host_port: publish.host.port(),
        port: publish.port,
        protocol: publish.protocol,
    }
}

/// `127.0.0.1:8080`.
pub fn host(row: &PortRow) -> String {
    SocketAddr::new(row.host_ip, row.host_port).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Vec<String> {
        let rows = parse(text).unwrap_or_default();
        rows.iter().map(|row| publish(row).to_string()).collect()
    }

    #[test]
    fn dockers_forms() {
        for (text, expected) in [
            ("80", &["127.0.0.1:0->80/tcp"][..]),
            ("8080:80", &["127.0.0.1:8080->80/tcp"]),
            ("8080:80/udp", &["127.0.0.1:8080->80/udp"]),
            ("0.0.0.0:8080:80", &["0.0.0.0:8080->80/tcp"]),
            ("0.0.0.0::80", &["0.0.0.0:0->80/tcp"]),
            ("[::1]:8080:80/tcp", &["[::1]:8080->80/tcp"]),
            ("localhost:8080:80", &["127.0.0.1:8080->80/tcp"]),
            (
                "8001-8002:1-2",
                &["127.0.0.1:8001->1/tcp", "127.0.0.1:8002->2/tcp"],
            ),
        ] {
            assert_eq!(shown(text), expected, "{text}");
        }
        for bad in [
            "", "0", "80:0", "x:80", "80/sctp", "1-3:1-2", "3-1", "70000", "a.b:1:2", "1:2:3:4",
            "1-9999",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
