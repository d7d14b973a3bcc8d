//! Who asks for a repository, and how git is told.
//!
//! A password or a token in an address would be in the arguments of git's helpers, which everybody on the
//! host can read. So it is taken out, and becomes settings that git reads from its environment, as only the
//! same user can, and that are of one host: a header, or the user for which git asks for a password.

use std::fmt;

use crate::credentials::base64;
use crate::percent::decoded;

/// `USER` or `USER:PASSWORD` of an address, as they are meant. Never shown.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Login {
    user: String,
    password: Option<String>,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(..)")
    }
}

impl Login {
    /// What stands before the `@` of an address.
    pub fn written(text: &str) -> Self {
        let (user, password) = match text.split_once(':') {
            Some((user, password)) => (user, Some(decoded(password))),
            None => (text, None),
        };
        Self {
            user: decoded(user),
            password,
        }
    }

    /// The value of `Authorization`. A user alone has an empty password: its name may be a token.
    pub fn header(&self) -> String {
        let password = self.password.as_deref().unwrap_or_default();
        let login = format!("{}:{password}", self.user);
        format!("basic {}", base64::encode(login.as_bytes()))
    }

    /// The settings with which git logs in at `origin` (`scheme://host[:port]`), and nowhere else. For a user
    /// alone it asks whoever knows passwords on this host, as it does for an address with that user; a header
    /// would keep the answer from being used.
    pub fn settings(&self, origin: &str) -> [(String, String); 2] {
        match self.password {
            Some(_) => settings(origin, &self.header()),
            None => [
                (format!("credential.{origin}.username"), self.user.clone()),
                (format!("credential.{origin}.helper"), last_helper(origin)),
            ],
        }
    }
}

/// A credential helper (gitcredentials(7)) that is asked behind all others. Git itself would show the user to
/// the program that asks people, as an argument of it, and in its complaint where there is none. Where
/// nobody knows a password it is empty, as a token's is.
fn last_helper(origin: &str) -> String {
    format!(
        "!f() {{ test \"$1\" = get || return 0; ask=\"${{GIT_ASKPASS:-$SSH_ASKPASS}}\"; \
         test -z \"$ask\" || word=\"$(\"$ask\" \"Password for '{origin}': \")\"; \
         echo \"password=$word\"; }}; word=; f"
    )
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_a_header_of_one_host() {
        for (written, header) in [
            ("me:a%40b", "basic bWU6YUBi"),
            ("token", "basic dG9rZW46"),
            ("a:%zz%4", "basic YTolenolNA=="),
            ("a:b:c", "basic YTpiOmM="),
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
