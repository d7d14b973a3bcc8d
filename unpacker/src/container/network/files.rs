//! The host's resolv.conf as a private network has it, and its hosts file. Pure, but for reading.

use std::net::IpAddr;
use std::path::Path;

use super::spec::Wiring;
use super::{DNS, GATEWAY, HOST_NAME};

const RESOLV_CONF: &str = "/etc/resolv.conf";
/// As resolv.conf(5) has it.
const MOST_RESOLVERS: usize = 3;

/// The host's name servers, as they are now.
pub(super) fn host_resolvers() -> Vec<IpAddr> {
    resolvers(&std::fs::read_to_string(RESOLV_CONF).unwrap_or_default())
}

fn resolvers(text: &str) -> Vec<IpAddr> {
    let named = lines_of(text, "nameserver");
    let mut found: Vec<_> = named
        .filter_map(|words| words.split_whitespace().next()?.parse().ok())
        .take(MOST_RESOLVERS)
        .collect();
    if found.is_empty() {
        // What the C library asks when nobody is named.
        found.push(IpAddr::from([127, 0, 0, 1]));
    }
    found
}

fn lines_of<'a>(text: &'a str, keyword: &'a str) -> impl Iterator<Item = &'a str> {
    text.lines().filter_map(move |line| {
        let rest = line.trim_start().strip_prefix(keyword)?;
        rest.starts_with([' ', '\t']).then_some(rest.trim())
    })
}

/// What a container's resolv.conf says: as many servers as the host has, each an address inside
/// that leads to one of them, so that the order and patience of the host's settings hold.
pub(crate) fn resolv_conf() -> String {
    inner_resolv_conf(&std::fs::read_to_string(Path::new(RESOLV_CONF)).unwrap_or_default())
}

fn inner_resolv_conf(host: &str) -> String {
    let servers = DNS.iter().take(resolvers(host).len());
    let mut text: String = servers.map(|dns| format!("nameserver {dns}\n")).collect();
    for keyword in ["search", "domain", "options"] {
        for words in lines_of(host, keyword) {
            text.push_str(&format!("{keyword} {words}\n"));
        }
    }
    text
}

/// What a container's hosts file says.
pub(crate) fn hosts(hostname: &str, wiring: &Wiring) -> String {
    let address = wiring.address();
    let host = match wiring.host_loopback {
        true => format!("{GATEWAY} {HOST_NAME}\n"),
        false => String::new(),
    };
    format!(
        "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n{address} {hostname}\n{host}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_ours_and_the_rest_is_the_hosts() {
        let host = "# a comment\nnameserver 127.0.0.53\nnameserver\t2001:db8::1\n\
                    nameserver fe80::1%eth0\nsearch a.example b.example\noptions edns0 timeout:1\n\
                    nameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserverless x\n";
        assert_eq!(
            resolvers(host),
            ["127.0.0.53", "2001:db8::1", "192.0.2.1"].map(|text| text.parse::<IpAddr>().unwrap())
        );
        assert_eq!(
            inner_resolv_conf(host),
            "nameserver 10.0.2.3\nnameserver 10.0.2.4\nnameserver 10.0.2.5\n\
             search a.example b.example\noptions edns0 timeout:1\n"
        );
        assert_eq!(inner_resolv_conf(""), "nameserver 10.0.2.3\n");
    }
}
