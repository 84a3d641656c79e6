//! Signatures of webhooks, as Standard Webhooks 1.0 specifies them: HMAC-SHA256 of the message's id,
//! the time of the attempt and the body, in the header `webhook-signature`.

use aws_lc_rs::hmac;
use data_encoding::BASE64;

/// The prefix of a key in text form.
const PREFIX: &str = "whsec_";
/// The shortest and the longest key, in bytes.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// The length of generated keys.
const GENERATED_BYTES: usize = 32;

/// What a key must be.
pub(super) const KEY_RULE: &str = "must be `whsec_` and 24 to 64 bytes in Base64";

/// The bytes of a key; `None` if it is malformed.
pub(super) fn key(text: &str) -> Option<Vec<u8>> {
    let bytes = BASE64.decode(text.strip_prefix(PREFIX)?.as_bytes()).ok()?;
    KEY_BYTES.contains(&bytes.len()).then_some(bytes)
}

/// Generates a key. The error says why the operating system returned no random bytes.
pub(super) fn generate() -> Result<String, String> {
    let mut bytes = [0_u8; GENERATED_BYTES];
    getrandom::fill(&mut bytes).map_err(|error| error.to_string())?;
    Ok(format!("{PREFIX}{}", BASE64.encode(&bytes)))
}

/// The value of `webhook-signature`.
pub(super) fn sign(key: &[u8], id: &str, timestamp: i64, body: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    let tag = hmac::sign(&key, format!("{id}.{timestamp}.{body}").as_bytes());
    format!("v1,{}", BASE64.encode(tag.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The value was computed by another program.
    #[test]
    fn a_signature_covers_id_time_and_body() {
        let key = key("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD").unwrap();
        assert_eq!(key.len(), 24);
        let signed = sign(&key, "msg_1", 1_674_087_231, r#"{"a":1}"#);
        assert_eq!(signed, GOLDEN);
        assert_ne!(sign(&key, "msg_1", 1_674_087_232, r#"{"a":1}"#), signed);
    }

    const GOLDEN: &str = "v1,0KIkpuO19gebdSoOnaxvi2R6bE+QnoJ0HVw5TMgLRFc=";

    #[test]
    fn keys_have_a_prefix_and_a_length() {
        let generated = generate().unwrap();
        assert_eq!(key(&generated).unwrap().len(), GENERATED_BYTES);
        assert_ne!(generate().unwrap(), generated);
        for wrong in ["", "whsec_", "whsec_AAAA", "C2FVsBQIhrscChlQIMV+b5sSYspob7oD", "whsec_*"] {
            assert_eq!(key(wrong), None, "{wrong}");
        }
    }
}
