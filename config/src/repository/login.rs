//! Who asks for a repository, and how git is told.
//!
//! A password in an address would be in the arguments of git's helpers, which everybody on the host can
//! read. So it is taken out, and becomes a header that git reads from its environment, as only the same
//! user can, and sends to one host.

use std::fmt;

use crate::credentials::base64;

/// `USER:PASSWORD` of an address, as they are meant. Never shown.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Login(String);

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(..)")
    }
}

impl Login {
    /// What stands before the `@` of an address. A user alone has an empty password: its name may be a
    /// token.
    pub fn written(text: &str) -> Self {
        let text = match text.contains(':') {
            true => text.to_owned(),
            false => format!("{text}:"),
        };
        Self(decoded(&text))
    }

    /// The value of `Authorization`.
    pub fn header(&self) -> String {
        format!("basic {}", base64::encode(self.0.as_bytes()))
    }
}

/// The settings with which git sends this `Authorization` to the host of `origin`
/// (`scheme://host[:port]`), and to nobody else: without the second one it would go on to whatever host
/// the first answer leads to.
pub fn settings(origin: &str, authorization: &str) -> [(String, String); 2] {
    [
        (
            format!("http.{origin}/.extraheader"),
            format!("Authorization: {authorization}"),
        ),
        ("http.followRedirects".to_owned(), "false".to_owned()),
    ]
}

/// Settings as git takes them from its environment (`GIT_CONFIG_COUNT`).
pub fn variables(settings: impl IntoIterator<Item = (String, String)>) -> Vec<(String, String)> {
    let mut variables = Vec::new();
    let mut count = 0;
    for (number, (key, value)) in settings.into_iter().enumerate() {
        variables.push((format!("GIT_CONFIG_KEY_{number}"), key));
        variables.push((format!("GIT_CONFIG_VALUE_{number}"), value));
        count = number + 1;
    }
    variables.push(("GIT_CONFIG_COUNT".to_owned(), count.to_string()));
    variables
}

/// `%40` and the like as what they stand for.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, others @ ..] = rest {
        let digits = others.get(..2).filter(|_| *first == b'%');
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = others.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = others;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_a_header_of_one_host() {
        for (written, header) in [
            ("me:a%40b", "basic bWU6YUBi"),
            ("token", "basic dG9rZW46"),
            ("a:%zz%4", "basic YTolenolNA=="),
        ] {
            assert_eq!(Login::written(written).header(), header, "{written}");
        }
        let [(key, value), (redirects, no)] = settings("https://h:1", "basic x");
        assert_eq!(key, "http.https://h:1/.extraheader");
        assert_eq!(value, "Authorization: basic x");
        assert_eq!((&*redirects, &*no), ("http.followRedirects", "false"));
        assert!(!format!("{:?}", Login::written("me:hush")).contains("hush"));
    }

    #[test]
    fn settings_are_counted() {
        let found = variables([("a".to_owned(), "b".to_owned())]);
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            found,
            [
                pair("GIT_CONFIG_KEY_0", "a"),
                pair("GIT_CONFIG_VALUE_0", "b"),
                pair("GIT_CONFIG_COUNT", "1")
            ]
        );
    }
}
