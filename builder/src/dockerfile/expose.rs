//! The ports of EXPOSE: `80`, `80/udp`, `8000-8010/tcp` (Dockerfile reference, "EXPOSE").

/// Why a port is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    #[error("port {text:?} has a protocol other than tcp, udp and sctp")]
    Protocol { text: String },
    #[error("{text:?} is not a port or a range of ports between 0 and 65535")]
    Number { text: String },
}

/// The keys of the configuration's `ExposedPorts` for one expanded word, a range port by port.
///
/// The host's part of `8080:80` has no place in an image; a build check tells of it.
pub fn ports(word: &str) -> Result<Vec<String>, PortError> {
    let text = || word.to_owned();
    let (range, protocol) = word.split_once('/').unwrap_or((word, "tcp"));
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "" | "tcp" => "tcp",
        "udp" => "udp",
        "sctp" => "sctp",
        _ => return Err(PortError::Protocol { text: text() }),
    };
    let range = range.rsplit(':').next().unwrap_or(range);
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let (Some(first), Some(last)) = (number(first), number(last)) else {
        return Err(PortError::Number { text: text() });
    };
    if first > last {
        return Err(PortError::Number { text: text() });
    }
    Ok((first..=last)
        .map(|port| format!("{port}/{protocol}"))
        .collect())
}

fn number(text: &str) -> Option<u16> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_a_word() {
        for (word, expected) in [
            ("80", vec!["80/tcp"]),
            ("80/", vec!["80/tcp"]),
            ("53/UDP", vec!["53/udp"]),
            ("7000-7002", vec!["7000/tcp", "7001/tcp", "7002/tcp"]),
            ("9/sctp", vec!["9/sctp"]),
            ("127.0.0.1:8080:80/tcp", vec!["80/tcp"]),
        ] {
            assert_eq!(ports(word).unwrap(), expected, "{word}");
        }
    }

    #[test]
    fn what_is_no_port() {
        for word in [
            "", "x", "70000", "8-7", "-", "80/icmp", "+80", "80:", "1-2-3",
        ] {
            assert!(ports(word).is_err(), "{word}");
        }
    }
}
