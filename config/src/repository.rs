//! Addresses of git repositories.
//!
//! What ends up on git's command line comes from here, so everything that git or ssh could take for an
//! option or for a program to run (`ext::sh -c …`, `-oProxyCommand=…`, `--upload-pack=…`) is refused.

pub mod login;

use std::fmt;
use std::str::FromStr;

use login::Login;

/// Why an address or a branch was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RepoUrlError {
    #[error("the repository's address is empty")]
    Empty,
    #[error("{text:?} begins with '-', which git would take for an option")]
    Option { text: String },
    #[error("{scheme:?} repositories are not supported: use https, ssh, file or a path")]
    Scheme { scheme: String },
    #[error("{text:?} has no host")]
    NoHost { text: String },
    #[error("{text:?} names no repository on its host")]
    NoPath { text: String },
    #[error("{host:?} is not a host name")]
    Host { host: String },
    #[error("the repository's address contains a control character or a blank")]
    Control,
    #[error("{text:?} is not a branch name")]
    Branch { text: String },
    #[error("two branches are given: {suffix:?} in the address and {option:?}")]
    TwoBranches { suffix: String, option: String },
}

/// How the repository is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    Https,
    Http,
    Ssh,
    /// `file://` or a path.
    Local,
}

/// A branch or tag to clone (`git clone --branch`); the rules of git-check-ref-format(1).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Branch(String);

impl Branch {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Branch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Branch {
    type Err = RepoUrlError;

    fn from_str(text: &str) -> Result<Self, RepoUrlError> {
        let forbidden = |c: char| c.is_control() || " ~^:?*[\\".contains(c);
        let component =
            |part: &str| !part.is_empty() && !part.starts_with('.') && !part.ends_with(".lock");
        let good = !text.starts_with('-')
            && !text.ends_with('.')
            && text != "@"
            && !text.contains("..")
            && !text.contains("@{")
            && !text.contains(forbidden)
            && text.len() <= 255
            && text.split('/').all(component);
        if good {
            Ok(Self(text.to_owned()))
        } else {
            Err(RepoUrlError::Branch { text: text.into() })
        }
    }
}

/// A repository's address. `Display` and `Debug` never show the user, whose name may be a token, and the
/// password of HTTP's.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RepoUrl {
    transport: Transport,
    /// What git is given; of HTTP's without a user and a password, of others without a password.
    address: String,
    /// The user and the password of an address of HTTP.
    login: Option<Login>,
    branch: Option<Branch>,
}

impl RepoUrl {
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// What git is given as the repository.
    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn branch(&self) -> Option<&Branch> {
        self.branch.as_ref()
    }

    /// Who asks, where an address of HTTP says so.
    pub fn login(&self) -> Option<&Login> {
        self.login.as_ref()
    }

    /// Settings of git with which it can ask for the repository, where the address was written with a
    /// user: it is in none of git's arguments and not in the clone's configuration.
    pub fn login_settings(&self) -> Vec<(String, String)> {
        let origin = self.origin().zip(self.login.as_ref());
        let settings = origin.map(|(origin, login)| login.settings(&origin));
        settings.into_iter().flatten().collect()
    }

    /// `scheme://host[:port]`.
    fn origin(&self) -> Option<String> {
        let (scheme, rest) = self.address.split_once("://")?;
        Some(format!("{scheme}://{}", rest.split('/').next()?))
    }

    /// Adds the branch of an option such as `--branch`.
    pub fn with_branch(mut self, branch: Option<Branch>) -> Result<Self, RepoUrlError> {
        match (&self.branch, branch) {
            (Some(suffix), Some(option)) if *suffix != option => Err(RepoUrlError::TwoBranches {
                suffix: suffix.0.clone(),
                option: option.0,
            }),
            (None, Some(option)) => {
                self.branch = Some(option);
                Ok(self)
            }
            _ => Ok(self),
        }
    }

    /// Whether a word of the command line can only be an address: it has a scheme, or is
    /// `user@host:path`. Everything else may be a folder or a name.
    pub fn looks_like(text: &str) -> bool {
        text.contains("://") || text.contains("::") || scp(text).is_some()
    }
}

impl FromStr for RepoUrl {
    type Err = RepoUrlError;

    fn from_str(text: &str) -> Result<Self, RepoUrlError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(RepoUrlError::Empty);
        }
        if text.starts_with('-') {
            return Err(RepoUrlError::Option { text: text.into() });
        }
        if text.contains(char::is_control) {
            return Err(RepoUrlError::Control);
        }
        // A remote helper (gitremote-helpers(7)), which runs a program of the address's choice.
        let helper = |scheme: &str| {
            scheme
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
        };
        if let Some((scheme, _)) = text.split_once("::").filter(|(scheme, _)| helper(scheme)) {
            return Err(RepoUrlError::Scheme {
                scheme: scheme.into(),
            });
        }
        if let Some((scheme, rest)) = text.split_once("://") {
            return with_scheme(&scheme.to_ascii_lowercase(), rest);
        }
        match scp(text) {
            Some((authority, path)) => scp_like(authority, path),
            None => Ok(Self {
                transport: Transport::Local,
                address: text.to_owned(),
                login: None,
                branch: None,
            }),
        }
    }
}

impl fmt::Display for RepoUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)
    }
}

impl fmt::Debug for RepoUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RepoUrl")
            .field("address", &self.address)
            .field("branch", &self.branch)
            .finish_non_exhaustive()
    }
}

/// `[user@]host:path`: a colon before any slash, as git decides it. A drive letter or a path with a
/// colon later is none.
fn scp(text: &str) -> Option<(&str, &str)> {
    let (authority, path) = text.split_once(':')?;
    let host_like = !authority.is_empty() && !authority.contains('/') && !path.starts_with("//");
    (host_like && authority.contains('@')).then_some((authority, path))
}

fn scp_like(authority: &str, path: &str) -> Result<RepoUrl, RepoUrlError> {
    let (path, branch) = split_branch(path)?;
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    check_user(user)?;
    check_host(host)?;
    check_path(path, authority)?;
    Ok(RepoUrl {
        transport: Transport::Ssh,
        address: format!("{authority}:{path}"),
        login: None,
        branch,
    })
}

fn with_scheme(scheme: &str, rest: &str) -> Result<RepoUrl, RepoUrlError> {
    let transport = match scheme {
        "https" => Transport::Https,
        "http" => Transport::Http,
        "ssh" | "git+ssh" => Transport::Ssh,
        "file" => Transport::Local,
        _ => {
            return Err(RepoUrlError::Scheme {
                scheme: scheme.into(),
            });
        }
    };
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    if transport != Transport::Local {
        check_authority(authority)?;
    }
    let (path, branch) = split_branch(path)?;
    check_path(path, authority)?;
    let scheme = if transport == Transport::Ssh {
        "ssh"
    } else {
        scheme
    };
    let (public, login) = match transport {
        Transport::Http | Transport::Https => without_login(authority),
        Transport::Ssh | Transport::Local => (without_password(authority), None),
    };
    Ok(RepoUrl {
        transport,
        address: format!("{scheme}://{public}/{path}"),
        login,
        branch,
    })
}

/// A user of HTTP's goes, too: tokens are often written in its place.
fn without_login(authority: &str) -> (String, Option<Login>) {
    match authority.rsplit_once('@') {
        Some(("" | ":", host)) => (host.to_owned(), None),
        Some((login, host)) => (host.to_owned(), Some(Login::written(login))),
        None => (authority.to_owned(), None),
    }
}

/// Ssh's user is who is asked for, and no secret.
fn without_password(authority: &str) -> String {
    let login = authority.rsplit_once('@');
    let named = login.and_then(|(login, host)| Some((login.split_once(':')?.0, host)));
    named.map_or(authority.to_owned(), |(user, host)| {
        format!("{user}@{host}")
    })
}

fn check_authority(authority: &str) -> Result<(), RepoUrlError> {
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    check_user(user)?;
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, port),
        _ => (host, "0"),
    };
    port.parse::<u16>()
        .map_err(|_| RepoUrlError::Host { host: host.into() })?;
    check_host(name)
}

/// A host that begins with '-' would be an option of ssh (CVE-2017-1000117).
fn check_host(host: &str) -> Result<(), RepoUrlError> {
    if host.is_empty() {
        return Err(RepoUrlError::NoHost { text: host.into() });
    }
    let inner = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let good = match inner {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !host.starts_with('-')
                && host
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
        }
    };
    if good {
        Ok(())
    } else {
        Err(RepoUrlError::Host { host: host.into() })
    }
}

fn check_user(user: &str) -> Result<(), RepoUrlError> {
    if user.starts_with('-') {
        return Err(RepoUrlError::Option { text: user.into() });
    }
    if user.contains(char::is_whitespace) {
        return Err(RepoUrlError::Control);
    }
    Ok(())
}

fn check_path(path: &str, authority: &str) -> Result<(), RepoUrlError> {
    if path.trim_matches('/').is_empty() {
        return Err(RepoUrlError::NoPath {
            text: authority.rsplit('@').next().unwrap_or("").into(),
        });
    }
    if path.starts_with('-') {
        return Err(RepoUrlError::Option { text: path.into() });
    }
    Ok(())
}

/// `path@branch`; a literal '@' in a path is written `%40`.
fn split_branch(path: &str) -> Result<(&str, Option<Branch>), RepoUrlError> {
    match path.split_once('@') {
        Some((path, branch)) => Ok((path, Some(branch.parse()?))),
        None => Ok((path, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_addresses() {
        use Transport::{Http, Https, Local, Ssh};
        for (text, transport, address, branch) in [
            ("https://h/a/b.git", Https, "https://h/a/b.git", None),
            (
                "https://h:8443/a/b@main",
                Https,
                "https://h:8443/a/b",
                Some("main"),
            ),
            (
                "HTTPS://me@h/a@feature/x",
                Https,
                "https://h/a",
                Some("feature/x"),
            ),
            (
                "http://127.0.0.1:3000/a",
                Http,
                "http://127.0.0.1:3000/a",
                None,
            ),
            ("https://[::1]:3000/a", Https, "https://[::1]:3000/a", None),
            ("git@h:a/b.git", Ssh, "git@h:a/b.git", None),
            ("git@h:a/b.git@v1", Ssh, "git@h:a/b.git", Some("v1")),
            ("ssh://git@h:22/a/b", Ssh, "ssh://git@h:22/a/b", None),
            ("git+ssh://h/a", Ssh, "ssh://h/a", None),
            (
                "file:///srv/r.git@dev",
                Local,
                "file:///srv/r.git",
                Some("dev"),
            ),
            ("/srv/r@x.git", Local, "/srv/r@x.git", None),
            ("./r", Local, "./r", None),
            ("host:path", Local, "host:path", None),
        ] {
            let url: RepoUrl = text.parse().unwrap();
            let found = url.branch().map(Branch::as_str);
            assert_eq!(
                (url.transport(), url.address(), found),
                (transport, address, branch)
            );
        }
    }

    #[test]
    fn refuses_what_could_run_something() {
        for text in [
            "",
            "ext::sh -c id",
            "fd::17",
            "-oProxyCommand=id",
            "--upload-pack=id",
            "ssh://-oProxyCommand=id/x",
            "ssh://-x@h/a",
            "git@-h:a",
            "git@h:-a",
            "ssh://h/-a",
            "git://h/a",
            "ftp://h/a",
            "https:///a",
            "https://h",
            "https://h/",
            "https://h:port/a",
            "https://h o/a",
            "https://h/a@",
            "https://h/a@-b",
            "https://h/a@b..c",
            "https://h/\u{1b}a",
        ] {
            assert!(text.parse::<RepoUrl>().is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn branches() {
        for good in ["main", "feature/x", "v1.2", "a@b", "release-1"] {
            assert!(good.parse::<Branch>().is_ok(), "{good}");
        }
        for bad in [
            "", "-x", "a b", "a..b", "/a", "a/", "a//b", ".a", "a.lock", "@", "a@{1}", "a:b", "a.",
        ] {
            assert!(bad.parse::<Branch>().is_err(), "{bad}");
        }
        let url: RepoUrl = "https://h/a@main".parse().unwrap();
        assert!(url.clone().with_branch("main".parse().ok()).is_ok());
        assert!(url.with_branch("dev".parse().ok()).is_err());
    }

    #[test]
    fn a_password_is_never_shown() {
        let url: RepoUrl = "https://me:s3cret@h/a.git@main".parse().unwrap();
        assert_eq!(url.address(), "https://h/a.git");
        assert!(!format!("{url} {url:?}").contains("s3cret"));
        let settings = url.login_settings();
        assert_eq!(settings[0].0, "http.https://h/.extraheader");
        assert_eq!(settings[0].1, "Authorization: basic bWU6czNjcmV0");
        let ssh: RepoUrl = "ssh://me:x@h/a.git".parse().unwrap();
        assert_eq!(ssh.address(), "ssh://me@h/a.git");
        for without in [
            "https://@h/a.git",
            "https://h/a.git",
            "ssh://me:x@h/a.git",
            "/a",
        ] {
            let url: RepoUrl = without.parse().unwrap();
            assert!(url.login_settings().is_empty(), "{without}");
        }
    }

    #[test]
    fn a_user_may_be_a_token() {
        let url: RepoUrl = "https://t0ken@h:1/a.git".parse().unwrap();
        assert_eq!(url.address(), "https://h:1/a.git");
        assert!(!format!("{url} {url:?}").contains("t0ken"));
        let [(key, user), (helper, script)] = &url.login_settings()[..] else {
            panic!("{:?}", url.login_settings());
        };
        assert_eq!(
            (key.as_str(), user.as_str()),
            ("credential.https://h:1.username", "t0ken")
        );
        assert_eq!(helper, "credential.https://h:1.helper");
        assert!(!script.contains("t0ken"), "{script}");
        let url: RepoUrl = "https://t0ken:x-oauth-basic@h/a.git".parse().unwrap();
        assert_eq!(url.address(), "https://h/a.git");
        assert_eq!(
            url.login_settings()[0].1,
            "Authorization: basic dDBrZW46eC1vYXV0aC1iYXNpYw=="
        );
    }

    #[test]
    fn tells_addresses_from_folders_and_names() {
        for text in ["https://h/a", "git@h:a", "file:///a", "ext::x"] {
            assert!(RepoUrl::looks_like(text), "{text}");
        }
        for text in [".", "/a/b", "name", "../x", "a:b", "./git@h:a"] {
            assert!(!RepoUrl::looks_like(text), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn never_an_option(text in "[-a-z@:/.]{0,30}|\\PC{0,30}") {
            if let Ok(url) = text.parse::<RepoUrl>() {
                proptest::prop_assert!(!url.address().starts_with('-'));
                proptest::prop_assert!(!url.address().contains(char::is_control));
                if let Some(branch) = url.branch() {
                    proptest::prop_assert!(!branch.as_str().starts_with('-'));
                }
            }
        }
    }
}
