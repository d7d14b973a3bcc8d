//! The text files of the image that are written here and not copied: accounts, profile, names.
//!
//! The host's own accounts, its name, its networks and its keys never come along.

use super::User;

/// What the rest of the system believes `PATH` to be.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// `/etc/nsswitch.conf`: files first, then DNS; nothing that needs a service.
pub(super) const NSSWITCH: &str = "\
passwd: files
group: files
shadow: files
hosts: files dns
networks: files
protocols: files
services: files
ethers: files
rpc: files
";

/// `/etc/hosts`; the sandbox may put its own over it.
pub(super) const HOSTS: &str = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n";

/// `/etc/profile`, for any Bourne shell.
pub(super) fn profile() -> String {
    format!(
        "# Read by login shells. Written by devpod image from-host.
export PATH={PATH}
if [ -n \"${{BASH_VERSION-}}\" ]; then PS1='\\u@\\h:\\w\\$ '; else PS1='$ '; fi
for file in /etc/profile.d/*.sh; do
  if [ -r \"$file\" ]; then . \"$file\"; fi
done
unset file
"
    )
}

/// `/etc/passwd` (passwd(5)): root, nobody and the one user.
pub(super) fn passwd(shell: &str, user: Option<&User>) -> String {
    let user = user.map_or_else(String::new, |User { name, uid, gid }| {
        format!("{name}:x:{uid}:{gid}::/home/{name}:{shell}\n")
    });
    format!(
        "root:x:0:0:root:/root:{shell}
{user}nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
"
    )
}

/// `/etc/group` (group(5)). The names below 100 are Debian's, which scripts refer to.
pub(super) fn group(user: Option<&User>) -> String {
    let user = user.map_or_else(String::new, |User { name, gid, .. }| {
        format!("{name}:x:{gid}:\n")
    });
    format!("root:x:0:\nadm:x:4:\ntty:x:5:\nstaff:x:50:\nusers:x:100:\n{user}nogroup:x:65534:\n")
}

/// `/etc/os-release` (os-release(5)): the host's, marked as a variant of it.
pub(super) fn os_release(host: Option<&str>) -> String {
    const VARIANT: &str = "VARIANT=\"devpod from-host\"\nVARIANT_ID=devpod-from-host\n";
    let host = host.unwrap_or("NAME=Linux\nID=linux\nPRETTY_NAME=Linux\n");
    let kept = host
        .lines()
        .filter(|line| !line.starts_with("VARIANT"))
        .fold(String::new(), |text, line| text + line + "\n");
    kept + VARIANT
}

/// A value of os-release, without its quotes.
pub(super) fn os_release_value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let value = line.strip_prefix(key)?.strip_prefix('=')?;
        Some(value.trim_matches(['"', '\'']))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_has_a_home_and_a_group() {
        let user = User {
            name: "dev".to_owned(),
            uid: 1000,
            gid: 1001,
        };
        let text = passwd("/bin/bash", Some(&user));
        assert!(
            text.contains("dev:x:1000:1001::/home/dev:/bin/bash\n"),
            "{text}"
        );
        assert!(group(Some(&user)).contains("dev:x:1001:\n"));
        assert!(text.lines().all(|line| line.split(':').count() == 7));
    }

    #[test]
    fn os_release_is_the_hosts_and_says_that_it_is_a_variant() {
        let text = os_release(Some("ID=debian\nVARIANT_ID=x\nPRETTY_NAME=\"Debian 12\""));
        assert_eq!(os_release_value(&text, "PRETTY_NAME"), Some("Debian 12"));
        assert_eq!(
            os_release_value(&text, "VARIANT_ID"),
            Some("devpod-from-host")
        );
        assert_eq!(os_release_value(&text, "NAME"), None);
        assert_eq!(os_release_value(&os_release(None), "ID"), Some("linux"));
    }
}
