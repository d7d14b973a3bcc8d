//! Accounts at other registries, kept with their passwords encrypted.
//!
//! ```text
//! <data>/external.json   accounts by host: user name, sealed password, when
//! <data>/external.key    32 random bytes, made once; whoever has both files has the passwords
//! ```
//!
//! A password is sealed by ChaCha20-Poly1305 under a fresh nonce, with host and user name as
//! associated data: a record that is moved to another host's place does not open. Both files are their
//! owner's only, and replaced whole. These accounts are asked before all other places: they are what
//! somebody told this very registry.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use config::credentials::{Credential, Secret, canonical_host};
use config::registry::upstream::Host;
use futures_util::future::BoxFuture;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use unpacker::remote::Credentials;
use unpacker::remote::credentials::{Answer, LookupError, Machine};

use crate::clock;
use crate::error::{Failure, Kind, Outcome};
use crate::options::Options;

const KEY_BYTES: usize = 32;
/// More accounts than anybody has, and far less than what hurts.
const MAX_FILE: u64 = 4 << 20;
/// Longer passwords are no passwords; registry tokens are a few kilobytes.
const MAX_SECRET: usize = 64 * 1024;

/// One host at a time reads and replaces the file.
static CHANGING: Mutex<()> = Mutex::new(());

#[derive(Debug, Default, Serialize, Deserialize)]
struct Written {
    version: u32,
    registries: BTreeMap<String, Sealed>,
}

/// A record as it stands in the file.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Sealed {
    username: String,
    /// Hexadecimal.
    nonce: String,
    /// Hexadecimal, with the tag at the end.
    password: String,
    /// RFC 3339.
    added_at: String,
}

/// An account without its password.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    pub host: String,
    pub username: String,
    /// RFC 3339.
    pub added_at: String,
}

/// The accounts of one data folder. Cheap to make; files are read when they are needed.
#[derive(Debug, Clone)]
pub struct Accounts {
    file: PathBuf,
    key: PathBuf,
}

impl Accounts {
    pub fn new(options: &Options) -> Self {
        Self {
            file: options.data.join("external.json"),
            key: options.data.join("external.key"),
        }
    }

    /// All accounts, by host.
    pub fn list(&self) -> Outcome<Vec<Account>> {
        let read = self.read().map_err(|error| self.unusable(&error))?;
        let accounts = read.registries.iter();
        Ok(accounts
            .map(|(host, sealed)| sealed.account(host))
            .collect())
    }

    /// The account at one host.
    pub fn show(&self, host: &Host) -> Outcome<Account> {
        let found = self.list()?.into_iter().find(|one| one.host == name(host));
        found.ok_or_else(|| unknown(host))
    }

    /// Adds an account, or replaces the one of its host.
    pub fn add(&self, host: &Host, username: &str, password: &Secret) -> Outcome<Account> {
        let bad = |why: &str| Err(Failure::invalid(why.to_owned()));
        if username.is_empty() || username.contains(|c: char| c.is_control() || c == ':') {
            return bad("a user name has no colon and no control character, and is not empty");
        }
        if password.expose().is_empty() || password.expose().len() > MAX_SECRET {
            return bad("the password is empty or too long");
        }
        let sealed = self
            .seal(host, username, password)
            .map_err(|error| self.unusable(&error))?;
        let account = sealed.account(name(host));
        self.change(|registries| {
            registries.insert(name(host).to_owned(), sealed);
            Ok(())
        })?;
        Ok(account)
    }

    /// Removes the account at one host.
    pub fn remove(&self, host: &Host) -> Outcome<Account> {
        self.change(|registries| {
            let sealed = registries.remove(name(host)).ok_or_else(|| unknown(host))?;
            Ok(sealed.account(name(host)))
        })
    }

    fn change<T>(
        &self,
        change: impl FnOnce(&mut BTreeMap<String, Sealed>) -> Outcome<T>,
    ) -> Outcome<T> {
        let _alone = CHANGING.lock().unwrap_or_else(PoisonError::into_inner);
        let mut written = self.read().map_err(|error| self.unusable(&error))?;
        let done = change(&mut written.registries)?;
        written.version = 1;
        let text = serde_json::to_vec_pretty(&written).map_err(io::Error::from)?;
        replace(&self.file, &text).map_err(|error| self.unusable(&error))?;
        Ok(done)
    }

    fn unusable(&self, error: &io::Error) -> Failure {
        let message = format!("cannot use the accounts in {}", self.file.display());
        Failure::because(Kind::Internal, message, error)
    }

    fn read(&self) -> io::Result<Written> {
        match read(&self.file, MAX_FILE)? {
            Some(bytes) => Ok(serde_json::from_slice(&bytes)?),
            None => Ok(Written::default()),
        }
    }

    fn seal(&self, host: &Host, username: &str, password: &Secret) -> io::Result<Sealed> {
        let mut nonce = [0; NONCE_LEN];
        random(&mut nonce)?;
        let mut bytes = password.expose().as_bytes().to_vec();
        self.key(true)?
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(bound(name(host), username)),
                &mut bytes,
            )
            .map_err(|_| io::Error::other("the password cannot be sealed"))?;
        Ok(Sealed {
            username: username.to_owned(),
            nonce: registry::digest::hex(&nonce),
            password: registry::digest::hex(&bytes),
            added_at: clock::now_rfc3339(),
        })
    }

    /// The credential for a host, if there is an account.
    fn credential(&self, host: &str) -> io::Result<Option<Credential>> {
        let written = self.read()?;
        let Some(sealed) = written.registries.get(host) else {
            return Ok(None);
        };
        let bad = || {
            let text = format!("the account at {host} does not open with this key; add it again");
            io::Error::new(io::ErrorKind::InvalidData, text)
        };
        let nonce = unhex(&sealed.nonce).ok_or_else(bad)?;
        let nonce = Nonce::try_assume_unique_for_key(&nonce).map_err(|_| bad())?;
        let mut bytes = unhex(&sealed.password).ok_or_else(bad)?;
        let aad = Aad::from(bound(host, &sealed.username));
        let key = self.key(false)?;
        let open = key
            .open_in_place(nonce, aad, &mut bytes)
            .map_err(|_| bad())?;
        let password = std::str::from_utf8(open).map_err(|_| bad())?;
        Ok(Some(Credential::basic(sealed.username.clone(), password)))
    }

    /// The key, which is made where it is absent and `make` says so.
    fn key(&self, make: bool) -> io::Result<LessSafeKey> {
        let bytes = match read(&self.key, KEY_BYTES as u64 + 1)? {
            Some(bytes) => bytes,
            None if make => self.make_key()?,
            None => return Err(io::Error::new(io::ErrorKind::NotFound, "the key is gone")),
        };
        let key = UnboundKey::new(&CHACHA20_POLY1305, &bytes);
        let bad = |_| io::Error::new(io::ErrorKind::InvalidData, "the key is damaged");
        Ok(LessSafeKey::new(key.map_err(bad)?))
    }

    fn make_key(&self) -> io::Result<Vec<u8>> {
        let _alone = CHANGING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = read(&self.key, KEY_BYTES as u64 + 1)? {
            return Ok(bytes);
        }
        let mut bytes = vec![0; KEY_BYTES];
        random(&mut bytes)?;
        replace(&self.key, &bytes)?;
        Ok(bytes)
    }
}

impl Sealed {
    fn account(&self, host: &str) -> Account {
        Account {
            host: host.to_owned(),
            username: self.username.clone(),
            added_at: self.added_at.clone(),
        }
    }
}

/// One name for a registry with several.
fn name(host: &Host) -> &str {
    canonical_host(host.as_str())
}

fn unknown(host: &Host) -> Failure {
    Failure::not_found(format!("there is no account at {host} here"))
        .hint("See `devpod registry external list`.")
}

/// What a sealed password belongs to. No host and no user name has a line break.
fn bound(host: &str, username: &str) -> Vec<u8> {
    format!("{host}\n{username}").into_bytes()
}

fn random(bytes: &mut [u8]) -> io::Result<()> {
    let failed = |_| io::Error::other("the system's random source failed");
    SystemRandom::new().fill(bytes).map_err(failed)
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| match pair {
            [high, low] => u8::try_from(digit(*high)? * 16 + digit(*low)?).ok(),
            _ => None,
        })
        .collect()
}

/// A small file; `None` where there is none.
fn read(path: &std::path::Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, limit), &mut bytes)?;
    Ok(Some(bytes))
}

/// Replaces a file whole, for its owner only (a temporary file's mode is 0600), and durably.
fn replace(path: &std::path::Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(std::path::Path::new("/"));
    fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    File::open(folder)?.sync_all()
}

/// Credentials for our client: the accounts kept here, then those of the machine.
#[derive(Debug, Clone)]
pub(crate) struct External {
    accounts: Accounts,
    machine: Machine,
    /// Hosts that use another host's account.
    under: HashMap<String, String>,
}

impl External {
    pub(crate) fn new(options: &Options) -> Self {
        Self::of(options, Machine::detect(Vec::new()))
    }

    /// With the places of somebody's command.
    pub(crate) fn of(options: &Options, machine: Machine) -> Self {
        Self {
            accounts: Accounts::new(options),
            machine,
            under: HashMap::new(),
        }
    }

    /// For these hosts the account at `name` is used.
    pub(crate) fn under<'a>(mut self, hosts: impl Iterator<Item = &'a Host>, name: &Host) -> Self {
        let name = self::name(name);
        for host in hosts {
            self.under
                .insert(self::name(host).to_owned(), name.to_owned());
        }
        self
    }
}

impl Credentials for External {
    fn find<'a>(
        &'a self,
        host: &'a str,
        repository: &'a str,
    ) -> BoxFuture<'a, Result<Answer, LookupError>> {
        Box::pin(async move {
            let canonical = canonical_host(host);
            let wanted = self.under.get(canonical).map_or(canonical, String::as_str);
            let (accounts, wanted) = (self.accounts.clone(), wanted.to_owned());
            let looked = accounts.file.display().to_string();
            let found = tokio::task::spawn_blocking(move || accounts.credential(&wanted)).await;
            let found = found.map_err(io::Error::other).and_then(|found| found);
            let failed = |source| LookupError::Read {
                path: self.accounts.file.clone(),
                source,
            };
            if let Some(credential) = found.map_err(failed)? {
                return Ok(Answer {
                    credential: Some(credential),
                    from: looked.clone(),
                    looked: vec![looked],
                });
            }
            let mut answer = self.machine.find(host, repository).await?;
            answer.looked.insert(0, looked);
            Ok(answer)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn accounts() -> (tempfile::TempDir, Accounts) {
        let folder = tempfile::tempdir().unwrap();
        let accounts = Accounts {
            file: folder.path().join("external.json"),
            key: folder.path().join("external.key"),
        };
        (folder, accounts)
    }

    fn host(text: &str) -> Host {
        text.parse().unwrap()
    }

    #[test]
    fn a_password_comes_back_and_stands_nowhere() {
        let (folder, accounts) = accounts();
        let password = Secret::new("hush, a password");
        accounts.add(&host("A.example"), "me", &password).unwrap();
        accounts
            .add(&host("index.docker.io"), "you", &Secret::new("other"))
            .unwrap();
        let expected = Credential::basic("me", "hush, a password");
        assert_eq!(accounts.credential("a.example").unwrap(), Some(expected));
        assert!(accounts.credential("docker.io").unwrap().is_some());
        assert_eq!(accounts.credential("b.example").unwrap(), None);
        for name in ["external.json", "external.key"] {
            let path = folder.path().join(name);
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
            let text = fs::read(&path).unwrap();
            assert!(!String::from_utf8_lossy(&text).contains("hush"), "{name}");
        }
        let listed = accounts.list().unwrap();
        let hosts: Vec<_> = listed.iter().map(|one| one.host.as_str()).collect();
        assert_eq!(hosts, ["a.example", "docker.io"]);
        accounts.remove(&host("a.example")).unwrap();
        assert_eq!(accounts.credential("a.example").unwrap(), None);
        assert!(accounts.remove(&host("a.example")).is_err());
    }

    #[test]
    fn records_cannot_be_swapped_or_changed() {
        let (_folder, accounts) = accounts();
        accounts
            .add(&host("a.example"), "me", &Secret::new("one"))
            .unwrap();
        accounts
            .add(&host("b.example"), "me", &Secret::new("two"))
            .unwrap();
        let text = fs::read_to_string(&accounts.file).unwrap();
        fs::write(&accounts.file, text.replace("a.example", "c.example")).unwrap();
        assert!(accounts.credential("c.example").is_err());
        assert!(accounts.credential("b.example").unwrap().is_some());
        fs::write(&accounts.file, text.replace("\"me\"", "\"you\"")).unwrap();
        assert!(accounts.credential("a.example").is_err());
        fs::write(&accounts.file, &text).unwrap();
        let mut key = fs::read(&accounts.key).unwrap();
        key[0] ^= 1;
        fs::write(&accounts.key, key).unwrap();
        let error = accounts.credential("a.example").unwrap_err().to_string();
        assert!(
            error.contains("does not open") && !error.contains("one"),
            "{error}"
        );
    }

    #[test]
    fn bad_accounts_are_refused() {
        let (_folder, accounts) = accounts();
        for (user, password) in [("", "x"), ("a:b", "x"), ("a\nb", "x"), ("a", "")] {
            let added = accounts.add(&host("a.example"), user, &Secret::new(password));
            assert!(added.is_err(), "{user:?}");
        }
        assert!(!accounts.file.exists());
    }

    #[tokio::test]
    async fn our_own_accounts_come_first_and_for_their_hosts_only() {
        let (_folder, accounts) = accounts();
        accounts
            .add(&host("a.example"), "me", &Secret::new("one"))
            .unwrap();
        let machine = Machine::with_env(
            std::sync::Arc::new(|name| match name {
                "DOCKER_REGISTRY" => Some("b.example".to_owned()),
                "DOCKER_USERNAME" => Some("you".to_owned()),
                "DOCKER_PASSWORD" => Some("two".to_owned()),
                _ => None,
            }),
            Vec::new(),
        );
        let external = External {
            accounts,
            machine,
            under: HashMap::new(),
        };
        let mirror = host("mirror.example");
        let external = external.under([&mirror].into_iter(), &host("a.example"));
        for (asked, expected) in [
            ("a.example", Some(Credential::basic("me", "one"))),
            ("mirror.example", Some(Credential::basic("me", "one"))),
            ("b.example", Some(Credential::basic("you", "two"))),
            ("c.example", None),
        ] {
            let found = external.find(asked, "team/app").await.unwrap();
            assert_eq!(found.credential, expected, "{asked}");
            assert!(found.looked[0].ends_with("external.json"));
        }
    }
}
