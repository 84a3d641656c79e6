//! Keys: `gwk_<id>_<secret>` for gateways and `gwa_<id>_<secret>` for the API. The public id
//! identifies the row, which contains the SHA-256 of the whole key. The text of a key is available
//! only when it is issued. No type here prints a secret with `{:?}`.

use std::fmt;

use data_encoding::BASE32_NOPAD;
use secrecy::SecretString;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

const ID_CHARS: usize = 12;
const SECRET_BYTES: usize = 32;
const CHECKSUM_BYTES: usize = 4;
/// 32 bytes of secret and 4 of checksum have 58 characters in Base32.
const SECRET_CHARS: usize = 58;

/// What a key authenticates for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The endpoint of gateways.
    Gateway,
    /// The HTTP API.
    Access,
}

impl Kind {
    const fn prefix(self) -> &'static str {
        match self {
            Self::Gateway => "gwk",
            Self::Access => "gwa",
        }
    }

    /// Whether a text has the prefix of the other kind. The rest of the text is not checked.
    pub fn is_other(self, text: &str) -> bool {
        let other = match self {
            Self::Gateway => Self::Access,
            Self::Access => Self::Gateway,
        };
        text.trim_start().split_once('_').is_some_and(|(prefix, _)| prefix == other.prefix())
    }

    /// What is wrong with a source of keys of this kind that contains one of the other kind: a clause
    /// that follows the name of the source.
    pub const fn mismatch(self) -> &'static str {
        match self {
            Self::Gateway => {
                "contains an access token (gwa_…), but a gateway's key (gwk_…) is required"
            }
            Self::Access => {
                "contains a gateway's key (gwk_…), but an access token (gwa_…) is required"
            }
        }
    }
}

/// A new key. Its text is not available afterwards.
pub struct Issued {
    /// The public part.
    pub id: String,
    /// The whole key, to be shown once.
    pub key: SecretString,
    /// The SHA-256 of the whole key, which is stored.
    pub digest: [u8; 32],
}

/// A key in a request, well formed and with a correct checksum.
pub struct Presented {
    id: String,
    digest: [u8; 32],
}

/// A text that is not a key of the expected kind. The error does not contain the text, which may be
/// another secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a well-formed key")]
pub struct Malformed;

/// The operating system returned no random bytes.
#[derive(Debug, thiserror::Error)]
#[error("failed to get random bytes from the operating system: {0}")]
pub struct NoEntropy(String);

/// Generates a key or an access token. Its secret is in the result only; store the digest.
pub fn issue(kind: Kind) -> Result<Issued, NoEntropy> {
    let mut seed = [0_u8; 32];
    getrandom::fill(&mut seed).map_err(|error| NoEntropy(error.to_string()))?;
    issue_as(kind, id_of(&seed))
}

/// The public id that a seed determines. The same request always has the same id, so it can be
/// recognised when it is repeated.
pub fn id_of(seed: &[u8]) -> String {
    let mut id = base32(&Sha256::digest(seed)[..8]);
    id.truncate(ID_CHARS);
    id
}

/// Generates a key or an access token with an id from [`id_of`].
pub fn issue_as(kind: Kind, id: String) -> Result<Issued, NoEntropy> {
    let mut secret = [0_u8; SECRET_BYTES];
    getrandom::fill(&mut secret).map_err(|error| NoEntropy(error.to_string()))?;
    let secret = secret.as_slice();
    let mut body = secret.to_vec();
    body.extend_from_slice(&checksum(kind, &id, secret));
    let text = format!("{}_{id}_{}", kind.prefix(), base32(&body));
    let digest = digest(&text);
    Ok(Issued { id, key: SecretString::from(text), digest })
}

impl Presented {
    /// Parses a key. A wrong checksum is an error, so no lookup is needed for it.
    pub fn parse(kind: Kind, text: &str) -> Result<Self, Malformed> {
        let mut parts = text.split('_');
        let (Some(prefix), Some(id), Some(body), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Malformed);
        };
        let lower = |part: &str| part.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'2'..=b'7'));
        if prefix != kind.prefix()
            || id.len() != ID_CHARS
            || body.len() != SECRET_CHARS
            || !lower(id)
            || !lower(body)
        {
            return Err(Malformed);
        }
        let bytes =
            BASE32_NOPAD.decode(body.to_ascii_uppercase().as_bytes()).map_err(|_| Malformed)?;
        let (secret, sum) = bytes.split_at_checked(SECRET_BYTES).ok_or(Malformed)?;
        if !bool::from(checksum(kind, id, secret).as_slice().ct_eq(sum)) {
            return Err(Malformed);
        }
        Ok(Self { id: id.to_owned(), digest: digest(text) })
    }

    /// The public id, which may be logged.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The public id and the digest to store, for a key that was generated elsewhere.
    pub fn into_parts(self) -> (String, [u8; 32]) {
        (self.id, self.digest)
    }

    /// Compares with a stored digest, in constant time.
    pub fn matches(&self, stored: &[u8; 32]) -> bool {
        self.digest.ct_eq(stored).into()
    }
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued").field("id", &self.id).finish_non_exhaustive()
    }
}

impl fmt::Debug for Presented {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Presented").field("id", &self.id).finish_non_exhaustive()
    }
}

fn base32(bytes: &[u8]) -> String {
    BASE32_NOPAD.encode(bytes).to_ascii_lowercase()
}

fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

/// Detects typing errors and truncated copies without a query.
fn checksum(kind: Kind, id: &str, secret: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut hash = Sha256::new();
    hash.update(kind.prefix());
    hash.update(id);
    hash.update(secret);
    let whole: [u8; 32] = hash.finalize().into();
    [whole[0], whole[1], whole[2], whole[3]]
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn an_issued_key_is_recognised_and_no_other() {
        let one = issue(Kind::Gateway).unwrap();
        let other = issue(Kind::Gateway).unwrap();
        let presented = Presented::parse(Kind::Gateway, one.key.expose_secret()).unwrap();
        assert_eq!(presented.id(), one.id);
        assert!(presented.matches(&one.digest));
        assert!(!presented.matches(&other.digest));
    }

    #[test]
    fn a_key_with_any_character_changed_is_malformed_or_another() {
        let issued = issue(Kind::Access).unwrap();
        let text = issued.key.expose_secret();
        for at in 0..text.len() {
            let mut changed = text.to_owned().into_bytes();
            changed[at] = if changed[at] == b'a' { b'b' } else { b'a' };
            let changed = String::from_utf8(changed).unwrap();
            assert_eq!(Presented::parse(Kind::Access, &changed).err(), Some(Malformed), "{at}");
        }
    }

    #[test]
    fn kinds_cases_and_garbage_are_told_apart() {
        let issued = issue(Kind::Gateway).unwrap();
        let text = issued.key.expose_secret();
        assert!(Presented::parse(Kind::Access, text).is_err());
        assert!(Kind::Access.is_other(text) && !Kind::Gateway.is_other(text));
        assert!(!Kind::Access.is_other("gwk") && !Kind::Access.is_other("gwkx_"));
        assert!(Presented::parse(Kind::Gateway, &text.to_uppercase()).is_err());
        for garbage in ["", "gwk", "gwk__", "gwk_é_é", &text[..text.len() - 1]] {
            assert!(Presented::parse(Kind::Gateway, garbage).is_err(), "{garbage}");
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let issued = issue(Kind::Gateway).unwrap();
        let shown = format!("{issued:?}");
        let secret = issued.key.expose_secret().rsplit('_').next().unwrap();
        assert!(!shown.contains(secret));
    }
}
