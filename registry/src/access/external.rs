//! Tokens of another issuer, verified with its public keys: RS256, ES256 and EdDSA.
//!
//! The kind of the key decides which algorithm it may verify, never the token's header alone: no
//! key of this file can be a secret for a MAC, and a token without a signature has no key at all.

use std::path::Path;
use std::time::SystemTime;

use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents,
    UnparsedPublicKey,
};
use rustls::pki_types::pem::{PemObject, SectionKind};
use serde::Deserialize;

use super::der::{self, PublicKeyInfo};
use super::jwt::{self, Audience, Grant, Unverified};
use super::token::{TokenError, seconds};
use super::watched::{FileError, Watched};

/// Clocks of two machines may differ by so much.
const LEEWAY: u64 = 60;
const MAX_KEYS: usize = 100;

/// Another issuer, and what its tokens must say.
#[derive(Debug)]
pub(super) struct External {
    pub issuer: String,
    pub service: String,
    pub keys: Watched<Keys>,
}

/// The keys of one state of the file.
#[derive(Debug)]
pub(super) struct Keys(Vec<Key>);

#[derive(Debug)]
struct Key {
    /// Keys of PEM files have none and are tried for every token of their kind.
    id: Option<String>,
    public: Public,
}

#[derive(Debug)]
enum Public {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// RSAPublicKey of RFC 8017, appendix A.1.1.
    RsaDer(Vec<u8>),
    P256(Vec<u8>),
    Ed25519(Vec<u8>),
}

#[derive(Debug, Deserialize)]
struct Claims {
    iss: String,
    aud: Audience,
    #[serde(default)]
    sub: String,
    exp: u64,
    #[serde(default)]
    nbf: u64,
    #[serde(default)]
    access: Vec<Grant>,
}

impl External {
    /// The subject (empty for a nameless caller) and what the token grants.
    pub(super) fn verify(
        &self,
        token: &Unverified<'_>,
        now: SystemTime,
    ) -> Result<(String, Vec<Grant>), TokenError> {
        if !self.keys.get().verify(token) {
            return Err(TokenError::Damaged);
        }
        let claims: Claims =
            serde_json::from_slice(&token.payload).map_err(|_| TokenError::Damaged)?;
        if claims.iss != self.issuer || !claims.aud.names(&self.service) {
            return Err(TokenError::Foreign);
        }
        let now = seconds(now);
        if now + LEEWAY < claims.nbf || now >= claims.exp.saturating_add(LEEWAY) {
            return Err(TokenError::Time);
        }
        Ok((claims.sub, claims.access))
    }
}

impl Keys {
    /// Reads a JWK set (RFC 7517), or PEM sections with certificates and public keys.
    pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Self, FileError> {
        let json = bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
        let keys = if json { jwks(bytes) } else { pem(bytes) };
        let keys = keys.and_then(|keys| match keys.len() {
            0 => Err("no RSA, P-256 or Ed25519 public key is in it".to_owned()),
            1..=MAX_KEYS => Ok(Self(keys)),
            count => Err(format!("{count} keys are in it, more than {MAX_KEYS}")),
        });
        keys.map_err(|reason| FileError::Content {
            path: path.to_owned(),
            reason,
        })
    }

    fn verify(&self, token: &Unverified<'_>) -> bool {
        let wanted = token.header.kid.as_deref();
        let mut keys = self.0.iter().filter(|key| match (&key.id, wanted) {
            (Some(id), Some(wanted)) => id == wanted,
            _ => true,
        });
        keys.any(|key| key.public.verify(token))
    }
}

impl Public {
    fn verify(&self, token: &Unverified<'_>) -> bool {
        let (text, signature) = (token.signed.as_bytes(), &token.signature);
        let checked = match (self, token.header.alg.as_str()) {
            (Self::Rsa { n, e }, "RS256") => {
                RsaPublicKeyComponents { n, e }.verify(&RSA_PKCS1_2048_8192_SHA256, text, signature)
            }
            (Self::RsaDer(key), "RS256") => {
                UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key).verify(text, signature)
            }
            (Self::P256(key), "ES256") => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key).verify(text, signature)
            }
            (Self::Ed25519(key), "EdDSA") => {
                UnparsedPublicKey::new(&ED25519, key).verify(text, signature)
            }
            _ => return false,
        };
        checked.is_ok()
    }
}

/// A key of a JWK set (RFC 7517, RFC 7518 section 6, RFC 8037). Others than ours are passed over.
#[derive(Debug, Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    d: Option<serde::de::IgnoredAny>,
}

fn jwks(bytes: &[u8]) -> Result<Vec<Key>, String> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<Jwk>,
    }
    // The text of a JSON error would not quote the file, but its place is enough.
    let set: Set = serde_json::from_slice(bytes)
        .map_err(|error| format!("line {}: not a JWK set", error.line()))?;
    let mut keys = Vec::new();
    for jwk in set.keys {
        if jwk.d.is_some() || jwk.kty == "oct" {
            return Err("a private or symmetric key is in it; only public ones belong here".into());
        }
        if jwk.usage.as_deref().is_some_and(|usage| usage != "sig") {
            continue;
        }
        if let Some(public) = jwk.public() {
            let id = jwk.kid;
            keys.push(Key { id, public });
        }
    }
    Ok(keys)
}

impl Jwk {
    fn public(&self) -> Option<Public> {
        let bytes = |text: &Option<String>| jwt::decode(text.as_deref()?);
        let coordinate = |text| bytes(text).filter(|bytes| bytes.len() == 32);
        let (algorithm, public) = match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => {
                let n = unpadded(bytes(&self.n)?);
                let e = unpadded(bytes(&self.e)?);
                ("RS256", Public::Rsa { n, e })
            }
            ("EC", Some("P-256")) => {
                let (x, y) = (coordinate(&self.x)?, coordinate(&self.y)?);
                ("ES256", Public::P256([&[4], &*x, &*y].concat()))
            }
            ("OKP", Some("Ed25519")) => ("EdDSA", Public::Ed25519(coordinate(&self.x)?)),
            _ => return None,
        };
        let stated = self.alg.as_deref().unwrap_or(algorithm);
        (stated == algorithm).then_some(public)
    }
}

/// A number without the zeros that some writers put before it; ring refuses those.
fn unpadded(mut number: Vec<u8>) -> Vec<u8> {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.drain(..zeros);
    number
}

fn pem(bytes: &[u8]) -> Result<Vec<Key>, String> {
    let mut keys = Vec::new();
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(bytes) {
        let (kind, der) = section.map_err(|_| "a PEM section is broken".to_owned())?;
        let info = match kind {
            SectionKind::Certificate => der::key_of_certificate(&der),
            SectionKind::PublicKey => der::public_key(&der),
            _ => {
                return Err("a section is neither CERTIFICATE nor PUBLIC KEY".to_owned());
            }
        };
        let public = info.and_then(|info| public(&info));
        let public = public.ok_or("a key is not RSA, P-256 or Ed25519")?;
        keys.push(Key { id: None, public });
    }
    Ok(keys)
}

/// By the identifiers of RFC 8017, RFC 5480 and RFC 8410.
fn public(info: &PublicKeyInfo<'_>) -> Option<Public> {
    const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
    const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
    const P256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
    const EDWARDS: &[u8] = &[0x2b, 0x65, 0x70];
    let key = info.key.to_vec();
    match info.algorithm {
        RSA => Some(Public::RsaDer(key)),
        EC if info.parameters == P256 => Some(Public::P256(key)),
        EDWARDS => Some(Public::Ed25519(key)),
        _ => None,
    }
}
