//! Just enough of DER (X.690) to find a public key in a certificate. Pure, and bounded by its input.

const SEQUENCE: u8 = 0x30;
const BIT_STRING: u8 = 0x03;
const OID: u8 = 0x06;
const VERSION: u8 = 0xa0;

/// A public key as its certificate or PEM section holds it (RFC 5280, SubjectPublicKeyInfo).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PublicKeyInfo<'a> {
    /// Contents of the algorithm's identifier.
    pub algorithm: &'a [u8],
    /// What follows it: a curve's identifier with its header, for one.
    pub parameters: &'a [u8],
    /// The key itself.
    pub key: &'a [u8],
}

/// Reads a SubjectPublicKeyInfo.
pub(super) fn public_key(der: &[u8]) -> Option<PublicKeyInfo<'_>> {
    let (info, rest) = element(der, SEQUENCE)?;
    let (algorithm, info) = element(info, SEQUENCE)?;
    let (algorithm, parameters) = element(algorithm, OID)?;
    let (bits, trailing) = element(info, BIT_STRING)?;
    let (unused, key) = bits.split_first()?;
    (*unused == 0 && rest.is_empty() && trailing.is_empty()).then_some(PublicKeyInfo {
        algorithm,
        parameters,
        key,
    })
}

/// The SubjectPublicKeyInfo of a certificate. Neither its signature nor its validity is looked at:
/// whoever writes the file of keys trusts them.
pub(super) fn key_of_certificate(der: &[u8]) -> Option<PublicKeyInfo<'_>> {
    let (certificate, _) = element(der, SEQUENCE)?;
    let (body, _) = element(certificate, SEQUENCE)?;
    let body = element(body, VERSION).map_or(body, |(_, rest)| rest);
    // Serial number, signature algorithm, issuer, validity, subject.
    let mut rest = body;
    for _ in 0..5 {
        (_, _, rest) = next(rest)?;
    }
    let (_, _, after) = next(rest)?;
    public_key(&rest[..rest.len() - after.len()])
}

/// The contents of the first element, which must have this tag, and what follows it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, contents, rest) = next(der)?;
    (found == tag).then_some((contents, rest))
}

/// Tag, contents, and what follows.
fn next(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, der) = der.split_first()?;
    let (first, der) = der.split_first()?;
    let (length, der) = match first {
        0..=0x7f => (usize::from(*first), der),
        0x81..=0x84 => {
            let (bytes, der) = der.split_at_checked(usize::from(first & 0x7f))?;
            let length = bytes
                .iter()
                .fold(0, |length, byte| length << 8 | usize::from(*byte));
            (length, der)
        }
        _ => return None,
    };
    let (contents, rest) = der.split_at_checked(length)?;
    Some((*tag, contents, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_an_ed25519_key() {
        // RFC 8410, section 4, example.
        let key = [0xAB; 32];
        let mut der = vec![
            0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
        ];
        der.extend_from_slice(&key);
        let found = public_key(&der).unwrap();
        assert_eq!(found.algorithm, [0x2b, 0x65, 0x70]);
        assert_eq!((found.parameters, found.key), (&[][..], &key[..]));
        der.push(0);
        assert_eq!(public_key(&der), None, "something follows");
        assert_eq!(public_key(&der[..20]), None, "cut off");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = public_key(&bytes);
            let _ = key_of_certificate(&bytes);
        }
    }
}
