//! Options as the text of one URL, for configuration files and the command line.

use std::time::Duration;

use super::options::ClusterOptions;
use crate::error::{Error, Result};

const PORT: u16 = 6379;
const EXPECTED: &str = "it has to be like valkey://user:password@host:port,host:port/NAME, or valkeys:// for TLS";

impl ClusterOptions {
    /// The defaults, with what a URL says.
    ///
    /// ```
    /// use cloakroom::cluster::ClusterOptions;
    ///
    /// let options = ClusterOptions::from_url("valkey://gateway:secret@10.0.0.1,10.0.0.2:6380/sessions?replicas=2")?;
    /// # Ok::<(), cloakroom::Error>(())
    /// ```
    ///
    /// The scheme is `valkey` or `redis`; `valkeys` and `rediss` encrypt connections, for which the feature `valkey-tls` is
    /// needed. A few of the nodes will do; a port that is left out is 6379. Then comes the name of the store. What is
    /// special in a user or a password stands as `%40`. These parameters may follow: `replicas=N`, `patience=SECONDS` (300 at most),
    /// [`relaxed`](Self::relaxed), `stated` ([`settings_are_stated`](Self::settings_are_stated)).
    ///
    /// # Errors
    /// [`Error::Setting`], whose message leaves the password out.
    pub fn from_url(url: &str) -> Result<Self> {
        let bad = |expected| Error::Setting { setting: "the URL of the store", value: without_password(url), expected };
        let (scheme, rest) = url.split_once("://").ok_or_else(|| bad(EXPECTED))?;
        let tls = match scheme {
            "valkey" | "redis" => None,
            "valkeys" | "rediss" => Some(Default::default()),
            _ => return Err(bad(EXPECTED)),
        };
        let (rest, parameters) = rest.split_once('?').unwrap_or((rest, ""));
        // A password may hold a slash, and hosts may not.
        let (login, rest) = rest.rsplit_once('@').map_or((None, rest), |(login, rest)| (Some(login), rest));
        let (nodes, name) = rest.split_once('/').ok_or_else(|| bad(EXPECTED))?;
        if nodes.split(',').any(str::is_empty) || name.is_empty() {
            return Err(bad(EXPECTED));
        }
        let has_port = |node: &str| node.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
        let node = |node: &str| if has_port(node) { node.to_owned() } else { format!("{node}:{PORT}") };
        let mut options = Self::new(name, nodes.split(',').map(node));
        options.tls = tls;
        if let Some(login) = login {
            let (user, password) = login.split_once(':').map_or((login, None), |(user, word)| (user, Some(word)));
            let plain = |text: &str| unescaped(text).ok_or_else(|| bad("an escape is % and two hexadecimal digits"));
            options.user = Some(plain(user)?).filter(|user| !user.is_empty());
            options.password = password.map(plain).transpose()?;
        }
        for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
            let number = |text: &str| text.parse::<u64>().map_err(|_| bad("replicas and patience are whole numbers"));
            options = match parameter.split_once('=').unwrap_or((parameter, "")) {
                ("replicas", count) => options.replicas(number(count)?),
                ("patience", seconds) => options.patience(Duration::from_secs(number(seconds)?)),
                ("relaxed", "") => options.relaxed(),
                ("stated", "") => options.settings_are_stated(),
                _ => return Err(bad("its parameters are replicas=N, patience=SECONDS, relaxed and stated")),
            };
        }
        Ok(options)
    }

    /// The password that goes with the user of a URL. It is best kept out of that: the arguments of a program are seen by
    /// every user of its host.
    #[must_use]
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(password.into());
        self
    }

    /// Whether there is a password.
    #[must_use]
    pub fn has_password(&self) -> bool {
        self.password.is_some()
    }
}

/// A URL as it may be shown.
fn without_password(url: &str) -> String {
    let (head, rest) = url.split_once("://").map_or(("", url), |(scheme, rest)| (scheme, rest));
    let rest = rest.rsplit_once('@').map_or_else(|| rest.to_owned(), |(_, rest)| format!("…@{rest}"));
    format!("{:?}", if head.is_empty() { rest } else { format!("{head}://{rest}") })
}

/// A text without its escapes.
fn unescaped(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, behind) = rest.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = behind;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_what_options_say() {
        let options =
            ClusterOptions::from_url("valkey://a:6380,[::1],b.example/st?replicas=0&relaxed&patience=3").unwrap();
        assert_eq!(options.seeds, ["a:6380", "[::1]:6379", "b.example:6379"]);
        assert_eq!((options.name.as_str(), options.replicas, options.relaxed), ("st", 0, true));
        assert_eq!((options.patience, options.stated, options.create), (Duration::from_secs(3), false, false));
        assert_eq!((options.user, options.password), (None, None));
        let options = ClusterOptions::from_url("redis://us%40er:p%3a%2F@@a/st?stated").unwrap();
        assert_eq!((options.user.as_deref(), options.password.as_deref()), (Some("us@er"), Some("p:/@")));
        assert!(options.stated && options.tls.is_none() && options.replicas == 1);
        let options = ClusterOptions::from_url("rediss://:word@a:1/st").unwrap();
        assert_eq!((options.user.as_deref(), options.password.as_deref()), (None, Some("word")));
        assert!(options.tls.is_some());
    }

    #[test]
    fn what_is_no_url_is_told_without_its_password() {
        let texts = [
            "a:1/st",
            "http://a:1/st",
            "valkey://a:1",
            "valkey://a:1/",
            "valkey:///st",
            "valkey://a,,b/st",
            "valkey://u:secret@a:1/st?replicas=x",
            "valkey://u:secret@a:1/st?else=1",
            "valkey://u:secret%4@a:1/st",
            "valkey://u:secret%zz@a:1/st",
            "valkey://u:secret@a:1",
            "u:secret@a:1/st",
            "valkey://a/st?relaxed=no",
        ];
        for text in texts {
            let error = ClusterOptions::from_url(text).map(drop).unwrap_err();
            assert!(matches!(error, Error::Setting { .. }) && !error.to_string().contains("secret"), "{text}: {error}");
        }
    }
}
