//! Users and their passwords: a file as `htpasswd -B` writes it. Bcrypt only.
//!
//! A password is checked at most once in five minutes: a right one is remembered as a keyed hash of
//! name, password and the file's own hash, so a changed file forgets it by itself. A wrong password
//! costs the same for every name, known or not.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use config::credentials::Secret;
use ring::hmac;

use super::watched::FileError;

/// A hash of a higher cost would take seconds for each login.
const MAX_COST: u32 = 16;
const MIN_COST: u32 = 4;
/// Names are part of log lines and tokens.
const MAX_NAME: usize = 255;
const REMEMBERED: Duration = Duration::from_secs(300);
const MAX_REMEMBERED: usize = 4096;

/// The users of one state of the file.
#[derive(Debug, Clone, Default)]
pub(super) struct Users {
    hashes: HashMap<String, String>,
    /// The highest cost in the file: what an unknown name is made to cost.
    cost: u32,
}

impl Users {
    /// Reads lines `name:hash`; empty ones and those that begin with `#` mean nothing.
    pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Self, FileError> {
        let mut users = Self {
            hashes: HashMap::new(),
            cost: MIN_COST,
        };
        for (number, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            users.read(line).map_err(|reason| FileError::Line {
                path: path.to_owned(),
                line: number + 1,
                reason: reason.to_owned(),
            })?;
        }
        Ok(users)
    }

    /// Complaints never quote the line: it holds a hash.
    fn read(&mut self, line: &[u8]) -> Result<(), &'static str> {
        let line = std::str::from_utf8(line).map_err(|_| "the line is not UTF-8")?;
        let line = line.trim_end_matches('\r');
        if line.trim().is_empty() || line.starts_with('#') {
            return Ok(());
        }
        let (name, hash) = line.split_once(':').ok_or("the line has no colon")?;
        if name.is_empty() || name.len() > MAX_NAME || name.contains(char::is_control) {
            return Err("the name is empty, too long, or has a control character");
        }
        if matches!(name, "anonymous" | "*") {
            return Err("the name means others in rules");
        }
        let cost = cost(hash)?;
        self.cost = self.cost.max(cost);
        if self
            .hashes
            .insert(name.to_owned(), hash.to_owned())
            .is_some()
        {
            return Err("the name stands in an earlier line too");
        }
        Ok(())
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.hashes.contains_key(name)
    }

    /// What identifies this user with this password, without telling either: it changes with both.
    pub(super) fn fingerprint(&self, name: &str) -> Option<String> {
        let hash = self.hashes.get(name)?;
        let digest = ring::digest::digest(&ring::digest::SHA256, hash.as_bytes());
        Some(crate::digest::hex(&digest.as_ref()[..8]))
    }

    /// The hash to check a password against, and whether the answer may count. A name that nobody
    /// has gets a hash that no password has.
    pub(super) fn candidate(&self, name: &str) -> Candidate {
        match self.hashes.get(name) {
            Some(hash) => Candidate {
                hash: hash.clone(),
                known: true,
                // A hash that was parsed has a cost.
                rest: cost(hash).unwrap_or(self.cost)..self.cost,
            },
            None => Candidate {
                hash: nobodys(self.cost),
                known: false,
                rest: 0..0,
            },
        }
    }
}

/// A hash that no password has.
fn nobodys(cost: u32) -> String {
    format!("$2b${cost:02}${}", ".".repeat(53))
}

/// The cost of a bcrypt hash `$2y$CC$` with 22 letters of salt and 31 of hash.
fn cost(hash: &str) -> Result<u32, &'static str> {
    let rest = ["$2y$", "$2a$", "$2b$"]
        .iter()
        .find_map(|prefix| hash.strip_prefix(prefix))
        .ok_or("the hash is not bcrypt: make it with `htpasswd -B`")?;
    let (cost, letters) = rest.split_once('$').ok_or("the bcrypt hash is not whole")?;
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'/';
    let digits = cost.len() == 2 && cost.bytes().all(|byte| byte.is_ascii_digit());
    if letters.len() != 53 || !letters.bytes().all(letter) || !digits {
        return Err("the bcrypt hash is not whole");
    }
    match cost.parse() {
        Ok(cost) if (MIN_COST..=MAX_COST).contains(&cost) => Ok(cost),
        _ => Err("the cost of the bcrypt hash is not from 04 to 16"),
    }
}

/// A hash on its way to be checked.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    hash: String,
    known: bool,
    /// Costs of checks that come after one that failed. Each cost is twice the work of the one below,
    /// so those from this hash's to below the highest make up what is missing to the highest.
    rest: std::ops::Range<u32>,
}

impl Candidate {
    /// Blocking, for milliseconds to seconds: whether this is the password. The work of finding
    /// that it is not is the same for all names, and for one that nobody has.
    pub(super) fn verify(&self, password: &Secret) -> bool {
        // Bytes after the 72nd do not count, as for every program that reads these files.
        let right = bcrypt::verify(password.expose(), &self.hash).unwrap_or(false);
        if !right {
            for cost in self.rest.clone() {
                let _ = bcrypt::verify(password.expose(), &nobodys(cost));
            }
        }
        right & self.known
    }
}

/// Passwords that were right a moment ago, as keyed hashes.
#[derive(Debug)]
pub(super) struct Remembered {
    key: hmac::Key,
    until: Mutex<HashMap<[u8; 32], SystemTime>>,
}

impl Remembered {
    /// `key` is random and lives as long as the process.
    pub(super) fn new(key: &[u8; 32]) -> Self {
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, key),
            until: Mutex::new(HashMap::new()),
        }
    }

    /// Parts are told apart by their lengths, so no two logins have the same mark.
    fn mark(&self, name: &str, password: &Secret, candidate: &Candidate) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        for part in [name, password.expose(), &candidate.hash] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part.as_bytes());
        }
        let mut mark = [0; 32];
        mark.copy_from_slice(context.sign().as_ref());
        mark
    }

    pub(super) fn knows(
        &self,
        name: &str,
        password: &Secret,
        candidate: &Candidate,
        now: SystemTime,
    ) -> bool {
        let mark = self.mark(name, password, candidate);
        let until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        candidate.known && until.get(&mark).is_some_and(|until| now < *until)
    }

    pub(super) fn remember(
        &self,
        name: &str,
        password: &Secret,
        candidate: &Candidate,
        now: SystemTime,
    ) {
        let mark = self.mark(name, password, candidate);
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        if until.len() >= MAX_REMEMBERED {
            until.retain(|_, until| now < *until);
        }
        if until.len() >= MAX_REMEMBERED {
            until.clear();
        }
        until.insert(mark, now + REMEMBERED);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(password: &str) -> String {
        bcrypt::hash(password, 4).unwrap()
    }

    fn parse(text: &str) -> Result<Users, String> {
        Users::parse(Path::new("users"), text.as_bytes()).map_err(|error| error.to_string())
    }

    fn secret(text: &str) -> Secret {
        Secret::new(text)
    }

    #[test]
    fn reads_what_htpasswd_writes() {
        let hash = hash("pw").replace("$2b$", "$2y$");
        let users = parse(&format!("# ours\n\nann:{hash}\r\nb b:{hash}\n")).unwrap();
        assert!(users.contains("ann") && users.contains("b b") && !users.contains("eve"));
        assert!(users.candidate("ann").verify(&secret("pw")));
        assert!(!users.candidate("ann").verify(&secret("pW")));
        assert!(!users.candidate("eve").verify(&secret("pw")));
    }

    #[test]
    fn says_which_line_is_wrong_and_quotes_no_hash() {
        let good = hash("pw");
        for (line, expected) in [
            ("ann", "users:2: the line has no colon"),
            ("ann:{SHA}hush=", "users:2: the hash is not bcrypt"),
            ("ann:$apr1$hush$hush", "users:2: the hash is not bcrypt"),
            ("ann:hush", "users:2: the hash is not bcrypt"),
            ("ann:$2y$05$hush", "users:2: the bcrypt hash is not whole"),
            (":hush", "users:2: the name is empty"),
            ("anonymous:hush", "users:2: the name means others"),
            ("x\u{7}:hush", "users:2: the name is empty, too long"),
            (
                &good.replace("$04$", "$31$").replacen('$', "ann:$", 1),
                "users:2: the cost",
            ),
            (
                &good.replace("$04$", "$+4$").replacen('$', "ann:$", 1),
                "users:2: ",
            ),
        ] {
            let error = parse(&format!("ok:{good}\n{line}\n")).unwrap_err();
            assert!(
                error.starts_with(expected) && !error.contains("hush"),
                "{error}"
            );
        }
        let twice = parse(&format!("ann:{good}\nann:{good}\n")).unwrap_err();
        assert!(twice.starts_with("users:2: the name stands"), "{twice}");
    }

    #[test]
    fn an_unknown_name_is_checked_against_a_hash_of_the_same_cost() {
        let users = parse(&format!("ann:{}\n", bcrypt::hash("pw", 6).unwrap())).unwrap();
        let unknown = users.candidate("eve");
        assert_eq!(cost(&unknown.hash), Ok(6));
        // It is a hash that bcrypt works on, rather than one that it refuses at once.
        assert!(matches!(bcrypt::verify("pw", &unknown.hash), Ok(false)));
        assert!(!unknown.known);
    }

    #[test]
    fn a_wrong_password_is_as_much_work_for_every_name() {
        let lines = [("ann", 4), ("bob", 5), ("eve", 7)];
        let line = |(name, cost)| format!("{name}:{}\n", bcrypt::hash("pw", cost).unwrap());
        let users = parse(&lines.map(line).concat()).unwrap();
        for name in ["ann", "bob", "eve", "nobody"] {
            let candidate = users.candidate(name);
            let first = cost(&candidate.hash).unwrap();
            let work = candidate.rest.clone().chain([first]).map(|cost| 1 << cost);
            assert_eq!(work.sum::<u32>(), 1 << 7, "{name}");
            assert_eq!(candidate.verify(&secret("pw")), name != "nobody");
        }
    }

    #[test]
    fn remembers_right_passwords_for_a_while_and_only_those() {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let users = parse(&format!("ann:{}\nbob:{}\n", hash("pw"), hash("pw"))).unwrap();
        let ann = users.candidate("ann");
        let remembered = Remembered::new(&[7; 32]);
        let knows = |name: &str, password: &str, candidate: &Candidate, seconds: u64| {
            let now = start + Duration::from_secs(seconds);
            remembered.knows(name, &secret(password), candidate, now)
        };
        assert!(!knows("ann", "pw", &ann, 0));
        remembered.remember("ann", &secret("pw"), &ann, start);
        assert!(knows("ann", "pw", &ann, 299));
        assert!(!knows("ann", "pw", &ann, 300));
        // Nothing that is put together differently is the same login.
        assert!(!knows("ann", "p", &ann, 0));
        assert!(!knows("annp", "w", &ann, 0));
        assert!(!knows("an", "npw", &ann, 0));
        assert!(!knows("bob", "pw", &users.candidate("bob"), 0));
        // A password that was changed in the file is not known any more.
        let changed = parse(&format!("ann:{}\n", hash("other"))).unwrap();
        assert!(!knows("ann", "pw", &changed.candidate("ann"), 0));
        // Nor is a user who was removed.
        assert!(!knows("ann", "pw", &parse("").unwrap().candidate("ann"), 0));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let users = parse(&format!("ann:{}\n", hash("pw"))).unwrap();
        let (ann, now) = (users.candidate("ann"), SystemTime::UNIX_EPOCH);
        let remembered = Remembered::new(&[7; 32]);
        for number in 0..MAX_REMEMBERED + 10 {
            remembered.remember("ann", &secret(&number.to_string()), &ann, now);
        }
        assert!(remembered.until.lock().unwrap().len() <= MAX_REMEMBERED);
    }
}
