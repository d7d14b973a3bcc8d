//! `WWW-Authenticate`, parsed: which proof a registry asks for. Pure.
//!
//! Grammar: RFC 9110 section 11.6.1 (several challenges may share one header, separated by the
//! same comma that separates parameters). The Bearer parameters are those of the distribution
//! project's token specification: `realm`, `service`, `scope`.

/// Longer headers are not read: no registry needs them.
const MAX_HEADER: usize = 16 * 1024;

/// A challenge that this client can answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Challenge {
    Basic,
    Bearer {
        /// The token service's address, as written.
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

/// All challenges of one header that we know how to answer, in order. What does not parse ends the
/// list: a half-understood challenge is not answered.
pub fn parse(header: &str) -> Vec<Challenge> {
    let mut challenges = Vec::new();
    if header.len() > MAX_HEADER {
        return challenges;
    }
    let mut cursor = Cursor { rest: header };
    while let Some(scheme) = cursor.scheme() {
        let Some(parameters) = cursor.parameters() else {
            break;
        };
        challenges.extend(challenge(scheme, parameters));
    }
    challenges
}

/// The one to answer: Bearer before Basic, because Basic sends the password with every request.
pub fn choose(challenges: Vec<Challenge>) -> Option<Challenge> {
    challenges
        .into_iter()
        .min_by_key(|challenge| matches!(challenge, Challenge::Basic))
}

fn challenge(scheme: &str, parameters: Vec<(&str, String)>) -> Option<Challenge> {
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let get = |name: &str| {
        let found = parameters
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.clone())
    };
    Some(Challenge::Bearer {
        realm: get("realm")?,
        service: get("service"),
        scope: get("scope"),
    })
}

struct Cursor<'a> {
    rest: &'a str,
}

impl<'a> Cursor<'a> {
    fn skip(&mut self, of: &[char]) {
        self.rest = self.rest.trim_start_matches(of);
    }

    fn token(&mut self) -> Option<&'a str> {
        let stop = |c: char| !(c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c));
        let end = self.rest.find(stop).unwrap_or(self.rest.len());
        let (token, rest) = self.rest.split_at(end);
        self.rest = rest;
        (!token.is_empty()).then_some(token)
    }

    fn scheme(&mut self) -> Option<&'a str> {
        self.skip(&[' ', '\t', ',']);
        self.token()
    }

    /// Everything up to the next scheme: `name = value` pairs, or one token68 that is passed over.
    fn parameters(&mut self) -> Option<Vec<(&'a str, String)>> {
        let mut parameters = Vec::new();
        loop {
            self.skip(&[' ', '\t', ',']);
            let before = self.rest;
            let Some(name) = self.token() else {
                return self.rest.is_empty().then_some(parameters);
            };
            self.skip(&[' ', '\t']);
            let Some(rest) = self.rest.strip_prefix('=') else {
                // No '=': this token was the next challenge's scheme.
                self.rest = before;
                return Some(parameters);
            };
            self.rest = rest;
            self.skip(&[' ', '\t', '=']);
            parameters.push((name, self.value()?));
        }
    }

    fn value(&mut self) -> Option<String> {
        match self.rest.strip_prefix('"') {
            Some(rest) => {
                self.rest = rest;
                self.quoted()
            }
            // The padding of a token68 ends the header or the challenge.
            None => Some(self.token().unwrap_or_default().to_owned()),
        }
    }

    fn quoted(&mut self) -> Option<String> {
        let mut value = String::new();
        let mut chars = self.rest.char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.rest = &self.rest[at + 1..];
                    return Some(value);
                }
                '\\' => value.push(chars.next()?.1),
                c => value.push(c),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
            scope: scope.map(str::to_owned),
        }
    }

    #[test]
    fn reads_what_registries_send() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#;
        let hub_parsed = bearer(
            "https://auth.docker.io/token",
            Some("registry.docker.io"),
            Some("repository:a/b:pull,push"),
        );
        for (header, expected) in [
            (hub, vec![hub_parsed]),
            (r#"Basic realm="r""#, vec![Challenge::Basic]),
            ("basic", vec![Challenge::Basic]),
            (
                r#"Basic realm="a, b", bearer realm=plain , service = "x\"y""#,
                vec![Challenge::Basic, bearer("plain", Some("x\"y"), None)],
            ),
            (
                r#"Negotiate YWJj==, Basic realm="r""#,
                vec![Challenge::Basic],
            ),
            (r#"NTLM, Bearer realm="x""#, vec![bearer("x", None, None)]),
            (r#"Bearer service="without realm""#, vec![]),
            (r#"Bearer realm="unterminated"#, vec![]),
            ("", vec![]),
            ("\u{e4}", vec![]),
        ] {
            assert_eq!(parse(header), expected, "{header}");
        }
    }

    #[test]
    fn bearer_is_preferred() {
        let both = parse(r#"Basic realm="b", Bearer realm="t""#);
        assert_eq!(choose(both), Some(bearer("t", None, None)));
        assert_eq!(choose(parse("Digest a=b")), None);
    }

    proptest::proptest! {
        #[test]
        fn never_panics_and_ends(header in r#"[A-Za-z =,"\\é]{0,80}"#) {
            let _ = parse(&header);
        }

        #[test]
        fn a_written_challenge_is_read_back(realm in r#"[ -~]{1,40}"#, service in "[a-z.]{1,20}") {
            let escaped = realm.replace('\\', "\\\\").replace('"', "\\\"");
            let header = format!(r#"Bearer realm="{escaped}",service="{service}""#);
            let expected = bearer(&realm, Some(&service), None);
            proptest::prop_assert_eq!(parse(&header), vec![expected]);
        }
    }
}
