//! Values of attributes in HTTP headers (HTTP protocol binding, section 3.1.3.2).

use std::fmt::Write as _;

/// Why a header's value can't be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undecodable {
    /// A byte that no value may have.
    #[error("contains a character outside of printable ASCII; percent-encode it as UTF-8")]
    NotAscii,
    /// A quoted string without an end.
    #[error("has a quotation mark that is not closed; percent-encode it as %22")]
    OpenQuote,
    /// A percent sign that begins no code.
    #[error("has a `%` without two hexadecimal digits after it; percent-encode it as %25")]
    Percent,
    /// The decoded bytes are not UTF-8.
    #[error("is not UTF-8 after percent-decoding")]
    NotUtf8,
}

/// A value as its header has it: blanks, quotation marks, per cents and all but visible ASCII are
/// encoded.
pub fn encoded(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for byte in value.bytes() {
        if matches!(byte, 0x21..=0x7e) && !matches!(byte, b'"' | b'%') {
            text.push(char::from(byte));
        } else {
            _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

/// The value of a header: quoted strings are unescaped, then percent-encoding is decoded once.
pub fn decoded(value: &[u8]) -> Result<String, Undecodable> {
    let unquoted = unquoted(value)?;
    let mut bytes = Vec::with_capacity(unquoted.len());
    let mut rest = unquoted.iter();
    while let Some(byte) = rest.next() {
        if *byte != b'%' {
            bytes.push(*byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|digit| char::from(*digit).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else { return Err(Undecodable::Percent) };
        bytes.push(u8::try_from(high * 16 + low).unwrap_or_default());
    }
    String::from_utf8(bytes).map_err(|_| Undecodable::NotUtf8)
}

/// Without the quotation marks of quoted strings, and the backslashes in them (RFC 9110, section
/// 5.6.4). Earlier versions of the binding have required them around blanks.
fn unquoted(value: &[u8]) -> Result<Vec<u8>, Undecodable> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut is_quoted = false;
    let mut rest = value.iter();
    while let Some(byte) = rest.next() {
        match byte {
            b'"' => is_quoted = !is_quoted,
            b'\\' if is_quoted => bytes.push(*rest.next().ok_or(Undecodable::OpenQuote)?),
            0x20..=0x7e | b'\t' => bytes.push(*byte),
            _ => return Err(Undecodable::NotAscii),
        }
    }
    if is_quoted { Err(Undecodable::OpenQuote) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_encoded_as_the_binding_says() {
        // The binding's own example.
        assert_eq!(encoded("Euro € 😀"), "Euro%20%E2%82%AC%20%F0%9F%98%80");
        assert_eq!(encoded("a\"b%c\r\nd"), "a%22b%25c%0D%0Ad");
        assert_eq!(encoded("2026-01-31T09:30:00Z~!"), "2026-01-31T09:30:00Z~!");
    }

    #[test]
    fn values_are_decoded_as_the_binding_says() {
        for (value, text) in [
            (&b"Euro%20%E2%82%AC%20%F0%9F%98%80"[..], "Euro € 😀"),
            (b"%e2%82%ac", "€"),
            (b"%41%2525", "A%25"),
            (b"a b", "a b"),
            (br#""a \"b\" \\c""#, r#"a "b" \c"#),
            (b"", ""),
        ] {
            assert_eq!(decoded(value).as_deref(), Ok(text));
        }
        for (value, error) in [
            (&b"%C0%A0"[..], Undecodable::NotUtf8),
            (b"%E2%82", Undecodable::NotUtf8),
            (b"100%", Undecodable::Percent),
            (b"%zz", Undecodable::Percent),
            (b"\"a", Undecodable::OpenQuote),
            (b"\"a\\", Undecodable::OpenQuote),
            ("é".as_bytes(), Undecodable::NotAscii),
        ] {
            assert_eq!(decoded(value), Err(error), "{}", String::from_utf8_lossy(value));
        }
    }

    #[test]
    fn what_was_encoded_is_decoded() {
        let text: String = ('\u{0}'..'\u{300}').chain(['€', '😀']).collect();
        assert_eq!(decoded(encoded(&text).as_bytes()).as_ref(), Ok(&text));
    }
}
