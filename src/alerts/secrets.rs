//! Secrets of destinations: encrypted with AES-256-GCM under a key from a file, so that the database
//! alone, or a backup of it, opens none. What is encrypted is bound to its organisation and
//! destination, so that it can't be moved to another row.

use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, Aad, RandomizedNonceKey};
use aws_lc_rs::aead::{NONCE_LEN, Nonce};
use data_encoding::{BASE64, HEXLOWER};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use reqwest::Url;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::event::OrganisationKey;
use crate::files;
use crate::store::Sealed;

const KEY_BYTES: usize = 32;
/// The longest file that is read.
const MAX_FILE_BYTES: u64 = 4096;

/// Why secrets can't be encrypted or decrypted. No text contains a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretsError {
    /// No key is configured.
    #[error(
        "alerts.key_file is not set, and destinations have secrets that must be encrypted; create a key with `openssl rand -base64 32 > FILE`, and set alerts.key_file to it on each node"
    )]
    NoKey,
    /// The file can't be read.
    #[error("the file of alerts.key_file, {path}, can't be read: {why}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The error.
        why: String,
    },
    /// The file does not contain a key.
    #[error(
        "the file of alerts.key_file, {0}, must contain 32 bytes in Base64, as `openssl rand -base64 32` prints them"
    )]
    Malformed(PathBuf),
    /// Another key was used.
    #[error(
        "the secrets of this destination were encrypted with another key ({sealed_by}; alerts.key_file has {own}); restore that file, or set the destination's URL and secret again"
    )]
    OtherKey {
        /// Which key was used.
        sealed_by: String,
        /// The key in the file.
        own: String,
    },
    /// What is stored was changed.
    #[error("the secrets of this destination are damaged; set its URL and secret again")]
    Damaged,
    /// Encryption failed.
    #[error("failed to encrypt the secrets")]
    Failed,
}

/// What is secret about a destination.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secrets {
    /// Its URL: many have a token in their path.
    pub url: String,
    /// The signing key, a token or a password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

/// Parts of a secret that are shorter are too common to recognise.
const MIN_PART_BYTES: usize = 8;

impl Secrets {
    /// A text without the secrets and their parts, also in Base64 and percent-encoded. Servers repeat in
    /// their responses what they were sent: a path that they do not know, a token that they refuse.
    pub fn removed_from(&self, text: &str) -> String {
        let mut parts = self.parts();
        // Of two that overlap, the longer one is removed.
        parts.sort_by_key(|part| std::cmp::Reverse(part.len()));
        parts.iter().fold(text.to_owned(), |text, part| text.replace(part.as_str(), "…"))
    }

    fn parts(&self) -> Vec<String> {
        let mut parts = vec![self.url.clone()];
        if let Ok(url) = Url::parse(&self.url) {
            let path = url.path();
            // An Alertmanager is sent requests to a path below.
            if path.trim_matches('/').len() > 1 {
                parts.push(path.trim_end_matches('/').to_owned());
            }
            let long = |part: &&str| part.len() >= MIN_PART_BYTES;
            let own = path.split('/').chain(url.query()).chain(url.password());
            let values = url.query().into_iter().flat_map(|query| query.split(['&', '=']));
            parts.extend(own.chain(values).filter(long).map(str::to_owned));
        }
        for secret in self.secret.iter().filter(|secret| !secret.is_empty()) {
            parts.push(secret.clone());
            parts.extend(secret.strip_prefix("whsec_").map(str::to_owned));
        }
        let decoded: Vec<String> = parts
            .iter()
            .map(|part| percent_decode_str(part).decode_utf8_lossy().into_owned())
            .collect();
        let encoded: Vec<String> = parts
            .iter()
            .flat_map(|part| {
                let percent = utf8_percent_encode(part, NON_ALPHANUMERIC).to_string();
                [percent, BASE64.encode(part.as_bytes())]
            })
            .collect();
        parts.extend(decoded.into_iter().chain(encoded));
        parts.retain(|part| part.len() > 1);
        parts
    }
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secrets").finish_non_exhaustive()
    }
}

/// The key that encrypts secrets, or why there is none.
pub struct SecretKey {
    /// Identifies it. Its first bytes are those of a hash that nothing else is derived from.
    id: String,
    bytes: [u8; KEY_BYTES],
}

impl std::fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SecretKey").field("id", &self.id).finish_non_exhaustive()
    }
}

impl SecretKey {
    /// Reads the key. Warns if other users can read the file.
    pub fn read(path: &Path) -> Result<Self, SecretsError> {
        let unreadable = |error: std::io::Error| SecretsError::Unreadable {
            path: path.to_owned(),
            why: error.to_string(),
        };
        let length = std::fs::metadata(path).map_err(unreadable)?.len();
        if length > MAX_FILE_BYTES {
            return Err(SecretsError::Malformed(path.to_owned()));
        }
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        let bytes = BASE64.decode(text.trim().as_bytes()).ok();
        let bytes = bytes.and_then(|bytes| <[u8; KEY_BYTES]>::try_from(bytes).ok());
        let bytes = bytes.ok_or_else(|| SecretsError::Malformed(path.to_owned()))?;
        files::warn_if_exposed(path, "the key of alert destinations");
        Ok(Self::new(bytes))
    }

    fn new(bytes: [u8; KEY_BYTES]) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(b"gateway-events alerts key id");
        hasher.update(bytes);
        let digest = hasher.finalize();
        Self { id: HEXLOWER.encode(&digest[..6]), bytes }
    }

    /// Encrypts the secrets of a destination.
    pub fn seal(
        &self,
        organisation: OrganisationKey,
        destination: &str,
        secrets: &Secrets,
    ) -> Result<Sealed, SecretsError> {
        let mut bytes = serde_json::to_vec(secrets).map_err(|_| SecretsError::Failed)?;
        let aad = Aad::from(context(organisation, destination));
        let nonce = self
            .cipher()?
            .seal_in_place_append_tag(aad, &mut bytes)
            .map_err(|_| SecretsError::Failed)?;
        let mut sealed = nonce.as_ref().to_vec();
        sealed.append(&mut bytes);
        Ok(Sealed { bytes: sealed, by: self.id.clone() })
    }

    /// Decrypts the secrets of a destination.
    pub fn open(
        &self,
        organisation: OrganisationKey,
        destination: &str,
        sealed: &Sealed,
    ) -> Result<Secrets, SecretsError> {
        if sealed.by != self.id {
            return Err(SecretsError::OtherKey {
                sealed_by: sealed.by.clone(),
                own: self.id.clone(),
            });
        }
        let (nonce, rest) =
            sealed.bytes.split_at_checked(NONCE_LEN).ok_or(SecretsError::Damaged)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SecretsError::Damaged)?;
        let mut bytes = rest.to_vec();
        let aad = Aad::from(context(organisation, destination));
        let plain = self
            .cipher()?
            .open_in_place(nonce, aad, &mut bytes)
            .map_err(|_| SecretsError::Damaged)?;
        serde_json::from_slice(plain).map_err(|_| SecretsError::Damaged)
    }

    fn cipher(&self) -> Result<RandomizedNonceKey, SecretsError> {
        RandomizedNonceKey::new(&AES_256_GCM, &self.bytes).map_err(|_| SecretsError::Failed)
    }
}

/// What the ciphertext is bound to.
fn context(organisation: OrganisationKey, destination: &str) -> Vec<u8> {
    format!("{}/{destination}", organisation.0).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: OrganisationKey = OrganisationKey(1);

    fn secrets() -> Secrets {
        Secrets { url: "https://h.example/T0/secret-path".to_owned(), secret: Some("s".to_owned()) }
    }

    #[test]
    fn secrets_are_opened_with_the_same_key_at_the_same_place_only() {
        let key = SecretKey::new([7; KEY_BYTES]);
        let sealed = key.seal(ONE, "a", &secrets()).unwrap();
        assert_eq!(key.open(ONE, "a", &sealed).unwrap(), secrets());
        let shown = sealed.bytes.windows(6).any(|part| part == b"secret");
        assert!(!shown && !format!("{key:?}{sealed:?}{:?}", secrets()).contains("secret-path"));
        assert_ne!(key.seal(ONE, "a", &secrets()).unwrap().bytes, sealed.bytes, "another nonce");

        let damaged = Err(SecretsError::Damaged);
        assert_eq!(key.open(ONE, "b", &sealed), damaged, "another destination");
        assert_eq!(key.open(OrganisationKey(2), "a", &sealed), damaged, "another organisation");
        let mut changed = sealed.clone();
        changed.bytes[20] ^= 1;
        assert_eq!(key.open(ONE, "a", &changed), damaged);
        let cut = Sealed { bytes: sealed.bytes[..5].to_vec(), ..sealed.clone() };
        assert_eq!(key.open(ONE, "a", &cut), damaged);
        let other = SecretKey::new([8; KEY_BYTES]).open(ONE, "a", &sealed);
        assert!(matches!(other, Err(SecretsError::OtherKey { .. })), "{other:?}");
    }

    #[test]
    fn secrets_are_removed_from_what_a_server_repeats() {
        let secrets = Secrets {
            url: "https://h.example:8443/services/T0/B0/XyZ%20secret?key=0123456789".to_owned(),
            secret: Some("whsec_c2VjcmV0IGtleQ==".to_owned()),
        };
        for repeated in [
            "Cannot POST /services/T0/B0/XyZ%20secret",
            "no route for /services/T0/B0/XyZ secret",
            "https://h.example:8443/services/T0/B0/XyZ%20secret?key=0123456789 is unknown",
            "unknown key=0123456789",
            "unknown key: \"0123456789\"",
            "{\"path\":\"\\/services\\/T0\\/B0\\/XyZ%20secret\"}",
            "auth=Bearer whsec_c2VjcmV0IGtleQ==",
            "key c2VjcmV0IGtleQ==",
            "key d2hzZWNfYzJWamNtVjBJR3RsZVE9PQ==",
            "next=whsec%5Fc2VjcmV0IGtleQ%3D%3D",
        ] {
            let shown = secrets.removed_from(repeated);
            for part in ["XyZ", "0123456789", "c2Vj", "d2hz"] {
                assert!(!shown.contains(part), "{repeated}: {shown}");
            }
        }
        let ordinary = "500: the service at h.example:8443 is overloaded, T0";
        assert_eq!(secrets.removed_from(ordinary), ordinary);
        let plain = Secrets { url: "https://h.example/".to_owned(), secret: None };
        assert_eq!(plain.removed_from("Cannot POST / of h.example"), "Cannot POST / of h.example");
    }

    #[test]
    fn a_key_is_read_from_a_file_or_refused_by_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        let missing = SecretKey::read(&path).unwrap_err().to_string();
        assert!(missing.contains("alerts.key_file") && missing.contains("key"), "{missing}");
        for wrong in ["", "AAAA", &"A".repeat(5000), "not base64 at all"] {
            std::fs::write(&path, wrong).unwrap();
            let error = SecretKey::read(&path).unwrap_err();
            assert_eq!(error, SecretsError::Malformed(path.clone()), "{wrong:.10}");
        }
        std::fs::write(&path, BASE64.encode(&[7; KEY_BYTES]) + "\n").unwrap();
        let read = SecretKey::read(&path).unwrap();
        let sealed = SecretKey::new([7; KEY_BYTES]).seal(ONE, "a", &secrets()).unwrap();
        assert_eq!(read.open(ONE, "a", &sealed).unwrap(), secrets());
    }
}
